#!/usr/bin/env python3
"""Autobahn's WebSocket cases (package kosoku) against an echo server directly, and through Weir: Weir changes no
result.

The full run has all cases; `--quick` leaves out those that measure (9, 12, 13).
"""
import asyncio
import collections
import sys
import threading
import time

import kosoku
import websockets
import websockets.asyncio.server

import lib

QUICK = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]


def echo_server():
    ready, port = threading.Event(), []

    async def one(connection):
        try:
            async for message in connection:
                await connection.send(message)
        except websockets.ConnectionClosed:
            pass

    async def run():
        async with websockets.asyncio.server.serve(one, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
            port.append(server.sockets[0].getsockname()[1])
            ready.set()
            await asyncio.Future()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    ready.wait(10)
    return port[0]


def results(port, cases, way):
    """{case: verdicts on the exchange and on the close}."""
    async def run():
        return await kosoku.run_fuzzingclient(f"127.0.0.1:{port}", cases, None, concurrency=4)

    began = time.monotonic()
    try:
        done = asyncio.run(run())
    except kosoku.FailureError as failure:
        done = failure.results
    passed = sum(one.passed for one in done)
    verdicts = collections.Counter(one.behavior.value for one in done)
    print(f"      {way}: {passed} of {len(done)} pass in {time.monotonic() - began:.0f} s, {dict(verdicts)}", flush=True)
    return {one.case_id: (alike(one.behavior.value), one.behavior_close.value) for one in done}


def alike(verdict):
    """Autobahn passes both: NON-STRICT where the server closed before its echo went out. Which of the two it is depends on
    how much of the client's bytes the server reads at once, and changes from run to run without Weir, too."""
    return "OK" if verdict == "NON-STRICT" else verdict


def main():
    given = lib.arguments(__doc__)
    cases = QUICK if given.quick else None
    port = echo_server()
    weir = lib.Weir(given.binary, {"stable": port}, {"stable": 100})
    direct = results(port, cases, "direct")
    through = results(weir.port, cases, "through Weir")
    other = {case: (direct[case], through.get(case)) for case in direct if direct[case] != through.get(case)}
    lib.claim(direct and set(direct) == set(through), f"{len(direct)} cases ran both ways")
    lib.claim(not other, f"each has the same result through Weir as directly {other or ''}")


main()
sys.exit(0)
