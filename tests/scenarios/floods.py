#!/usr/bin/env python3
"""Floods on loopback, each beside clients that want an answer: none of those waits much longer, Weir keeps its size, and
every connection that it cuts off is counted.

Rapid resets (CVE-2023-44487), CONTINUATION, SETTINGS and PING over HTTP/2, as fast as one process can send them and on a
new connection as soon as the last is cut; and 2,000 connections whose request heads never end. A quiet stretch before each
flood says what the clients' p99 is without it; medians of all stretches are compared. Full run: 100,000 frames of each
kind, more rounds, and the p99 at most doubles. The short one tells it and claims only that nobody waits for seconds: it
runs beside other work. The flooder leaves the CPU to those who want it: a flood comes from another machine.
"""
import multiprocessing
import os
import resource
import socket
import statistics
import struct
import time

import lib

HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9
END_STREAM, END_HEADERS = 1, 4
# GET / of host t, in entries of HPACK's static table and one literal.
BLOCK = b"\x82\x86\x84\x01\x01t"
SLOW = 2_000
HEADER_TIMEOUT = 2
# What all floods together may add to the most memory that Weir ever had, in MiB: 40 KB for each slow head, whose connection
# is a whole one; the others need less, since there is one at a time.
GROWTH = SLOW * 40_000 / 2**20
# What a wait for the CPU may add on an idle machine, in ms: one of the kernel's time slices.
SLICE = 1
# What nobody may wait in the short run, in ms: a worker that is kept from everything else for as long shows.
LONG = 1000


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)


def resets(turn):
    """64 requests, each taken back at once."""
    streams = range(128 * turn + 1, 128 * turn + 129, 2)
    return 64, b"".join(frame(HEADERS, END_STREAM | END_HEADERS, stream, BLOCK) +
                        frame(RST_STREAM, 0, stream, struct.pack(">I", 8)) for stream in streams)


def continuations(turn):
    """A head that goes on for ever, a byte a frame."""
    begin = frame(HEADERS, END_STREAM, 1, BLOCK + b"\x00\x01x\x7f\xff\xff\x7f") if turn == 0 else b""
    return 64, begin + frame(CONTINUATION, 0, 1, b"a") * 64


def settings(_):
    return 64, frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)) * 64


def pings(_):
    return 64, frame(PING, 0, 0, b"weather?") * 64


FLOODS = {"rapid resets": resets, "CONTINUATION": continuations, "SETTINGS": settings, "PING": pings}


def attack(port, piece):
    """One connection until it is cut; frames sent. Reads what comes, so that the flood is not stopped by back-pressure."""
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as flood:
        try:
            flood.sendall(BEGIN)
            for turn in range(1_000_000):
                count, data = piece(turn)
                flood.sendall(data)
                sent += count
                flood.setblocking(False)
                try:
                    while flood.recv(65_536):
                        pass
                    return sent
                except BlockingIOError:
                    flood.settimeout(10)
        except (ConnectionError, TimeoutError):
            pass
    return sent


def keep_flooding(kind, port, seconds, frames, told):
    """At least so long and so many; tells the frames sent and the connections cut."""
    os.nice(10)
    sent, cut, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end or sent < frames:
        sent += attack(port, FLOODS[kind])
        cut += 1
    told.put((sent, cut))


def crawl(port, open_now, told):
    """Opens connections whose heads grow by a byte a second, until all are closed."""
    os.nice(10)
    slow = []
    for _ in range(SLOW):
        slow.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        slow[-1].sendall(b"GET / HTTP/1.1\r\nHost: t\r\nX: ")
    open_now.set()
    answered = 0
    while slow:
        began = time.monotonic()
        left = []
        for one in slow:
            one.setblocking(False)
            try:
                one.send(b"x")
                answered += one.recv(1024).startswith(b"HTTP/1.1 408")
                one.close()
            except BlockingIOError:
                left.append(one)
            except ConnectionError:
                one.close()
        slow = left
        time.sleep(max(0, 1 - (time.monotonic() - began)))
    told.put((answered, SLOW))


