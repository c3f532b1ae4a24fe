#!/usr/bin/env python3
"""A mirror that works, one that sleeps 10 s before each answer, one that is dead: no client notices, no copy is miscounted.

Routes by path in one Weir: /plain has no mirror, the others do. Copies that arrived are counted in the mirror's own log.
Latencies are shown and not judged; memory under 1 MiB uploads is held to what copies may take. Full run: more rounds.
"""
import json
import re
import statistics
import subprocess
import sys
import threading
import time

import lib

SLEEPER = """
import asyncio, sys
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = [int(line[15:]) for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:")]
            left = length[0] if length else 0
            while left:
                left -= len(await reader.read(min(left, 65536)) or sys.exit("cut"))
            await asyncio.sleep(10)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    except (OSError, asyncio.IncompleteReadError, SystemExit):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()
asyncio.run(main())
"""
ROUTES = {"plain": None, "copied": ("working", "percent = 10"), "asleep": ("sleeper", ""), "dead": ("dead", ""),
          "up-plain": None, "up-copied": ("sleeper", 'max_body = "2MiB"'), "up-large": ("working", "")}
BUDGET = 8 << 20     # a worker's bytes of copies: limits::MIRROR_BYTES_PER_WORKER
SLACK = 24 << 20     # sockets' buffers and the allocator's own
UPLOAD = 1 << 20
OUTCOMES = ("answered", "failed", "too_large", "overload", "incomplete")


def start(binary):
    main = lib.nginx("main")
    log = f"{lib.folder()}/copies"
    open(log, "w").close()
    subprocess.run(["chmod", "-R", "a+rwX", log.rsplit("/", 1)[0]], check=True)
    working = lib.nginx("working", f"location /copied {{ access_log {log}; return 200; }}")
    sink = lib.nginx("sink", "location /up { client_body_buffer_size 2m; client_max_body_size 0; "
                             f"proxy_pass http://127.0.0.1:{main}/; }}")
    sleeper, dead = lib.free_port(), lib.free_port()
    lib.spawn([sys.executable, "-c", SLEEPER, str(sleeper)], f"{lib.folder()}/log")
    lib.until("the sleeper listens", lambda: lib.answers(sleeper))
    ports = {"working": working, "sleeper": sleeper, "dead": dead, "sink": sink}
    text = "".join(f'[pool.{name}]\ntargets = ["127.0.0.1:{port}"]\n' for name, port in ports.items())
    for route, mirror in ROUTES.items():
        pool = "sink" if route.startswith("up") else "main"
        text += f'[[route]]\nname = "{route}"\nmatch = {{ path = "/{route}" }}\nvariants = {{ only = "{pool}" }}\n'
        if mirror:
            text += f'mirror = {{ pool = "{mirror[0]}", timeout = "15s", {mirror[1]} }}\n'.replace(",  }", " }")
    weir = lib.Weir(binary, {"main": main}, {"main": 100}, text)
    return weir, log


def copies(weir, route):
    """By outcome, in the order of OUTCOMES."""
    lines = [line for line in weir.ask("GET", "/metrics")[2].splitlines() if line.startswith("weir_mirrored_total{")]
    mine = [line for line in lines if f'route="{route}"' in line]
    counts = {re.search(r'outcome="(\w+)"', line)[1]: int(float(line.rsplit(" ", 1)[1])) for line in mine}
    return [counts[outcome] for outcome in OUTCOMES]


def ended(weir, route, total):
    """The route's copies by outcome, when all of them are counted."""
    lib.until(f"the copies of {route} end", lambda: sum(copies(weir, route)) >= total, 40)
    return copies(weir, route)


def shares(weir, log, total):
    counts, _ = lib.wrk_exactly(weir.port, total, paths=("/copied",))
    lib.claim(counts == {("main", 200): total}, f"{total:,} clients got the main target's answer {counts}")
    lib.until("copies end", lambda: sum(copies(weir, "copied")) == sum(1 for _ in open(log)), 20)
    answered, *others = copies(weir, "copied")
    arrived = sum(1 for _ in open(log))
    lib.claim(answered == arrived and others == [0] * 4, f"{answered:,} copies counted, {arrived:,} in the mirror's log {others}")
    square = lib.chi_square([answered, total - answered], [total / 10, total * 9 / 10])
    lib.claim(square < 19.5, f"they are 10 % (chi-square {square:.2f}; above 19.5 once in a hundred thousand runs)")


