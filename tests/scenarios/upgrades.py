#!/usr/bin/env python3
"""Upgrades and reloads in turn under wrk with 64 connections and open WebSockets: no request refused, reset or lost.

wrk's errors, the targets' own counts of requests and what each process says at its end are compared. WebSockets stay
with the process that took them and are answered after every step. Then the same with a `drain_timeout` of 4 s: they end
as their policy says, with Close 1001 before the deadline. Quick: 5 upgrades, 5 reloads, 20 WebSockets; full: 100, 100, 200.
"""
import asyncio
import os
import re
import signal
import subprocess
import threading
import time

import lib
import websockets.asyncio.client
import websockets.asyncio.server

WEBSOCKET_ROUTE = """
[[route]]
name = "chat"
match = { path = "/chat" }
variants = { stable = "chat" }
"""


class Server:
    """Echoes WebSockets."""

    def __init__(self):
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.run(ready)), daemon=True).start()
        ready.wait(10)

    async def run(self, ready):
        async def echo(connection):
            try:
                async for message in connection:
                    await connection.send(message)
            except websockets.ConnectionClosed:
                pass
        async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0, ping_interval=None, backlog=1024) as server:
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await asyncio.Future()


class Sockets:
    """WebSockets in a loop of their own; `talk` has each say something and hear it."""

    def __init__(self, port, count):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.open = self.wait(self.connect(port, count))

    def wait(self, work, seconds=60):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    async def connect(self, port, count):
        url = f"ws://127.0.0.1:{port}/chat"
        return [await websockets.asyncio.client.connect(url, ping_interval=None, compression=None) for _ in range(count)]

    async def one(self, connection, text):
        await connection.send(text)
        return await asyncio.wait_for(connection.recv(), 20) == text

    async def all(self, text):
        return await asyncio.gather(*(self.one(connection, text) for connection in self.open), return_exceptions=True)

    def talk(self, text):
        return sum(heard is True for heard in self.wait(self.all(text)))

    async def codes(self):
        await asyncio.gather(*(asyncio.wait_for(connection.wait_closed(), 60) for connection in self.open))
        return {connection.close_code for connection in self.open}


def counting_nginx(name):
    """An nginx that counts the requests that it answered."""
    home = lib.folder()
    port = lib.nginx(name, f"location = /count {{ stub_status; access_log off; }} access_log {home}/access;")
    os.chmod(home, 0o777)
    return port, f"{home}/access"


def lines(path):
    with open(path, "rb") as text:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: text.read(1 << 20), b""))