class Clients:
    """Others: eight connections, a request a millisecond, one after the other."""

    def __init__(self, port):
        self.sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(8)]
        for one in self.sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def p99(self, seconds, until=lambda: True):
        """Of so long, and until the condition holds; in milliseconds."""
        took, end = [], time.monotonic() + seconds
        while time.monotonic() < end or not until():
            one = self.sockets[len(took) % len(self.sockets)]
            began = time.perf_counter()
            one.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
            answer = b""
            while not answer.endswith(b"variant-main;"):
                part = one.recv(65_536)
                lib.claim(part, "another client's connection stays open") if not part else None
                answer += part
            took.append(time.perf_counter() - began)
            time.sleep(0.001)
        return 1000 * statistics.quantiles(took, n=100)[98]


def counted(weir, family):
    lines = weir.ask("GET", "/metrics")[2].splitlines()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(family + "{"))


def peak(weir):
    """The most memory that the process ever had, in MiB."""
    lines = open(f"/proc/{weir.process.pid}/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def stretch(weir, clients, kind, seconds, frames):
    """One flood: the clients' p99 meanwhile, frames sent or 408s seen, connections cut, connections counted,
    and the most memory until then."""
    slow = kind == "slow heads"
    family = "weir_header_timeouts_total" if slow else "weir_http2_floods_total"
    before, told, begun = counted(weir, family), multiprocessing.Queue(), multiprocessing.Event()
    work = (crawl, (weir.port, begun, told)) if slow else (keep_flooding, (kind, weir.port, seconds, frames, told))
    flooder = multiprocessing.Process(target=work[0], args=work[1], daemon=True)
    flooder.start()
    if slow:
        begun.wait(30)
    waited = clients.p99(seconds, lambda: slow or not told.empty())
    sent, cut = told.get(timeout=60)
    flooder.join()
    lib.until("every cut is counted", lambda: counted(weir, family) - before >= cut)
    return waited, sent, cut, counted(weir, family) - before, peak(weir)


def main():
    given = lib.arguments(__doc__)
    rounds, seconds, frames = (3, 0.8, 20_000) if given.quick else (9, 2, 100_000)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    weir = lib.Weir(given.binary, {"main": lib.nginx("main")}, {"main": 100}, f'[limits]\nheader_timeout = "{HEADER_TIMEOUT}s"')
    clients = Clients(weir.port)
    clients.p99(0.5)
    quiet, before = [], peak(weir)
    found = {kind: [] for kind in [*FLOODS, "slow heads"]}
    for _ in range(rounds):
        for kind, stretches in found.items():
            quiet.append(clients.p99(seconds))
            stretches.append(stretch(weir, clients, kind, seconds, -(-frames // rounds)))
    usual = statistics.median(quiet)
    for kind, stretches in found.items():
        waited, sent = statistics.median(one[0] for one in stretches), sum(one[1] for one in stretches)
        cut, seen = sum(one[2] for one in stretches), sum(one[3] for one in stretches)
        what = "408s" if kind == "slow heads" else "frames"
        print(f"      {kind}: {sent:,} {what}, most memory {max(one[4] for one in stretches):.1f} MiB, p99 {waited:.2f} ms beside {usual:.2f} ms quiet; each: "
              + " ".join(f"{one[0]:.2f}" for one in stretches))
        lib.claim(seen == cut, f"{kind}: {cut:,} connections were cut, {seen:,} counted")
        bound = LONG if given.quick else max(2 * usual, usual + SLICE)
        lib.claim(waited <= bound, f"{kind}: others' p99 is {waited:.2f} ms, {waited / usual:.2f} times what it is without, at most {bound:.2f} ms")
        if kind == "slow heads":
            lib.claim(sent == cut, "every head that did not end was answered 408")
        else:
            lib.claim(sent >= frames, f"{sent:,} frames were sent")
    grown = peak(weir) - before
    lib.claim(grown <= GROWTH, f"the most memory that Weir had grew by {grown:.1f} MiB from {before:.1f}")
    failed = {key: count for key, count in weir.counts().items() if key[1] == "5xx"}
    lib.claim(not failed, f"nobody got an error of the server {failed or ''}")


main()
