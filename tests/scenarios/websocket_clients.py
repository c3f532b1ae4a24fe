#!/usr/bin/env python3
"""WebSockets by the package websockets through Weir, over TLS and without, and over HTTP/2 (extended CONNECT).

Echo, ping and pong, close codes both ways, messages of 1 MiB, in fragments and compressed, half-close, the idle
time-out; many at once; then a weight is moved on a route that closes who moved: Close 1001, and the next connection is
the other version's.
"""
import asyncio
import collections
import os
import random
import socket
import sys
import threading
import time

import websockets
import websockets.asyncio.client
import websockets.asyncio.server
from websockets.frames import Frame, Opcode

import h2client
import lib
from authority import Authority

MIB = 1 << 20


class Echo:
    """A server that says who it is, echoes, and closes as it is asked."""

    def __init__(self, version):
        self.version, self.closes, self.open, self.pings = version, collections.Counter(), 0, 0
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.run(ready)), daemon=True).start()
        ready.wait(10)

    async def run(self, ready):
        async with websockets.asyncio.server.serve(self.one, "127.0.0.1", 0, max_size=None, ping_interval=None, backlog=1024) as server:
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await asyncio.Future()

    async def one(self, connection):
        self.open += 1
        try:
            async for message in connection:
                if message == "who":
                    await connection.send(self.version)
                elif message == "ping":
                    await (await connection.ping(b"are you there"))
                    await connection.send("pong came")
                elif isinstance(message, str) and message.startswith("close "):
                    await connection.close(int(message[6:]), "as asked")
                elif message == "parts":
                    await connection.send([b"x" * 1000] * 50)
                else:
                    await connection.send(message)
        except websockets.ConnectionClosed:
            pass
        finally:
            self.open -= 1
            self.closes[connection.close_code] += 1


class HalfClosing:
    """Switches to a protocol of its own, reads to the end, and says only then what came."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            client = self.socket.accept()[0]
            client.settimeout(20)
            head = b""
            while b"\r\n\r\n" not in head:
                part = client.recv(65536)
                if not part:
                    break
                head += part
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n")
            got = head.partition(b"\r\n\r\n")[2]
            while part := client.recv(65536):
                got += part
            client.sendall(b"got %d" % len(got))
            client.close()


def connect(port, context=None, path="/", **options):
    scheme, more = ("wss", {"ssl": context}) if context else ("ws", {})
    options = {"max_size": None, "ping_interval": None, "open_timeout": 20, **options}
    return websockets.asyncio.client.connect(f"{scheme}://localhost:{port}{path}", **more, **options)


async def closed(connection):
    """How the connection ended: the code that came."""
    try:
        while True:
            await asyncio.wait_for(connection.recv(), 20)
    except websockets.ConnectionClosed:
        return connection.close_code


async def basics(port, context, echo, way):
    async with connect(port, context) as one:
        await one.send("h\u00e9llo")
        await one.send(b"\x00\xff")
        lib.claim((await one.recv(), await one.recv()) == ("h\u00e9llo", b"\x00\xff"), f"{way}: text and bytes come back")
        await asyncio.wait_for(await one.ping(b"x"), 10)
        await one.send("ping")
        lib.claim(await one.recv() == "pong came", f"{way}: ping and pong, both ways")
        await one.send([b"a" * 3000, b"b" * 70_000, b"", b"c"])
        lib.claim(await one.recv() == b"a" * 3000 + b"b" * 70_000 + b"c", f"{way}: a message in fragments")
        await one.send("parts")
        lib.claim(await one.recv() == b"x" * 50_000, f"{way}: an answer in fragments")
    for compression in ("deflate", None):
        async with connect(port, context, compression=compression) as one:
            agreed = "permessage-deflate" in one.response.headers.get("Sec-WebSocket-Extensions", "")
            big = random.randbytes(MIB), b"weir " * (MIB // 5)
            for message in big:
                await one.send(message)
                if await one.recv() != message:
                    lib.claim(False, f"{way}: 1 MiB")
            lib.claim(agreed == (compression is not None), f"{way}: messages of 1 MiB, compression: {compression}")
    for code in (1000, 1001, 1011, 3000, 4999):
        before = echo.closes[code]
        one = await connect(port, context)
        await one.close(code, "bye")
        lib.claim(await asyncio.to_thread(lib.until, "the target has the close", lambda: echo.closes[code] > before),
                  f"{way}: close {code} by the client")
        one = await connect(port, context)
        await one.send(f"close {code}")
        lib.claim(await closed(one) == code and one.close_reason == "as asked", f"{way}: close {code} by the target")
    one = await connect(port, context)
    one.transport.abort()
    lib.until("the target sees the end", lambda: echo.open == 0)
    lib.claim(True, f"{way}: a client that is gone is gone for the target")


async def many(port, context, echo, count, way):
    open_at_once = 0

    async def talk(number):
        nonlocal open_at_once
        async with connect(port, context, compression=None) as one:
            for turn in range(20):
                await one.send(f"{number} {turn}")
                if await one.recv() != f"{number} {turn}":
                    return False
                open_at_once = max(open_at_once, echo.open)
                await asyncio.sleep(0.05)
        return True

    right = sum(await asyncio.gather(*(talk(number) for number in range(count))))
    lib.claim(right == count, f"{way}: {count} connections, {open_at_once} at once, each with its own messages")


def half_close(port, context, way):
    """With TLS, the end of one direction is its closing alert; Python's ssl knows only both."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(b"GET /own HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: own\r\n\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(65536)
    client.sendall(b"x" * 100_000)
    client.shutdown(socket.SHUT_WR)
    rest = head.partition(b"\r\n\r\n")[2]
    while part := client.recv(65536):
        rest += part
    lib.claim(rest == b"got 100000", f"{way}: what comes after one side has ended: {rest}")


