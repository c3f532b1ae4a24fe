#!/usr/bin/env python3
"""All at once, for an hour: HTTP/1.1, TLS, HTTP/2, uploads and WebSockets, a change of weights each second, targets that
are killed in turn, a reload now and then. Nothing grows, and Weir's counters are the clients' to the last request.

After the first sixth memory and open files are as high as they get, and GETs never fail. `--minutes` is 60, `--quick` is
20 seconds.
"""
import asyncio
import json
import random
import re
import signal
import time

import h2.config
import h2.connection
import h2.events
import lib
import websockets.asyncio.client
import websockets.asyncio.server
from authority import Authority
from load import Load, get, post
from target import Target, flap

# What may come on top of what was seen before, in bytes and files; of twenty seconds, which end before all is in use.
MEMORY, FILES = 4 << 20, 32
QUICK = 8 << 20, 64
RETRY = 'retry = { attempts = 2, on = ["connect", "reset", "502", "503", "504"], methods = ["GET"], budget = "20%" }'
SOCKETS = 20


class Streams(asyncio.Protocol):
    """A connection of HTTP/2, ten requests at a time."""

    def __init__(self, load):
        self.load, self.numbers, self.answers = load, {}, {}
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))

    def connection_made(self, transport):
        self.transport = transport
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self.load.end("no h2")
        self.h2.initiate_connection()
        self.flush()
        for _ in range(10):
            self.load.free(self)

    def flush(self):
        self.transport.write(self.h2.data_to_send())

    def ask(self, number, path):
        stream = self.h2.get_next_available_stream_id()
        self.numbers[stream], self.answers[stream] = number, [{}, b""]
        self.h2.send_headers(stream, [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"),
                                      (":path", path), ("x-id", str(number))], end_stream=True)
        self.flush()

    def data_received(self, data):
        for event in self.h2.receive_data(data):
            stream = getattr(event, "stream_id", 0)
            if isinstance(event, h2.events.ResponseReceived):
                self.answers[stream][0] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.answers[stream][1] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.StreamReset):
                self.ended(stream, 0)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended(stream, int(self.answers[stream][0][":status"]))
        self.flush()

    def ended(self, stream, status):
        fields, body = self.answers.pop(stream)
        self.load.heard(self.numbers.pop(stream), status, fields.get("x-version"), b"", body)
        self.load.free(self)

    def under_way(self):
        return list(self.numbers.values())

    def connection_lost(self, _):
        self.load.lost(self)


class WebSockets:
    """So many at a time, each for a few messages; how many were opened, and how many answers were not the echo."""

    def __init__(self):
        self.opened, self.messages, self.wrong = 0, 0, 0

    async def listen(self):
        self.server = await websockets.asyncio.server.serve(self.echo, "127.0.0.1", 0, ping_interval=None)
        return self.server.sockets[0].getsockname()[1]

    async def echo(self, connection):
        async for message in connection:
            await connection.send(message)

    async def one(self, port, running):
        while running():
            url = f"ws://127.0.0.1:{port}/chat"
            async with websockets.asyncio.client.connect(url, ping_interval=None, compression=None) as connection:
                self.opened += 1
                for number in range(random.randrange(1, 12)):
                    text = f"{number}" * random.randrange(1, 2000)
                    await connection.send(text)
                    self.messages += 1
                    self.wrong += await asyncio.wait_for(connection.recv(), 20) != text
                    await asyncio.sleep(0.2)

    async def run(self, port, running):
        await asyncio.gather(*(self.one(port, running) for _ in range(SOCKETS)))


def configuration(authority, pools, chat):
    tls_port, lines = lib.https(authority)
    shares = 'variants = { stable = "stable", canary = "canary" }\nweights = { stable = 60, canary = 40 }\n'
    routes = "".join(f'[[route]]\nname = "{name}"\nmatch = {{ path = "/{name}" }}\n{shares}{more}\n'
                     for name, more in (("tls", RETRY), ("h2", RETRY), ("up", "")))
    return tls_port, f"""{RETRY}
{lines}
{routes}
[pool.chat]
targets = ["127.0.0.1:{chat}"]
[[route]]
name = "chat"
match = {{ path = "/chat" }}
variants = {{ only = "chat" }}
"""


async def every(seconds, running, work):
    """Calls `work`, which may block, again and again in a thread; how often it was called."""
    loop, calls, began = asyncio.get_running_loop(), 0, time.monotonic()
    while running():
        await asyncio.sleep(max(0, began + (calls + 1) * seconds - time.monotonic()))
        await loop.run_in_executor(None, work, calls)
        calls += 1
    return calls


def change(weir, number):
    for route in (lib.ROUTE, "h2", "up"):
        weights = {"weights": {"canary": 20 + number % 41}}
        status, _, text = weir.ask("PATCH", f"/api/v1/routes/{route}/weights", weights)
        lib.claim(status == 200, f"a change of {route}: {text}") if status != 200 else None


def reload(weir):
    status, _, text = weir.ask("POST", "/api/v1/reload")
    lib.claim(status == 200, f"a reload: {text}") if status != 200 else None


