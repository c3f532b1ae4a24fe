#!/usr/bin/env python3
"""Whoever reads slowly costs no memory: bodies at 1 MB/s, down to clients and up to targets, over HTTP/1.1, TLS and
HTTP/2, while the other end has all of it ready. Each on a Weir of its own, whose resident memory may grow by less than
4 MB; every byte arrives. Quick run: 20 MB each, 20 s; plain: 100 MB; --full: 1 GiB, 18 minutes.
"""
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib

import lib

RATE = 1_000_000
GROWTH_KB = 4096
PIECE = bytes(range(256)) * 64
SOCKET_BYTES = 64 * 1024
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_WINDOW = (1 << 31) - 1


def pieces(total):
    """The body that everybody sends, piece by piece."""
    while total > 0:
        yield PIECE[:total]
        total -= len(PIECE)


class Sink:
    """What has come of a body: how much, and which bytes. `pace` sleeps until more may be read at the rate."""

    def __init__(self):
        self.began, self.got, self.crc = time.monotonic(), 0, 0

    def take(self, data):
        self.got += len(data)
        self.crc = zlib.crc32(data, self.crc)

    def pace(self):
        ahead = self.got / RATE - (time.monotonic() - self.began)
        if ahead > 0:
            time.sleep(ahead)

    def has(self, total):
        return self.got == total and self.crc == crc_of(total)


_crcs = {}


def crc_of(total):
    if total not in _crcs:
        crc = 0
        for piece in pieces(total):
            crc = zlib.crc32(piece, crc)
        _crcs[total] = crc
    return _crcs[total]


def read_head(source):
    lines = []
    while line := source.readline():
        if line == b"\r\n":
            return lines
        lines.append(line.decode().strip())
    return None


def length_of(lines):
    return next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)


