#!/usr/bin/env python3
"""The disk is full, the clock jumps by an hour, the DNS server says nothing: requests are served as before, and what
can't be done says so.

`state_dir` is a small file system of its own, filled page by page; the clock is libfaketime's, of which Weir alone
knows; the DNS server is this script. Needs root: for the mounts, which only Weir sees, and for port 53. `--quick` jumps
four times instead of forty, and tries fewer degrees of a full disk. Files that run out: exhausted.py has those.
"""
import atexit
import calendar
import email.utils
import glob
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import lib
from authority import Authority
from load import Steady, get
from target import Target

PAGE = 4096


class Caged(lib.Weir):
    """A Weir that sees mounts of its own, which outlive it: `mounts` are shell commands that make them.

    `{home}` in them is its folder. `environment` is added to Weir's.
    """

    def __init__(self, binary, targets, weights, mounts=(), environment=None, **more):
        self.mounts, self.environment, self.holder = mounts, environment or {}, None
        super().__init__(binary, targets, weights, **more)

    def start(self):
        if self.holder is None:
            done = f"{self.home}/mounted"
            script = " && ".join([*(each.format(home=self.home) for each in self.mounts), f"touch {done}", "exec sleep 9999"])
            self.holder = lib.spawn(["unshare", "-m", "--propagation", "private", "sh", "-c", script], f"{self.home}/log")
            lib.until("its mounts are there", lambda: os.path.exists(done))
        command = ["nsenter", "-m", "-t", str(self.holder.pid), "--", self.binary, "serve", "--config", f"{self.home}/weir.toml"]
        self.process = lib.spawn(command, f"{self.home}/log", env={**os.environ, **self.environment}, cwd=self.home)
        lib.until("weir is ready", self._ready)

    def inside(self, path):
        """What Weir sees as this path, as this script sees it."""
        return f"/proc/{self.holder.pid}/root{path}"

    def shifted(self, canary):
        """Status of a change, what kind of problem it is, and how long it took."""
        began = time.monotonic()
        status, headers, text = self.ask("PATCH", f"/api/v1/routes/{lib.ROUTE}/weights", {"weights": {"canary": canary}})
        kind = json.loads(text).get("type", "").rsplit(":", 1)[-1] if "problem" in headers["Content-Type"] else ""
        return status, kind, time.monotonic() - began

    def reload(self):
        began = time.monotonic()
        status, _, text = self.ask("POST", "/api/v1/reload")
        return status, text, time.monotonic() - began


def served(weir, steady, what, slowest=3.0):
    """The load's end: all was answered well and in time."""
    load = steady.stop()
    lib.until("the last request is counted", lambda: weir.metric("weir_requests_in_flight") == 0)
    lib.claim(load.sent > 100 and not load.failures, f"{what}: {load.sent:,} requests, all answered well {load.failures}")
    lib.claim(load.slowest < slowest, f"{what}: the slowest took {load.slowest * 1000:.0f} ms")
    return load


# ---- the disk is full


def fill(weir, free):
    """Fills the file system of `state_dir` up to so many pages."""
    path = weir.inside(f"{weir.home}/state")
    filler = f"{path}/filler"
    if os.path.exists(filler):
        os.unlink(filler)
    left = os.statvfs(path)
    count = left.f_bavail * left.f_frsize // PAGE - free
    with open(filler, "wb") as out:
        for _ in range(count):
            out.write(b"\0" * PAGE)
    left = os.statvfs(path)
    return left.f_bavail * left.f_frsize // PAGE