def upgrade(weir):
    """By the command; the process that serves now."""
    command = [weir.binary, "--admin", f"127.0.0.1:{weir.admin_port}", "upgrade"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = re.match(r"upgraded: version \S+ serves as process (\d+), process (\d+) drains", done.stdout)
    if done.returncode or not said:
        lib.claim(False, f"weir upgrade: {done.returncode} {done.stdout}{done.stderr}")
    return int(said[1])


def end(pid, number):
    """A process that is not our child any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def main():
    given = lib.arguments(__doc__)
    steps, sockets = (5, 20) if given.quick else (100, 200)
    port, access = counting_nginx("stable")
    server = Server()
    for drain_timeout, scene in (("15m", lambda *all: run(*all, steps, sockets, access)), ("4s", policy)):
        weir = lib.Weir(given.binary, {"stable": port, "chat": server.port}, {"stable": 100, "chat": 0}, WEBSOCKET_ROUTE)
        with open(f"{weir.home}/weir.toml") as text:
            config = text.read().replace("[server]\n", f'[server]\ndrain_timeout = "{drain_timeout}"\nworkers = 2\n')
        with open(f"{weir.home}/weir.toml", "w") as out:
            out.write(config)
        weir.kill(signal.SIGTERM)
        weir.start()
        pids = [weir.process.pid]
        try:
            scene(weir, pids)
        finally:
            for pid in pids:
                end(pid, signal.SIGKILL)


def policy(weir, pids):
    open_sockets = Sockets(weir.port, 20)
    pids.append(upgrade(weir))
    lib.claim(open_sockets.talk("after the upgrade") == 20, "20 WebSockets go on while the old process drains")
    codes = open_sockets.wait(open_sockets.codes())
    lib.claim(codes == {1001}, f"they end with Close 1001 before the deadline {codes}")
    lib.until("the old process ends", lambda: weir.process.poll() is not None)
    lib.claim("cut=0 cut_requests=0 cut_tunnels=0" in weir.log().rsplit("stopped", 1)[1], "and nothing was cut")


def run(weir, pids, steps, sockets, access):
    open_sockets = Sockets(weir.port, sockets)
    script = f"{lib.folder()}/count.lua"
    with open(script, "w") as out:
        # Answers by status, and every answer's connection kept or ended as it says.
        out.write('function done(s, l, r) local e = s.errors print("COUNT " .. s.requests .. " " .. e.connect .. " " .. '
                  'e.read .. " " .. e.write .. " " .. e.timeout .. " " .. e.status) end\n')
    before = lines(access)
    command = [lib.tool("wrk"), "-t2", "-c64", "-d3600s", "--timeout", "30s", "-s", script, f"http://127.0.0.1:{weir.port}/"]
    load = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lib._children.append(load)
    started, talked = time.monotonic(), 0
    for step in range(steps):
        pids.append(upgrade(weir))
        status, _, text = weir.ask("POST", "/api/v1/reload")
        if status != 200:
            lib.claim(False, f"reload after upgrade {step + 1}: {status} {text}")
        talked += open_sockets.talk(f"step {step}")
    took = time.monotonic() - started
    load.send_signal(signal.SIGINT)
    text = load.communicate(timeout=60)[0]
    found = re.search(r"COUNT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", text)
    sent, *errors = (int(number) for number in found.groups())
    lib.claim(not any(errors), f"wrk saw no connect, read, write, time-out or status error in {sent:,} requests, "
              f"{steps} upgrades and {steps} reloads within {took:.0f} s {errors}")
    lib.claim(talked == steps * sockets, f"each of {sockets} WebSockets was answered after each of {steps} steps")
    # wrk leaves up to one request a connection unread when it is interrupted.
    lib.until("nginx has written its log", lambda: lines(access) - before >= sent)
    answered = lines(access) - before
    lib.claim(sent <= answered <= sent + 64, f"the target answered {answered:,}, wrk counted {sent:,}")
    state, _, text = weir.ask("GET", "/readyz")
    lib.claim(state == 200, f"process {pids[-1]} serves, the {steps + 1}th")
    ended(weir, pids, open_sockets)


def ended(weir, pids, open_sockets):
    """Those between have ended by themselves; the first, with the WebSockets, and the last do so when told."""
    lib.until("those between have drained", lambda: all(gone(pid) for pid in pids[1:-1]))
    lib.claim(not gone(pids[0]), "the first process keeps its WebSockets")
    # The first signal counts for nothing in a process that drains already; the second cuts.
    weir.process.send_signal(signal.SIGTERM)
    lib.claim(open_sockets.talk("still here") == len(open_sockets.open), "and does so after a SIGTERM for the other one")
    open_sockets.wait(close(open_sockets.open))
    lib.until("the first process ends", lambda: weir.process.poll() is not None)
    lib.claim(weir.process.returncode == 0, "the first process ends with 0 when its WebSockets have")
    end(pids[-1], signal.SIGTERM)
    lib.until("the last process ends", lambda: gone(pids[-1]))
    stops = re.findall(r"stopped .*?cut=(\d+).*?cut_requests=(\d+).*?cut_tunnels=(\d+)", weir.log())
    lib.claim(len(stops) == len(pids) + 1 and all(int(cut) == 0 for stop in stops for cut in stop),
              f"{len(stops)} processes said at their end that nothing was cut")


async def close(connections):
    await asyncio.gather(*(connection.close() for connection in connections))


main()
