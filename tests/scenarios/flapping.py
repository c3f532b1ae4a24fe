#!/usr/bin/env python3
"""Targets are killed (kill -9) and started again, one after the other, under 2,000 requests a second, two to a pool.

With `retry` no GET fails. Without it those fail that were under way at the target that was killed, and no other. The
client's counts, Weir's and the targets' own lists of what they received are compared, request by request. Full run:
five minutes with `retry` and two without; --quick: nine seconds and five.
"""
import asyncio
import collections

import lib
from load import Load
from target import Target, flap

RATE = 2000
RETRY = 'retry = { attempts = 2, on = ["connect", "reset", "502", "503", "504"], methods = ["GET"], budget = "20%" }'


class Kill:
    """`outstanding`: the numbers of the requests that had no answer when `target` was killed."""

    def __init__(self, target, outstanding):
        self.target, self.outstanding = target, outstanding


async def scene(load, targets, up, down):
    kills = []
    # This process sends nothing until the target is gone: what it kills is what is outstanding.
    flapping = asyncio.ensure_future(flap(targets, up, down, lambda target: kills.append(Kill(target, load.outstanding()))))
    running = asyncio.ensure_future(load.run())
    await asyncio.wait([flapping, running], return_when=asyncio.FIRST_COMPLETED)
    flapping.cancel()
    await running
    return kills


def run(given, route_lines, seconds, up, down):
    pools = {pool: [Target(pool) for _ in range(2)] for pool in ("stable", "canary")}
    ports = {pool: [target.port for target in targets] for pool, targets in pools.items()}
    weir = lib.Weir(given.binary, ports, {"stable": 60, "canary": 40}, route_lines)
    load = Load(weir.port, RATE, RATE * seconds)
    targets = [target for pair in zip(*pools.values()) for target in pair]
    kills = asyncio.run(scene(load, targets, up, down))
    lib.until("the last request is counted", lambda: weir.metric("weir_requests_in_flight") == 0)
    rate = load.total / load.took
    # The rate is of the full run; a quick one takes the time that it needs.
    lib.claim(len(kills) >= len(targets) and (given.quick or rate > RATE * 0.9), f"{load.total:,} requests, {rate:,.0f} a "
              f"second, {len(kills)} kills of {len(targets)} targets; the slowest answer took {load.slowest * 1000:.0f} ms")
    received = {target: collections.Counter(number for number, _ in target.received()) for target in targets}
    compare(weir, load, received)
    for target in targets:
        target.kill()
    return weir, load, kills, received


def compare(weir, load, received):
    """What the client counted, what Weir counted, and what the targets received."""
    counted, seen = weir.counts(), load.counts
    good = {variant: seen[(variant, 200)] for variant in ("stable", "canary")}
    lib.claim({variant: counted.get((variant, "2xx")) for variant in good} == good,
              f"Weir counted the good answers of each variant as the client did: {good}")
    lib.claim(sum(counted.values()) == load.total, f"and {sum(counted.values()):,} requests in all: {counted}")
    sendings, retries = sum(sum(each.values()) for each in received.values()), int(weir.metric("weir_retries_total"))
    once = set().union(*received.values())
    lib.claim(sendings - len(once) <= retries, f"targets received {sendings - len(once):,} requests once more; "
              f"Weir sent {retries:,} once more")
    lib.claim(sendings <= load.total + retries, f"and {sendings:,} in all, no more than were sent")
    missing = [number for number in range(load.total) if str(number) not in once and number not in load.failures]
    lib.claim(not missing, "each request with a good answer was received by a target")


def main():
    given = lib.arguments(__doc__, seconds=(int, 0, "of the run with retries; the other takes two fifths of it"))
    seconds = given.seconds or (9 if given.quick else 300)
    # Quick: as many kills as fit into it.
    up, down = (0.9, 0.8) if given.quick else (1.5, 1.5)

    weir, load, kills, received = run(given, RETRY, seconds, up, down)
    lib.claim(not load.failures and not load.reopened, f"with retries: no GET of {load.total:,} failed {load.failures}")
    retries = int(weir.metric("weir_retries_total"))
    lib.claim(retries > 0, f"and {retries:,} were sent once more")
    weir.kill()

    up, down = (0.4, 0.3) if given.quick else (1.5, 1.5)
    weir, load, kills, received = run(given, "", max(5, seconds * 2 // 5), up, down)
    failed = set(load.failures)
    under_way = set().union(*(kill.outstanding for kill in kills))
    lib.claim(len(failed) > 0, f"without: {len(failed)} of {load.total:,} failed; {len(under_way)} had no answer when a "
              "target was killed")
    lib.claim(failed <= under_way, f"and none that came before or after {sorted(failed - under_way)[:9]}")
    astray = [number for kill in kills for number in kill.outstanding & failed
              for target, numbers in received.items() if target is not kill.target and str(number) in numbers]
    lib.claim(not astray, f"none of them had gone to a target that was alive {astray[:9]}")
    lib.claim(set(load.failures.values()) == {502}, "all of them were answered 502")
    reset = int(weir.metric("weir_request_errors_total", reason="reset"))
    errors = int(weir.metric("weir_request_errors_total"))
    bad = sum(number for (_, code), number in weir.counts().items() if code == "5xx")
    lib.claim(reset == errors == bad == len(failed), f"which Weir counted as {bad} with 5xx, {reset} for the reason reset")


main()