def disk(given, targets):
    mounts = ["mkdir {home}/state", "mount -t tmpfs -o size=1m,mode=700 tmpfs {home}/state"]
    weir = Caged(given.binary, {"stable": targets[0].port, "canary": targets[1].port}, {"stable": 100, "canary": 0}, mounts)
    steady = Steady(weir.port, 300)
    lib.claim(weir.shifted(1)[0] == 200, "disk: a change is acknowledged while there is room")
    generation = weir.document()[0]["generation"]
    lib.claim(fill(weir, 0) == 0, "disk: now it is full")
    for turn in range(20):
        time.sleep(0.05)
        status, kind, took = weir.shifted(10 + turn)
        if (status, kind) != (507, "state-not-saved") or took > 2:
            lib.claim(False, f"disk: a change on a full disk: {status} {kind} in {took:.2f} s")
    lib.claim(True, "disk: 20 changes are answered 507 state-not-saved")
    drained = weir.ask("POST", f"/api/v1/pools/canary/targets/127.0.0.1:{targets[1].port}/drain", {})
    lib.claim(drained[0] == 507, f"disk: draining a target likewise: {drained[0]} {drained[2][:160]}")
    undone = weir.ask("POST", f"/api/v1/routes/{lib.ROUTE}/undo")
    lib.claim(undone[0] == 507, f"disk: and an undo: {undone[0]}")
    lib.claim(weir.weight("canary") == 1 and weir.document()[0]["generation"] == generation, "disk: nothing has changed")
    with open(f"{weir.home}/weir.toml") as text:
        config = text.read()
    with open(f"{weir.home}/weir.toml", "w") as out:
        out.write(config.replace("canary = 0", "canary = 50").replace("stable = 100", "stable = 50"))
    status, text, _ = weir.reload()
    lib.claim(status == 507 or status == 200 and weir.weight("canary") == 50, f"disk: a reload with other weights: {status} {text[:200]}")
    lib.claim(weir.weight("canary") == (50 if status == 200 else 1), "disk: and is what it says")
    with open(f"{weir.home}/weir.toml", "w") as out:
        out.write(config)
    weir.reload()
    lib.claim("No space left" in weir.log(), "disk: the log says why")
    follower = upgraded(weir)
    load = served(weir, steady, "disk")
    lib.claim(load.reopened > 0, f"disk: with the upgrade {load.reopened} connections went over to the new process")
    os.kill(follower, signal.SIGKILL)
    lib.until("it is gone", lambda: not lib.answers(weir.port))
    weir.start()
    restarts(given, weir)


def upgraded(weir):
    """The process that serves now."""
    status, _, text = weir.ask("POST", "/api/v1/upgrade", {})
    lib.claim(status == 200, f"disk: an upgrade on a full disk is answered {status} {text}")
    lib.until("the old process ends", lambda: weir.process.poll() is not None)
    lib.claim(weir.process.returncode == 0 and weir.weight("canary") == 1, "disk: the old process ends, the state is kept")
    pid = json.loads(text)["pid"]
    atexit.register(end, pid, weir.home)
    return pid


def end(pid, home):
    """Kills what is left of it, if the script fails before it has."""
    try:
        with open(f"/proc/{pid}/cmdline") as command:
            if home in command.read():
                os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def restarts(given, weir):
    """With ever more free pages: what was acknowledged, and nothing else, is there after kill -9."""
    outcomes, number = {200: 0, 507: 0}, 100
    for free in range(0, 5 if given.quick else 12):
        for _ in range(2 if given.quick else 6):
            fill(weir, free)
            before = weir.weight("canary")
            number += 1
            status = weir.shifted(number / 1000)[0]
            if status not in outcomes:
                lib.claim(False, f"disk: with {free} pages free a change was answered {status}")
            outcomes[status] += 1
            right = number / 1000 if status == 200 else before
            live = weir.weight("canary")
            weir.kill()
            weir.start()
            again, state = weir.weight("canary"), json.loads(weir.ask("GET", "/api/v1/stats")[2]).get("state")
            if live != right or again != right or "aside" in str(state):
                lib.claim(False, f"disk: {free} pages free, {status}: {right} is right, {live} was live, {again} is, {state}")
    lib.claim(all(outcomes.values()), f"disk: kill -9 and a start on a full disk keep what was acknowledged {outcomes}")
    os.unlink(weir.inside(f"{weir.home}/state/filler"))
    lib.claim(weir.shifted(33)[0] == 200, "disk: with room again, a change is acknowledged")
    weir.kill()
    weir.start()
    lib.claim(weir.weight("canary") == 33, "disk: and is there after a restart")
    weir.kill()