def over_http2(port, context, way):
    """RFC 8441: one connection, several WebSockets and a request beside them."""
    client = h2client.Client(port, context)
    client.until(lambda: client.h2.remote_settings.enable_connect_protocol == 1)
    fields = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", "localhost"),
              (":path", "/"), ("sec-websocket-version", "13")]
    streams = [client.begin(fields, ended=False) for _ in range(3)]
    for stream in streams:
        client.until(lambda: client.answers[stream].status)
    lib.claim(all(client.answers[stream].status == 200 for stream in streams), f"{way}: three over one HTTP/2 connection")
    for number, stream in enumerate(streams):
        client.send(stream, Frame(Opcode.TEXT, b"number %d" % number).serialize(mask=True))
    for number, stream in enumerate(streams):
        client.until(lambda: client.answers[stream].body)
        if client.answers[stream].body != Frame(Opcode.TEXT, b"number %d" % number).serialize(mask=False):
            lib.claim(False, f"{way}: stream {stream} got {client.answers[stream].body}")
    lib.claim(True, f"{way}: each has its own echo")
    client.send(streams[0], Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
    answer = client.answer(streams[0])
    lib.claim(answer.ended and answer.body.endswith(b"\x88\x02\x03\xe8"), f"{way}: a close ends its stream alone")
    client.send(streams[1], Frame(Opcode.TEXT, b"still").serialize(mask=True))
    client.until(lambda: b"still" in client.answers[streams[1]].body)
    lib.claim(True, f"{way}: the others go on")
    client.close()


async def moved(weir, echoes, count):
    """Weights move: who must go gets Close 1001, and comes back to the other version."""
    async def who(one):
        await one.send("who")
        return await asyncio.wait_for(one.recv(), 20)

    weir.shift(stable=50, canary=50)
    connections = await asyncio.gather(*(connect(weir.port, compression=None, ping_interval=1) for _ in range(count)))
    versions = await asyncio.gather(*map(who, connections))
    on_canary = [one for one, version in zip(connections, versions) if version == "canary"]
    on_stable = [one for one, version in zip(connections, versions) if version == "stable"]
    lib.claim(len(on_canary) > count / 4 and len(on_stable) > count / 4,
              f"{count} connections: {len(on_stable)} on stable, {len(on_canary)} on canary")
    began, ends = time.monotonic(), []

    async def watch(one):
        code = await closed(one)
        ends.append(time.monotonic() - began)
        return code

    watching = asyncio.gather(*map(watch, on_canary))
    weir.shift(stable=100, canary=0)
    codes = collections.Counter(await asyncio.wait_for(watching, 30))
    lib.claim(codes == {1001: len(on_canary)}, f"a rollback closes all of the canary's with 1001: {dict(codes)}")
    lib.claim(max(ends) < 5 and max(ends) - min(ends) > 0.5,
              f"spread over the time that they have: {min(ends):.1f} s to {max(ends):.1f} s")
    lib.until("the canary is empty", lambda: echoes["canary"].open == 0)
    again = await asyncio.gather(*(connect(weir.port, compression=None) for _ in range(20)))
    lib.claim(set(await asyncio.gather(*map(who, again))) == {"stable"}, "who comes back gets the other version")
    lib.claim(set(await asyncio.gather(*map(who, on_stable))) == {"stable"}, "the others have stayed")
    await asyncio.gather(*(one.close() for one in again + on_stable))


async def idle(port, echo):
    one = await connect(port)
    began = time.monotonic()
    await closed(one)
    took = time.monotonic() - began
    lib.claim(3.9 < took < 6, f"without a byte for 4 s it is closed, after {took:.1f} s")
    lib.until("the target's end, too", lambda: echo.open == 0)


def main():
    given = lib.arguments(__doc__)
    count = 200 if given.quick else 1000
    authority, echoes, own = Authority(lib.folder()), {name: Echo(name) for name in ("stable", "canary")}, HalfClosing()
    port, listener = lib.https(authority)
    extra = f"""
on_move = {{ close_within = "3s" }}
[[route]]
name = "own"
match = {{ path = "/own" }}
variants = {{ stable = "own" }}
[pool.own]
targets = ["127.0.0.1:{own.port}"]
[limits]
tunnel_idle_timeout = "4s"
{listener}"""
    weir = lib.Weir(given.binary, {name: echo.port for name, echo in echoes.items()}, {"stable": 100, "canary": 0},
                    extra, {name: "max_connections = 10000" for name in echoes})
    context = authority.context()
    for way, place in (("plain", (weir.port, None)), ("TLS", (port, context))):
        asyncio.run(basics(*place, echoes["stable"], way))
        asyncio.run(many(*place, echoes["stable"], count, way))
        over_http2(place[0], authority.context() if place[1] else None, f"{way}, HTTP/2")
    half_close(weir.port, None, "plain")
    lib.until("no tunnel is counted", lambda: weir.metric("weir_tunnels_open") == 0)
    asyncio.run(idle(weir.port, echoes["stable"]))
    asyncio.run(moved(weir, echoes, 100))
    lib.until("no tunnel is left", lambda: weir.metric("weir_tunnels_open") == 0)
    lib.claim(weir.metric("weir_requests_in_flight") == 0, "nothing is left under way")


main()
sys.stdout.flush()
# The echo servers' threads wait for connections and nothing else.
lib._clean()
os._exit(0)