class Origin:
    """Answers GET /N with N bytes as fast as they are taken; reads what is posted at the rate, to /slow."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        # What is accepted inherits it.
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[client], daemon=True).start()

    def serve(self, client):
        source = client.makefile("rb", 16384)
        try:
            while lines := read_head(source):
                method, path, _ = lines[0].split()
                if method == "GET":
                    total = int(path[1:])
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
                    for piece in pieces(total):
                        client.sendall(piece)
                    continue
                total, sink = length_of(lines), Sink()
                while sink.got < total and (data := source.read1(min(16384, total - sink.got))):
                    sink.take(data)
                    sink.pace()
                word = b"whole" if sink.has(total) else b"broken after %d" % sink.got
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(word), word))
        except OSError:
            pass


def connect(port, tls=None):
    """A connection that holds little in the kernel; `tls` is the protocol to agree on."""
    tcp = socket.socket()
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    tcp.connect(("127.0.0.1", port))
    tcp.settimeout(60)
    if not tls:
        return tcp
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([tls])
    stream = context.wrap_socket(tcp, server_hostname="localhost")
    if stream.selected_alpn_protocol() != tls:
        sys.exit(f"FAILED no agreement on {tls}")
    return stream


def http1(port, tls, total, upload):
    """The body went whole, one way or the other, over HTTP/1.1."""
    stream = connect(port, "http/1.1" if tls else None)
    source = stream.makefile("rb", 16384)
    if upload:
        stream.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % total)
        for piece in pieces(total):
            stream.sendall(piece)
        return source.read(length_of(read_head(source))) == b"whole"
    stream.sendall(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % total)
    sink, expected = Sink(), length_of(read_head(source))
    while sink.got < expected and (data := source.read1(min(16384, expected - sink.got))):
        sink.take(data)
        sink.pace()
    stream.close()
    return sink.has(total)


def field(name, value):
    """A field as a literal that is not indexed (RFC 7541 §6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Http2:
    """As much of a client as one request needs (RFC 9113)."""

    def __init__(self, stream, window):
        self.stream, self.buffer = stream, bytearray()
        self.credit = {0: 65535, 1: 65535}
        stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, 0, 0, struct.pack(">HI", 4, window))
        if window > 65535:
            self.send(WINDOW_UPDATE, 0, 0, struct.pack(">I", window - 65535))

    def send(self, kind, flags, number, payload=b""):
        self.stream.sendall(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", number) + payload)

    def ask(self, method, path, total=None):
        block = field(b":method", method) + field(b":scheme", b"https") + field(b":authority", b"localhost")
        block += field(b":path", path)
        if total is not None:
            block += field(b"content-length", b"%d" % total)
        self.send(HEADERS, END_HEADERS | (END_STREAM if total is None else 0), 1, block)

    def fill(self, wanted):
        while len(self.buffer) < wanted:
            data = self.stream.recv(16384)
            if not data:
                sys.exit("FAILED weir closed the connection")
            self.buffer += data

    def frame(self):
        """The next frame's kind, flags and payload; the connection's own business is done on the way."""
        self.fill(9)
        length, kind, flags = int.from_bytes(self.buffer[:3], "big"), self.buffer[3], self.buffer[4]
        number = int.from_bytes(self.buffer[5:9], "big") & MAX_WINDOW
        self.fill(9 + length)
        payload = bytes(self.buffer[9:9 + length])
        del self.buffer[:9 + length]
        if kind == SETTINGS and not flags & ACK:
            for name, value in struct.iter_unpack(">HI", payload):
                if name == 4:
                    self.credit[1] += value - 65535
            self.send(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self.send(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            self.credit[number] += int.from_bytes(payload, "big")
        elif kind in (RESET, GOAWAY):
            sys.exit(f"FAILED frame of kind {kind}: {payload!r}")
        return kind, flags, payload


def http2(port, total, upload, window=MAX_WINDOW):
    """The same over HTTP/2 with TLS. With a small window the client reads at once and gives credit at the rate; with
    a large one it leaves the bytes in the socket."""
    client = Http2(connect(port, "h2"), window)
    if upload:
        client.ask(b"POST", b"/", total)
        sent = 0
        while sent < total:
            room = min(client.credit[0], client.credit[1], len(PIECE), total - sent)
            if room <= 0:
                client.frame()
                continue
            at = sent % len(PIECE)
            data = PIECE[at:at + room]
            sent += len(data)
            client.credit[0] -= len(data)
            client.credit[1] -= len(data)
            client.send(DATA, END_STREAM if sent == total else 0, 1, data)
    else:
        client.ask(b"GET", b"/%d" % total)
    sink, answer = Sink(), b""
    while True:
        kind, flags, payload = client.frame()
        if kind == DATA:
            sink.take(payload)
            answer = (answer + payload)[:16]
            if not upload:
                sink.pace()
            if payload and window < MAX_WINDOW:
                for number in (0, 1):
                    client.send(WINDOW_UPDATE, 0, number, struct.pack(">I", len(payload)))
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            client.stream.close()
            return answer == b"whole" if upload else sink.has(total)


class Case(threading.Thread):
    """A transfer through a Weir of its own, and what that one's memory did meanwhile."""

    def __init__(self, given, name, port_of, transfer, total):
        super().__init__(daemon=True)
        self.name, self.transfer, self.total = name, transfer, total
        self.weirs, self.port = port_of(given)
        self.whole, self.growth = False, [0] * len(self.weirs)

    def run(self):
        # What a first request sets up once is no growth.
        for _ in range(3):
            if not self.transfer(self.port, 1000):
                return
        before = [resident_kb(weir) for weir in self.weirs]
        done = threading.Event()

        def watch():
            while not done.wait(0.1):
                now = [resident_kb(weir) for weir in self.weirs]
                self.growth = [max(old, new - start) for old, new, start in zip(self.growth, now, before)]

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        self.whole = self.transfer(self.port, self.total)
        done.set()
        watching.join()


def resident_kb(weir):
    with open(f"/proc/{weir.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def certificate(home):
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9",
               "-subj", "/CN=localhost", "-keyout", f"{home}/key.pem", "-out", f"{home}/cert.pem"]
    subprocess.run([lib.tool("openssl"), *command], check=True, capture_output=True)


def main():
    given = lib.arguments(__doc__, full=(bool, False, "bodies of 1 GiB"))
    total = 20_000_000 if given.quick else (1 << 30) if given.full else 100_000_000
    crc_of(total)
    origin, home = Origin(), lib.folder()
    certificate(home)

    def weir(port, protocol="http/1.1"):
        tls = lib.free_port()
        listener = f"""
[[listener]]
name = "https"
bind = "127.0.0.1:{tls}"
[listener.tls]
certs = [{{ cert = "{home}/cert.pem", key = "{home}/key.pem" }}]
"""
        lines = f'protocol = "{protocol}"\n'
        return lib.Weir(given.binary, {"stable": port}, {"stable": 100}, listener, lines), tls

    def plain(given):
        one, _ = weir(origin.port)
        return [one], one.port

    def tls(given):
        one, port = weir(origin.port)
        return [one], port

    def chain(given):
        inner, _ = weir(origin.port)
        outer, port = weir(inner.port, "h2")
        return [outer, inner], port

    cases = []
    for way, up in (("down", False), ("up", True)):
        for name, where, transfer in [
            (f"{way} over HTTP/1.1", plain, lambda port, total, up=up: http1(port, False, total, up)),
            (f"{way} over HTTP/1.1 with TLS", tls, lambda port, total, up=up: http1(port, True, total, up)),
            (f"{way} over HTTP/2", tls, lambda port, total, up=up: http2(port, total, up)),
            (f"{way} over HTTP/2 on both sides", chain, lambda port, total, up=up: http2(port, total, up)),
        ]:
            cases.append(Case(given, name, where, transfer, total))
    credit = lambda port, total: http2(port, total, False, 256 * 1024)
    cases.append(Case(given, "down over HTTP/2, held by flow control", tls, credit, total))
    began = time.monotonic()
    for case in cases:
        case.start()
    for case in cases:
        case.join()
    print(f"      {total:,} bytes each in {time.monotonic() - began:.0f} s", flush=True)
    results = [(case, max(case.growth)) for case in cases]
    for case, growth in results:
        print(f"      {case.name}: {'whole' if case.whole else 'BROKEN'}, grew by {case.growth} KB", flush=True)
    lib.claim(all(case.whole for case, _ in results), f"{len(cases)} bodies arrived whole")
    most = max(growth for _, growth in results)
    lib.claim(most < GROWTH_KB, f"no Weir grew by {GROWTH_KB} KB: {most} KB at most")


main()