# ---- the clock jumps


def library():
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found:
        sys.exit("FAILED libfaketime is not installed: run tests/tools.sh")
    return found[0]


class Clock:
    """Weir's wall clock is this far from the real one. The monotonic clock stays, as it does where a clock is set."""

    def __init__(self):
        self.path, self.been = f"{lib.folder()}/clock", []
        self.jump(0)
        self.environment = {"LD_PRELOAD": library(), "FAKETIME_TIMESTAMP_FILE": self.path, "FAKETIME_NO_CACHE": "1",
                            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}

    def jump(self, hours):
        with open(self.path + ".new", "w") as out:
            out.write(f"{hours * 3600:+d}\n")
        os.rename(self.path + ".new", self.path)
        self.hours = hours
        self.been.append(hours)


def silent():
    """A port that takes connections and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    threading.Thread(target=lambda: [kept.append(listener.accept()[0]) for kept in [[]] for _ in iter(int, 1)], daemon=True).start()
    return listener.getsockname()[1]


def clock(given, targets):
    authority, time_of = Authority(lib.folder()), Clock()
    tls_port, lines = lib.https(authority)
    more = lines + f"""
[pool.silent]
targets = ["127.0.0.1:{silent()}"]
[[route]]
name = "silent"
match = {{ path = "/silent" }}
timeout = "400ms"
variants = {{ only = "silent" }}
"""
    health = '[pool.{0}.health]\nkind = "tcp"\ninterval = "100ms"\n'
    weir = Caged(given.binary, {"stable": targets[0].port, "canary": targets[1].port}, {"stable": 60, "canary": 40},
                 environment=time_of.environment, route_lines=more,
                 pool_lines={name: health.format(name) for name in ("stable", "canary")})
    steady = Steady(weir.port, 300)
    tls = Steady(tls_port, 100, connections=8, context=authority.context())
    weight = 40
    for number in range(4 if given.quick else 40):
        time_of.jump((1, 0, -1, 0)[number % 4])
        time.sleep(0.3)
        weight += 1
        jumped(weir, time_of, weight, authority, tls_port)
    time_of.jump(-1)
    for load in (served(weir, steady, "clock"), served(weir, tls, "clock, TLS")):
        lib.claim(load.reopened == 0, "clock: no connection was closed")
    total = steady.load.sent + tls.load.sent
    good, all_of_it = (int(weir.metric("weir_requests_total", route=lib.ROUTE, **more)) for more in ({"code": "2xx"}, {}))
    lib.claim(good == all_of_it == total, f"clock: Weir counted {good:,} of {total:,}")
    again(weir, time_of, weight)


def jumped(weir, time_of, weight, authority, tls_port):
    """What is told by the clock is told by the new one; what is waited for is not."""
    said = f"clock: {time_of.hours:+d} h"
    status, _, took = weir.shifted(weight)
    newest = json.loads(weir.ask("GET", f"/api/v1/routes/{lib.ROUTE}/history")[2])["revisions"][0]
    at = email.utils.parsedate_to_datetime(weir_date(weir.port)).timestamp() - time.time()
    # hyper's Date waits for the second after the last one that it wrote: where the clock goes back, it stands still.
    highest = max(3600 * hours for hours in time_of.been)
    lib.claim(time_of.hours * 3600 - 5 < at < highest + 5, f"{said}: answers bear the date {at:+.0f} s")
    lib.claim(status == 200 and took < 3 and newest["after"]["canary"] == weight, f"{said}: a change takes {took * 1000:.0f} ms")
    stamp = time.strptime(newest["time"][:19], "%Y-%m-%dT%H:%M:%S")
    off = calendar.timegm(stamp) - time.time()
    lib.claim(abs(off - time_of.hours * 3600) < 5, f"{said}: and is in the history at its time")
    began = time.monotonic()
    status = first_line(weir.port, b"GET /silent HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    took = time.monotonic() - began
    lib.claim(b" 504 " in status and 0.35 < took < 2, f"{said}: a time-out of 400 ms fires after {took * 1000:.0f} ms")
    with socket.create_connection(("127.0.0.1", tls_port), timeout=10) as tcp:
        with authority.context().wrap_socket(tcp, server_hostname="localhost") as connection:
            lib.claim(connection.version() == "TLSv1.3", f"{said}: a new client's handshake is done")
    up = weir.metric("weir_target_up")
    status, text, took = weir.reload()
    lib.claim(status == 200 and took < 5, f"{said}: a reload is answered {status} in {took * 1000:.0f} ms {'' if status == 200 else text}")
    lib.claim(up == 3, f"{said}: all targets are up")


def first_line(port, request):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


def weir_date(port):
    """The date of an answer of Weir's own."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /silent HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for line in connection.makefile("rb"):
            if line.lower().startswith(b"date:"):
                return line[5:].decode().strip()
    return lib.claim(False, "an answer without a date")


