#!/usr/bin/env python3
"""Targets, and clients, that are too slow, each in its own way: the time-out that is for it answers, with its own status
and counter, within its limit and a tenth of a second, and nothing is left behind.

10,000 requests of each (`--quick`: 200), 100 at a time. The memory and the open files of Weir before and after. SYNs
that nobody answers are those to a full accept queue; as root, also those that nft drops, in a network of their own.
"""
import asyncio
import collections
import json
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import subprocess
import sys

import lib
from authority import Authority

LIMIT_MS = 300
LIMIT = LIMIT_MS / 1000
GRAIN = 0.1
AT_ONCE = 100
# What the allocator may have kept after the requests and not before.
ROOM = 6 << 20
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
UPLOAD = b"x" * 1_000_000
REASONS = ("connect", "reset", "timeout", "bad_response", "no_target", "queue", "client_abort")
TIMES = ("connect", "tls", "send", "response_head", "response_body", "request", "client")


class Silent(asyncio.Protocol):
    """Accepts, reads, and never answers. The others differ in what they say."""

    says = b""
    # A byte more every so many seconds.
    every = None

    def connection_made(self, transport):
        self.transport, self.open, self.asked = transport, True, False

    def connection_lost(self, error):
        self.open = False

    def data_received(self, data):
        if self.asked:
            return
        self.asked = True
        self.transport.write(self.says)
        self.said()

    def said(self):
        if self.every:
            asyncio.get_running_loop().call_later(self.every, self.dribble)

    def dribble(self):
        if self.open:
            self.transport.write(b"x")
            self.said()


class SlowHead(Silent):
    says, every = b"HTTP/1.1 200 OK\r\nX-Slow: ", 1


class SlowBody(Silent):
    says, every = HEAD, 1


class Stops(Silent):
    """A head and a part of its body, and nothing more."""

    says = HEAD + b"x" * 500


class Dies(Stops):
    """The same, and its process is gone."""

    def said(self):
        # The kernel resets the connection of a process that is killed with bytes unread.
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        asyncio.get_running_loop().call_later(0.02, self.transport.abort)


class NoTls(Silent):
    """Takes a handshake's first message and says nothing."""


class NeverReads(Silent):
    """Little room, and nothing is ever taken out of it."""

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.pause_reading()
        # Who does not read does not hear of the end; and what nobody refers to, Python closes.
        asyncio.get_running_loop().call_later(10, transport.abort)


KINDS = (Silent, SlowHead, SlowBody, Stops, Dies, NoTls, NeverReads)


def serve(ports):
    """A port for each kind of target; runs in a process of its own."""

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run():
        loop, found = asyncio.get_running_loop(), {}
        for kind in KINDS:
            listening = socket.socket()
            if kind is NeverReads:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            listening.bind(("127.0.0.1", 0))
            await loop.create_server(kind, sock=listening, backlog=1024)
            found[kind.__name__.lower()] = listening.getsockname()[1]
        ports.send(found)
        await asyncio.Future()

    asyncio.run(run())


def full_port():
    """A port whose accept queue is full, so that the kernel drops what more comes; what keeps it so."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    held = [listening]
    while True:
        one = socket.socket()
        one.settimeout(0.3)
        try:
            one.connect(listening.getsockname())
        except TimeoutError:
            return listening.getsockname()[1], held
        held.append(one)


class Asks(asyncio.Protocol):
    """Sends the request and takes all that comes until the end, whichever end it is."""

    def __init__(self, request):
        self.request, self.answer = request, b""
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        transport.write(self.request)

    def data_received(self, data):
        self.answer += data

    def connection_lost(self, error):
        if not self.over.done():
            self.over.set_result(None)


async def ask_all(port, request, count):
    """What was seen, and the seconds that each took, sorted."""
    loop, left = asyncio.get_running_loop(), iter(range(count))
    seen, took = collections.Counter(), []

    async def some():
        for _ in left:
            began = loop.time()
            transport, asks = await loop.create_connection(lambda: Asks(request), "127.0.0.1", port)
            try:
                await asyncio.wait_for(asks.over, 60)
            finally:
                transport.abort()
            took.append(loop.time() - began)
            seen[what(asks.answer)] += 1

    await asyncio.gather(*(some() for _ in range(min(AT_ONCE, count))))
    return dict(seen), sorted(took)


def what(answer):
    """The status, and for Weir's own answers what they say."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    if b"application/problem+json" in head:
        return f"{status} {json.loads(body)['detail']}"
    return f"{status} cut" if status == "200" and len(body) < 1000 else status


GET = b"GET /%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n"


class Case:
    """`counted`: code, reason and time-out that Weir counts the requests with."""

    def __init__(self, name, seen, counted, request=None, at_once=False, room=ROOM, about=""):
        self.name, self.seen, self.counted, self.at_once, self.about = name, seen, counted, at_once, about
        self.room = room
        self.request = request or GET % name.encode()


LATE = "504 the service did not answer in time"
CASES = [
    Case("silent", LATE, ("5xx", "timeout", "response_head"), about="accepts and never answers"),
    Case("slowhead", LATE, ("5xx", "timeout", "response_head"), about="a head at one byte a second"),
    Case("slowbody", "200 cut", ("2xx", "timeout", "request"), about="a body at one byte a second"),
    Case("stops", "200 cut", ("2xx", "timeout", "response_body"), about="a head, half a body, and silence"),
    Case("dies", "200 cut", ("2xx", "reset", None), at_once=True, about="a head, half a body, and death"),
    Case("notls", "504 the service did not finish the TLS handshake in time", ("5xx", "timeout", "tls"),
         about="a TLS handshake that is never finished"),
    Case("neverreads", "504 the service did not take the request in time", ("5xx", "timeout", "send"),
         request=POST % b"neverreads" + UPLOAD, room=2 * AT_ONCE << 20, about="an upload that is never read"),
    Case("silent", "408 the request's body did not arrive in time", ("4xx", "client_abort", "client"),
         request=POST % b"silent" + b"half", about="a client that stops in its body"),
]
SYNS = Case("syns", "504 the service did not accept a connection in time", ("5xx", "timeout", "connect"),
            about="SYNs that nobody answers")


