#!/usr/bin/env python3
"""A canary that answers 500 to everything, that resets, that hangs, that is not there: with rescue no client sees an
error, the canary's counters are exact, and no POST is sent twice.

Four times 100,000 GETs with the canary at 15 %; --quick sends 6,000, and 1,500 to the one that hangs. POSTs carry ids,
which both upstreams keep; some go to a canary that closes kept connections when it likes.
"""
import asyncio
import re
import socket
import struct

import lib
from load import Load, get, post

ROUTE_LINES = """timeout = "1s"
rescue = { on = ["connect", "reset", "timeout", "5xx"], budget = "30%", header = "x-weir-rescued" }"""
REASONS = {"500": None, "reset": "reset", "hang": "timeout", "dead": "connect"}


class Served(asyncio.Protocol):
    def __init__(self, upstream):
        self.upstream, self.buffer = upstream, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.I)
        if end and len(body) >= (int(length[1]) if length else 0):
            self.buffer = b""
            self.upstream.asked(self.transport, head)


class Upstream:
    """Keeps the ids of GETs and POSTs, and does what `fault` says."""

    def __init__(self, name, fault=None):
        self.name, self.fault, self.gets, self.posts = name, fault, [], []

    async def listen(self):
        if self.fault == "dead":
            self.port = lib.free_port()
            return
        server = await asyncio.get_running_loop().create_server(lambda: Served(self), "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]

    def asked(self, transport, head):
        number = int(re.search(rb"x-id: *(\d+)", head, re.I)[1])
        (self.gets if head.startswith(b"GET") else self.posts).append(number)
        if self.fault == "reset":
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
        elif self.fault != "hang":
            status, body = b"500 Broken" if self.fault == "500" else b"200 OK", self.name.encode()
            transport.write(b"HTTP/1.1 %s\r\nX-Version: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, body, len(body), body))
        if self.fault == "closes":
            asyncio.get_running_loop().call_later(0.001, transport.close)


async def at_rest(weir):
    """All requests are counted; the upstreams, in this loop, go on meanwhile."""
    loop = asyncio.get_running_loop()
    ask = lambda: weir.metric("weir_requests_in_flight") == 0
    await loop.run_in_executor(None, lib.until, "the last request is counted", ask)


async def fault_of(given, fault, total, posts):
    # Anew each time: no connection was kept from the time when the canary failed otherwise.
    stable, canary = Upstream("stable"), Upstream("canary", fault)
    await stable.listen()
    await canary.listen()
    ports, weights = {"stable": stable.port, "canary": canary.port}, {"stable": 85, "canary": 15}
    weir = lib.Weir(given.binary, ports, weights, ROUTE_LINES)
    rescued = 0

    def look(number, status, head, body):
        nonlocal rescued
        rescued += re.search(rb"\r\nx-weir-rescued: *canary", head, re.I) is not None

    many = 256 if fault == "hang" else 48
    load = Load(weir.port, 5000, total, get, connections=many)
    load.look = look
    await load.run()
    await at_rest(weir)
    lib.claim(load.counts == {("stable", 200): total}, f"{fault}: {total:,} GETs within {load.took:.0f} s, all answered "
              f"by the baseline: {dict(load.counts)}")
    lib.claim(sorted(stable.gets) == list(range(total)), f"{fault}: which had each once")
    lib.claim(rescued > total * 0.1, f"{fault}: {rescued:,} answers say that the canary had failed them")
    if fault != "dead":
        lib.claim(len(canary.gets) == len(set(canary.gets)) == rescued, f"{fault}: the canary had these, each once")
    exact = {("stable", "2xx"): total - rescued, ("canary", "5xx"): rescued}
    lib.claim(weir.counts() == exact, f"{fault}: Weir counted {weir.counts()}")
    lib.claim(weir.metric("weir_rescued_total") == rescued, f"{fault}: and as many rescued")
    blamed = {} if not REASONS[fault] else {REASONS[fault]: rescued}
    lib.claim(reasons(weir, "canary") == blamed and not reasons(weir, "stable"), f"{fault}: for the reasons {blamed}")

    before = weir.counts()
    load = Load(weir.port, 2000, posts, lambda number: post(number, 2), connections=48)
    await load.run()
    await at_rest(weir)
    taken = stable.posts + canary.posts
    if fault == "dead":
        # Nothing was sent of them: they may be, and are, answered by the baseline.
        lib.claim(sorted(taken) == list(range(posts)) and not load.failures, f"{fault}: {posts} POSTs were sent once")
    else:
        lib.claim(sorted(taken) == list(range(posts)), f"{fault}: each of {posts} POSTs was sent once")
        lib.claim(set(load.failures) == set(canary.posts) and canary.posts, f"{fault}: the {len(canary.posts)} of them "
                  f"that the canary had failed, with {set(load.failures.values())}")
        more = {key: number - before.get(key, 0) for key, number in weir.counts().items()}
        exact = {("stable", "2xx"): len(stable.posts), ("canary", "5xx"): len(canary.posts)}
        lib.claim(more == exact, f"{fault}: and Weir counted {more}")
    lib.claim(weir.metric("weir_retries_total") == 0, f"{fault}: nothing was retried")
    weir.kill()


def reasons(weir, variant):
    names = ("connect", "reset", "timeout", "bad_response", "no_target", "queue", "client_abort")
    found = {name: weir.metric("weir_request_errors_total", variant=variant, reason=name) for name in names}
    return {name: number for name, number in found.items() if number}


async def closes(given, posts):
    """POSTs to a canary that closes each connection a millisecond after an answer."""
    stable, canary = Upstream("stable"), Upstream("canary", "closes")
    await stable.listen()
    await canary.listen()
    ports = {"stable": stable.port, "canary": canary.port}
    weir = lib.Weir(given.binary, ports, {"stable": 50, "canary": 50}, ROUTE_LINES)
    load = Load(weir.port, 2000, posts, lambda number: post(number, 2), connections=16)
    await load.run()
    await at_rest(weir)
    taken = stable.posts + canary.posts
    lib.claim(len(taken) == len(set(taken)), f"closes: of {posts:,} POSTs none was sent twice")
    answered = set(range(posts)) - set(load.failures)
    lib.claim(answered <= set(taken), f"closes: all but {len(load.failures)} were answered well: {dict(load.counts)}")
    counted = weir.counts()
    failed = sum(number for (_, code), number in counted.items() if code == "5xx")
    lib.claim(failed == len(load.failures) and sum(counted.values()) == posts, f"closes: and Weir counted {counted}")
    weir.kill()


def main():
    given = lib.arguments(__doc__)
    for fault in REASONS:
        total = 100_000 if not given.quick else 1_500 if fault == "hang" else 6_000
        asyncio.run(fault_of(given, fault, total, 400 if given.quick else 2_000))
    asyncio.run(closes(given, 2_000 if given.quick else 20_000))


main()