def again(weir, time_of, weight):
    """Restarts while the clock is behind what is saved, and ahead of it."""
    for hours in (-1, 1):
        time_of.jump(hours)
        weir.kill()
        weir.start()
        revisions = json.loads(weir.ask("GET", f"/api/v1/routes/{lib.ROUTE}/history")[2])["revisions"]
        numbers = [revision["generation"] for revision in revisions]
        lib.claim(weir.weight("canary") == weight and numbers == list(range(numbers[0], 0, -1)),
                  f"clock: {hours:+d} h and a restart: weights and {len(numbers)} revisions are there")
        weight += 1
        lib.claim(weir.shifted(weight)[0] == 200, f"clock: {hours:+d} h: and can be changed")
    weir.kill()


# ---- the DNS server is dead


class Dns:
    """A DNS server for one name. `mode`: `good` says 127.0.0.1, `silent` nothing, `broken` SERVFAIL."""

    ADDRESS = "127.53.53.53"

    def __init__(self):
        self.mode, self.asked, self.unanswered = "good", 0, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((self.ADDRESS, 53))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            query, client = self.socket.recvfrom(4096)
            self.asked += 1
            if self.mode == "silent":
                self.unanswered += 1
                continue
            end = query.index(b"\0", 12) + 5
            question, (kind,) = query[12:end], struct.unpack(">H", query[end - 4:end - 2])
            broken = self.mode == "broken"
            self.unanswered += broken
            answers = 1 if kind == 1 and not broken else 0
            head = query[:2] + struct.pack(">HHHHH", 0x8582 if broken else 0x8580, 1, answers, 0, 0)
            record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + bytes([127, 0, 0, 1])
            self.socket.sendto(head + question + record * answers, client)