def p99(weir, path, seconds):
    """(p50, p99) in microseconds over 16 connections, and the answers."""
    command = [lib.tool("wrk"), "-t1", "-c16", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{weir.port}/{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        lib.claim(False, f"wrk saw errors on /{path}:\n{text}")
    units = {"us": 1, "ms": 1e3, "s": 1e6}
    found = [re.search(rf"{part}%\s+([0-9.]+)(us|ms|s)", text) for part in (50, 99)]
    return *(float(of[1]) * units[of[2]] for of in found), int(re.search(r"(\d+) requests in", text)[1])


def latencies(weir, path, rounds, seconds):
    """Interleaved rounds beside a route without a mirror; then every request has a copy that is counted."""
    seen, sent = {"plain": [], path: []}, 0
    for turn in range(rounds + 1):
        for one in seen:
            p50, worst, requests = p99(weir, one, seconds)
            if turn:     # the first warms up
                seen[one].append((p50, worst))
            sent += requests if one == path else 0
    for one, of in seen.items():
        print(f"      /{one}: p50 {statistics.median(p for p, _ in of):.0f} µs, p99 {statistics.median(p for _, p in of):.0f} µs")
    ratios = sorted(mine[1] / plain[1] for mine, plain in zip(seen[path], seen["plain"]))
    print(f"      /{path}: p99 beside /plain {statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) in {rounds} rounds")
    # Copies that wait for the sleeper end after 10 s; wrk leaves without the last answers, which Weir has counted.
    total = all_requests_of(weir, path)
    counts = ended(weir, path, total)
    lib.claim(total >= sent and sum(counts) == total, f"/{path}: {total:,} requests, as many copies: {dict(zip(OUTCOMES, counts))}")
    return dict(zip(OUTCOMES, counts))


def requests_of(weir, route):
    return samples(weir, "weir_requests_total", route)


def all_requests_of(weir, route):
    """As many as there will be: wrk leaves while some are under way."""
    lib.until("no request is under way", lambda: samples(weir, "weir_requests_in_flight", route) == 0)
    return requests_of(weir, route)


def samples(weir, family, route):
    lines = weir.ask("GET", "/metrics")[2].splitlines()
    mine = [line for line in lines if line.startswith(family + "{") and f'route="{route}"' in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in mine)


def memory(weir, path, requests):
    """The most memory that Weir had while 1 MiB uploads went to the path, in bytes."""
    home, top, done = lib.folder(), [0], threading.Event()
    script = f"{home}/up.lua"
    with open(script, "w") as out:
        out.write(f'wrk.method = "POST"\nwrk.body = string.rep("x", {UPLOAD})\n')
    before = requests_of(weir, path)

    def watch():
        while not done.wait(0.02):
            status = open(f"/proc/{weir.process.pid}/status").read()
            top[0] = max(top[0], int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [lib.tool("wrk"), "-t1", "-c16", "-d60s", "--timeout", "30s", "-s", script, f"http://127.0.0.1:{weir.port}/{path}"]
    load = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lib._children.append(load)
    lib.until(f"{requests} uploads", lambda: requests_of(weir, path) - before >= requests, 60)
    load.send_signal(2)
    text = load.communicate(timeout=30)[0]
    done.set()
    watcher.join()
    lib.claim("Non-2xx" not in text and "Socket errors" not in text, f"/{path}: {requests_of(weir, path) - before:,} uploads of 1 MiB without an error")
    return top[0]


def uploads(weir, requests):
    workers = json.loads(weir.ask("GET", "/api/v1/stats")[2])["workers"]
    memory(weir, "up-plain", requests)
    without = memory(weir, "up-plain", requests)
    total = {}
    for path in ("up-large", "up-copied"):
        most = memory(weir, path, requests)
        bound = without + workers * BUDGET + SLACK
        lib.claim(most < bound, f"/{path}: {most >> 20} MiB at most, {without >> 20} without a mirror (bound {bound >> 20})")
        total[path] = all_requests_of(weir, path)
    # wrk leaves amid an upload: such a request has no whole body to copy.
    large = ended(weir, "up-large", total["up-large"])
    lib.claim(large == [0, 0, total["up-large"], 0, 0], f"bodies above max_body are counted, not sent: {large[2]:,}")
    counts = ended(weir, "up-copied", total["up-copied"])
    lib.claim(counts[3] > 0 and sum(counts) == total["up-copied"], f"beyond the budget copies are dropped: {dict(zip(OUTCOMES, counts))}")


def main():
    given = lib.arguments(__doc__)
    weir, log = start(given.binary)
    shares(weir, log, 20_000 if given.quick else 200_000)
    rounds, seconds = (3, 2) if given.quick else (9, 4)
    counts = latencies(weir, "asleep", rounds, seconds)
    lib.claim(counts["failed"] == counts["too_large"] == 0, "the sleeper answers what waits for it, the rest is dropped")
    counts = latencies(weir, "dead", rounds, seconds)
    lib.claim(counts["answered"] == counts["overload"] == 0, "for the dead one copies fail at once and pile up nowhere")
    uploads(weir, 300 if given.quick else 3_000)
    started = time.monotonic()
    p99(weir, "asleep", 1)
    weir.kill(lib.signal.SIGTERM)
    lib.claim(weir.process.returncode == 0, f"copies under way hold no drain: ended in {time.monotonic() - started - 1:.1f} s")


main()