async def all_at_once(given, seconds):
    pools = {pool: [Target(pool) for _ in range(2)] for pool in ("stable", "canary")}
    authority, sockets = Authority(lib.folder()), WebSockets()
    context = authority.context()
    both = authority.context()
    both.set_alpn_protocols(["h2"])
    tls_port, lines = configuration(authority, pools, await sockets.listen())
    ports = {pool: [target.port for target in targets] for pool, targets in pools.items()}
    weir = lib.Weir(given.binary, ports, {"stable": 60, "canary": 40}, lines)
    lengths = [random.randrange(1, 300_000) for _ in range(1000)]
    wrong, samples, kills = [], [], []
    scale = given.rate / 520
    loads = {
        lib.ROUTE: Load(weir.port, 300 * scale, float("inf"), get, connections=32),
        "tls": Load(tls_port, 100 * scale, float("inf"), lambda number: get(number, "/tls"), connections=16, context=context),
        "h2": Load(tls_port, 100 * scale, float("inf"), lambda number: "/h2", connections=4, context=both, kind=Streams),
        "up": Load(weir.port, 20 * scale, float("inf"), lambda number: post(number, lengths[number % 1000], "/up"), connections=8),
    }

    def look(number, status, head, body):
        if status == 200 and int(re.search(rb";(\d+);", body)[1]) != lengths[number % 1000]:
            wrong.append(number)

    loads["up"].look = look
    began = time.monotonic()
    running = lambda: time.monotonic() - began < seconds
    targets = [target for pair in zip(*pools.values()) for target in pair]
    flapping = asyncio.ensure_future(flap(targets, *((1.0, 0.5) if given.quick else (3.0, 1.0)), kills.append))
    working = [asyncio.ensure_future(load.run()) for load in loads.values()]
    others = asyncio.gather(
        every(1, running, lambda number: change(weir, number)),
        every(4 if given.quick else 20, running, lambda _: reload(weir)),
        every(0.5 if given.quick else 2, running, lambda _: samples.append((time.monotonic() - began, *weir.memory()))),
        sockets.run(weir.port, running))
    await asyncio.wait([flapping, *working, asyncio.ensure_future(wait_for(others))], return_when=asyncio.FIRST_COMPLETED)
    changes, reloads, *_ = await others
    for load in loads.values():
        load.stop()
    await asyncio.gather(*working)
    flapping.cancel()
    at_rest = lambda: weir.metric("weir_requests_in_flight") == weir.metric("weir_tunnels_open") == 0
    await asyncio.get_running_loop().run_in_executor(None, lib.until, "all is counted", at_rest)
    lib.claim(len(kills) >= len(targets), f"{seconds:,} seconds with {changes:,} changes of each of three routes' weights, "
              f"{reloads} reloads and {len(kills)} kills")
    lib.claim(not wrong, "uploads came whole")
    return weir, loads, sockets, samples, changes


async def wait_for(others):
    return await others


def compare(weir, loads, sockets, changes):
    text = weir.ask("GET", "/metrics")[2]
    counted = {}
    for line in re.findall(r"^weir_requests_total\{.*", text, re.M):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        key = labels["route"], labels["variant"], labels["code"]
        counted[key] = counted.get(key, 0) + int(float(line.rsplit(" ", 1)[1]))
    for route, load in loads.items():
        own = {key[1:]: number for key, number in counted.items() if key[0] == route and number}
        good = {variant: load.counts[(variant, 200)] for variant in ("stable", "canary")}
        lib.claim(sum(own.values()) == load.done == load.sent, f"{route}: {load.done:,} requests by both counts, "
                  f"{load.sent / load.took:.0f} a second, the slowest {load.slowest * 1000:.0f} ms")
        lib.claim({variant: own.get((variant, "2xx"), 0) for variant in good} == good, f"{route}: good by both: {good}")
        bad = load.done - sum(good.values())
        rest = {key: number for key, number in own.items() if key[1] != "2xx"}
        lib.claim(sum(rest.values()) == bad, f"{route}: {bad} failed, Weir counted {rest}")
        if route != "up":
            lib.claim(bad == 0, f"{route}: no GET fails")
    lib.claim(counted.get(("chat", "only", "1xx")) == sockets.opened and sockets.opened >= SOCKETS and not sockets.wrong,
              f"chat: {sockets.opened:,} WebSockets by both counts, {sockets.messages:,} messages came back")
    others = {key: number for key, number in counted.items() if key[0] == "chat" and number and key[2] != "1xx"}
    lib.claim(not others and weir.metric("weir_unrouted_requests_total") == 0, "and nothing else")
    for route in (lib.ROUTE, "h2", "up"):
        generation = json.loads(weir.ask("GET", f"/api/v1/routes/{route}")[2])["generation"]
        lib.claim(generation == changes + 1, f"{route}: generation {generation} after {changes} changes")


def flat(samples, seconds, memory, files):
    """The last third is no higher than the time from the first sixth to the half."""
    for column, name, unit, bound in ((1, "MiB of memory", 1 << 20, memory), (2, "open files", 1, files)):
        early = max(sample[column] for sample in samples if seconds / 6 <= sample[0] < seconds / 2)
        late = max(sample[column] for sample in samples if sample[0] >= seconds * 2 / 3)
        first = max(sample[column] for sample in samples if sample[0] < seconds / 6)
        lib.claim(late <= early + bound, f"{name}: {first / unit:.1f} at most in the first sixth, {early / unit:.1f} from "
                  f"there to the half, {late / unit:.1f} in the last third")


def main():
    given = lib.arguments(__doc__, minutes=(float, 60.0, "how long"), rate=(int, 520, "requests a second, all together"))
    seconds = 20 if given.quick else given.minutes * 60
    weir, loads, sockets, samples, changes = asyncio.run(all_at_once(given, seconds))
    compare(weir, loads, sockets, changes)
    flat(samples, seconds, *(QUICK if given.quick else (MEMORY, FILES)))
    weir.kill(signal.SIGTERM)
    lib.claim(weir.process.returncode == 0 and "panic" not in weir.log(), "Weir ends in order")


main()