def dns(given, targets):
    server = Dns()
    folder = lib.folder()
    for name, text in (("resolv.conf", f"nameserver {Dns.ADDRESS}\n"), ("nsswitch.conf", "hosts: files dns\n"),
                       ("hosts", "127.0.0.1 localhost\n")):
        with open(f"{folder}/{name}", "w") as out:
            out.write(text)
    mounts = [f"mount --bind {folder}/{name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf", "hosts")]
    more = f"""
[pool.named]
targets = ["shop.weir-scenario.test:{targets[2].port}"]
[[route]]
name = "named"
match = {{ path = "/named" }}
variants = {{ only = "named" }}
"""
    weir = Caged(given.binary, {"stable": targets[0].port, "canary": targets[1].port}, {"stable": 60, "canary": 40}, mounts,
                 route_lines=more)
    lib.claim(server.asked > 0 and weir.metric("weir_target_up", pool="named") == 1, "dns: the name's target is there")
    loads = [Steady(weir.port, 150), Steady(weir.port, 150, lambda number: get(number, "/named"))]
    for mode in ("silent", "broken"):
        server.mode, server.unanswered = mode, 0
        weight = 41 + (mode == "broken")
        lib.until(f"Weir asks the {mode} server", lambda: server.unanswered > 1)
        slow = []
        reloading = threading.Thread(target=lambda: slow.append(weir.reload()))
        reloading.start()
        time.sleep(0.2)
        changing = weir.shifted(weight)
        reloading.join()
        status, text, took = slow[0]
        # The resolver itself would take ten seconds.
        lib.claim(status == 200 and took < 8, f"dns: {mode}: a reload is answered {status} after {took:.1f} s {text if status != 200 else ''}")
        lib.claim(changing[0] == 200 and changing[2] < 8, f"dns: {mode}: a change meanwhile {changing[0]} after {changing[2]:.1f} s")
        status, _, took = weir.shifted(weight)
        lib.claim(status == 200 and took < 3, f"dns: {mode}: a change after it takes {took * 1000:.0f} ms")
        lib.claim(weir.metric("weir_target_up", pool="named") == 1, f"dns: {mode}: the target keeps its address")
    lib.claim("does not resolve" in weir.log(), "dns: the log names the target")
    for load, what in zip(loads, ("by address", "by name")):
        load = served(weir, load, f"dns, {what}")
        counted = int(weir.metric("weir_requests_total", route=lib.ROUTE if what == "by address" else "named"))
        lib.claim(counted == load.sent, f"dns, {what}: Weir counted {counted:,} of {load.sent:,}")
    over(weir, server)
    unknown(weir, server)


def over(weir, server):
    """An upgrade without an answer: the new process has the addresses that the old one had."""
    server.mode = "silent"
    steady = Steady(weir.port, 150, lambda number: get(number, "/named"))
    status, _, text = weir.ask("POST", "/api/v1/upgrade", {})
    lib.claim(status == 200, f"dns: an upgrade without it is answered {status} {text}")
    pid = json.loads(text)["pid"]
    atexit.register(end, pid, weir.home)
    lib.until("the old process ends", lambda: weir.process.poll() is not None)
    lib.claim(b" 200 " in first_line(weir.port, get(1, "/named")), "dns: and the new process has the target's address")
    served(weir, steady, "dns, over an upgrade")
    end(pid, weir.home)
    lib.until("it is gone", lambda: not lib.answers(weir.port))


def unknown(weir, server):
    """A start without an answer: the rest is served, and the name's target comes when there is one."""
    server.mode = "silent"
    began = time.monotonic()
    weir.start()
    lib.claim(time.monotonic() - began < 8, f"dns: a start without it takes {time.monotonic() - began:.1f} s")
    lib.claim(b" 200 " in first_line(weir.port, get(1)), "dns: routes whose targets are addresses are served")
    lib.claim(b" 503 " in first_line(weir.port, get(1, "/named")), "dns: the other one answers 503")
    lib.claim(weir.metric("weir_request_errors_total", route="named", reason="no_target") == 1, "dns: for the reason no_target")
    server.mode = "good"
    lib.until("the name's target is found", lambda: b" 200 " in first_line(weir.port, get(1, "/named")), 15)
    lib.claim(True, "dns: and is served when the server answers again")
    weir.kill()


def main():
    given = lib.arguments(__doc__, only=(str, "", "disk, clock or dns"))
    if os.geteuid() != 0:
        sys.exit("FAILED bad_days.py needs root: a full disk and a dead DNS server are mounts and a port 53 of its own")
    scenes = {scene.__name__: scene for scene in (disk, clock, dns)}
    if given.only:
        return scenes[given.only](given, [Target(name) for name in ("stable", "canary", "named")])
    # Beside each other: most of it is waiting.
    running = {name: subprocess.Popen([sys.executable, *sys.argv, "--only", name]) for name in scenes}
    failed = [name for name, process in running.items() if process.wait()]
    lib.claim(not failed, f"disk, clock and dns: {', '.join(failed) or 'none'} failed")


main()