def counts(weir, route):
    found = {}
    for family, label, names in (("weir_requests_total", "code", ("2xx", "4xx", "5xx", "none")),
                                 ("weir_request_errors_total", "reason", REASONS),
                                 ("weir_request_timeouts_total", "timeout", TIMES)):
        found |= {f"{label} {name}": int(weir.metric(family, route=route, **{label: name})) for name in names}
    return found


def at_rest(weir):
    lib.until("nothing is under way", lambda: weir.metric("weir_requests_in_flight") == 0)


def run(weir, case, quick):
    count = 200 if quick else 10_000
    # Buffers, counters and the allocator's pages are there after the first ones.
    asyncio.run(ask_all(weir.port, case.request, 2 * AT_ONCE))
    at_rest(weir)
    before, (memory, files) = counts(weir, case.name), weir.memory()
    seen, took = asyncio.run(ask_all(weir.port, case.request, count))
    at_rest(weir)
    counted = {name: now - before[name] for name, now in counts(weir, case.name).items() if now > before[name]}
    code, reason, timeout = case.counted
    wanted = {f"code {code}": count, f"reason {reason}": count} | ({f"timeout {timeout}": count} if timeout else {})
    lib.claim(seen == {case.seen: count} and counted == wanted, f"{case.about}: {count:,}; seen {seen}, counted {counted}")
    median, late, last = statistics.median(took), took[int(len(took) * 0.99)], took[-1]
    times = f"{case.about}: after {median:.3f} s, 99 of 100 by {late:.3f}, the last {last:.3f}"
    # A short run may have a machine full of other tests: then it is no other time-out that answers. An upload's own
    # time counts from its last byte.
    slack = 5 if quick else GRAIN + (0.5 if case.room > ROOM else 0)
    in_time = (case.at_once or took[0] > LIMIT - 0.01) and late < LIMIT + slack
    lib.claim(in_time, times)
    lib.until(f"{case.about}: no more than {files + 8} files are open", lambda: weir.memory()[1] <= files + 8, 30)
    grown = weir.memory()[0] - memory
    lib.claim(grown < case.room, f"{case.about}: memory has grown by {grown / 1024:,.0f} KiB, files {files} to {weir.memory()[1]}")


def start(binary, ports, tls):
    tables = "".join(f"""
[pool.{name}]
targets = ["127.0.0.1:{port}"]
connect_timeout = "{LIMIT_MS if name in ("notls", "syns") else 20_000}ms"
{f'tls = {{ ca = "{tls}" }}' if name == "notls" else ""}
[[route]]
name = "{name}"
match = {{ path = "/{name}" }}
variants = {{ only = "{name}" }}
timeout = "{LIMIT_MS if name in ("silent", "slowhead") else 20_000}ms"
{f'request_timeout = "{LIMIT_MS}ms"' if name == "slowbody" else ""}
""" for name, port in ports.items())
    tables += f'[limits]\nbody_idle_timeout = "{LIMIT_MS}ms"\n'
    return lib.Weir(binary, {"stable": next(iter(ports.values()))}, {"stable": 100}, tables)


def by_nft(binary, quick):
    """In a network of its own, which ends with this process."""
    subprocess.run([lib.tool("ip"), "link", "set", "lo", "up"], check=True)
    port = lib.free_port()
    rules = f"add table ip t\nadd chain ip t c {{ type filter hook input priority 0; }}\nadd rule ip t c tcp dport {port} drop\n"
    done = subprocess.run([lib.tool("nft"), "-f", "-"], input=rules, text=True, capture_output=True)
    lib.claim(done.returncode == 0, f"nft drops what goes to port {port} {done.stderr}")
    SYNS.about = "SYNs that nft drops"
    run(start(binary, {"syns": port}, None), SYNS, quick)


def may_have_a_network():
    """Root, and of a kind that may make networks."""
    return os.geteuid() == 0 and subprocess.run([lib.tool("unshare"), "--net", "true"], capture_output=True).returncode == 0


def main():
    given = lib.arguments(__doc__, nft=(bool, False, "only the SYNs that nft drops, in the network that this runs in"))
    if given.nft:
        return by_nft(given.binary, given.quick)
    ours, theirs = multiprocessing.Pipe()
    targets = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    targets.start()
    home = lib.folder()
    Authority(home)
    syns, held = full_port()
    weir = start(given.binary, ours.recv() | {"syns": syns}, f"{home}/ca.pem")
    for case in CASES + [SYNS]:
        run(weir, case, given.quick)
    lib.claim(weir.ask("GET", "/readyz")[0] == 200 and "panic" not in weir.log(), "Weir is well")
    for one in held:
        one.close()
    if may_have_a_network():
        again = [lib.tool("unshare"), "--net", sys.executable, __file__, "--binary", given.binary, "--nft"]
        lib.claim(subprocess.run(again + ["--quick"] * given.quick).returncode == 0, "the same with nft")
    else:
        print("LEFT OUT SYNs that nft drops: that takes root, and the right to make a network", flush=True)


if __name__ == "__main__":
    main()
