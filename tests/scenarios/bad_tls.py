#!/usr/bin/env python3
"""Bad days of TLS, on both sides: who speaks the wrong protocol, shows the wrong certificate or none, or stops halfway.

Clients: HTTP on the TLS port and TLS on the plain one, unknown names, no common ALPN, no certificate where one is
needed, handshakes that stall. Targets: an unknown authority, an expired certificate, another host's, none at all, one
that wants a certificate, an answer cut without close_notify. Each has its answer, its count and its line in the log;
then each 2,000 times (`--quick`: 100), after which no file and no memory is left behind.
"""
import http.client
import os
import re
import socket
import ssl
import sys
import threading
import time

import lib
from authority import Authority


class Target:
    """Speaks TLS with this certificate; its answer is cut after 100 of 1,000 bytes, or whole."""

    def __init__(self, pair, clients=None, cut=False):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*pair)
        if clients:
            self.context.load_verify_locations(clients)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.cut, self.socket = cut, socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            threading.Thread(target=self.one, args=(self.socket.accept()[0],), daemon=True).start()

    def one(self, tcp):
        try:
            tcp.settimeout(20)
            with self.context.wrap_socket(tcp, server_side=True) as tls:
                while True:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        part = tls.recv(65536)
                        if not part:
                            return
                        head += part
                    if self.cut:
                        # The answer's end is the connection's: an end of TLS must be in order.
                        tls.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 100)
                        socket.socket(fileno=tls.detach()).close()
                        return
                    tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except OSError:
            tcp.close()


def raw(port, data, seconds=20):
    """All that comes back for these bytes, until the end; and whether that was a reset."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        got = b""
        try:
            client.sendall(data)
            while part := client.recv(65536):
                got += part
        except ConnectionError:
            return got, True
        return got, False


def shake(port, context, name="localhost"):
    """A handshake and a request; the error, if there is one, else the status."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as tcp, context.wrap_socket(tcp, server_hostname=name) as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(tls.recv(65536).split()[1])
    except (OSError, IndexError) as error:
        return getattr(error, "reason", None) or repr(error)


def asked(port, path):
    """The status, or what broke."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


class Clients:
    """What a bad client does, and what it gets; `outcome` is how the handshake is counted."""

    def __init__(self, weir, ports, authority):
        self.weir, self.ports, self.authority = weir, ports, authority

    def context(self, alpn=None):
        context = self.authority.context()
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def plain_on_tls(self):
        got, reset = raw(self.ports["https"], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return got.startswith(b"HTTP/1.1 400 ") and b"https://" in got and not reset, got[:40]

    def tls_on_plain(self):
        error = shake(self.weir.port, self.context())
        return error in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"), error

    def noise_on_tls(self):
        got, reset = raw(self.ports["https"], b"\x00\x01\x02\x03" * 16)
        return got[:1] in (b"", b"\x15"), got[:16]

    def unknown_name(self):
        context = self.context()
        context.check_hostname = False
        status = shake(self.ports["https"], context, "elsewhere.test")
        return status == 200, status

    def no_common_alpn(self):
        error = shake(self.ports["https"], self.context(["spdy/3"]))
        return "no application protocol" in str(error), error

    def no_certificate(self):
        error = shake(self.ports["machines"], self.context())
        return "CERTIFICATE_REQUIRED" in str(error), error

    def strange_certificate(self):
        context = self.context()
        context.load_cert_chain(*self.stranger)
        error = shake(self.ports["machines"], context)
        return "UNKNOWN_CA" in str(error), error

    def gone_in_handshake(self):
        with socket.create_connection(("127.0.0.1", self.ports["https"]), timeout=20) as client:
            client.sendall(bytes.fromhex("160301020001"))
        return True, "closed"


ABOUT = {
    "plain_on_tls": ("HTTP on the TLS port: 400 that says so", "https", "it speaks HTTP without TLS"),
    "tls_on_plain": ("TLS on the plain port: refused", None, "it speaks TLS, and the listener does not"),
    "noise_on_tls": ("neither TLS nor HTTP", "https", None),
    "unknown_name": ("a name that no certificate has: the first one, and the client decides", None, None),
    "no_common_alpn": ("no common ALPN: an alert", "https", None),
    "no_certificate": ("no certificate where one is needed", "machines", "it showed no certificate"),
    "strange_certificate": ("a certificate of another authority", "machines", "its certificate"),
    "gone_in_handshake": ("gone in the handshake", "https", None),
}


def clients(weir, ports, authority, stranger, count):
    bad = Clients(weir, ports, authority)
    bad.stranger = stranger
    for name, (about, listener, log) in ABOUT.items():
        one = getattr(bad, name)
        for _ in range(20):
            one()
        failed = lambda: weir.metric("weir_tls_handshakes_total", listener=listener or "none", outcome="failed")  # noqa: E731
        lib.until("the first are counted", lambda: not listener or failed() >= 20 or time.sleep(0.2) is None)
        time.sleep(0.3)
        before, (memory, files) = failed(), weir.memory()
        wrong = [got for right, got in (one() for _ in range(count)) if not right]
        lib.claim(not wrong, f"{about}, {count:,} times {wrong[:3] or ''}")
        if listener:
            lib.until(f"{about}: each is counted once ({failed() - before:.0f})", lambda: failed() - before == count)
        if log:
            # At most one line a second: these may have come right after another's.
            lib.until(f"{about}: the log says “{log}”", lambda: log in weir.log() or (one(), time.sleep(0.2))[1])
        rest(weir, about, memory, files)


def rest(weir, about, memory, files):
    lib.until(f"{about}: no file is left open", lambda: weir.memory()[1] <= files + 8, 30)
    grown = weir.memory()[0] - memory
    lib.claim(grown < 6 << 20, f"{about}: memory has grown by {grown / 1024:,.0f} KiB")


def stalled(weir, port, count):
    """Handshakes that stand still: closed at their time; others get in meanwhile."""
    before = weir.metric("weir_tls_handshakes_total", listener="https", outcome="timeout")
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(count)]
    for at, one in enumerate(sockets):
        one.sendall(bytes.fromhex("160301020001")[:at % 7])
    began = time.monotonic()
    for one in sockets:
        try:
            while one.recv(65536):
                pass
        except ConnectionError:
            pass
        one.close()
    took = time.monotonic() - began
    counted = weir.metric("weir_tls_handshakes_total", listener="https", outcome="timeout") - before
    lib.claim(took < 6 and counted == count, f"{count} stalled handshakes are closed within {took:.1f} s, {counted:.0f} counted")


def targets(weir, names, count):
    reasons = ("connect", "reset", "timeout", "bad_response", "no_target", "queue", "client_abort")
    for name, (about, seen, code, reason, log) in names.items():
        def counts():
            return ({one: weir.metric("weir_requests_total", route=name, code=one) for one in ("2xx", "4xx", "5xx", "none")},
                    {one: weir.metric("weir_request_errors_total", route=name, reason=one) for one in reasons})

        for _ in range(20):
            asked(weir.port, f"/{name}")
        before, (memory, files) = counts(), weir.memory()
        wrong = [got for got in (asked(weir.port, f"/{name}") for _ in range(count)) if got not in seen]
        lib.until("all are counted", lambda: weir.metric("weir_requests_in_flight") == 0)
        codes, blamed = ({key: int(now[key] - then[key]) for key in now if now[key] > then[key]}
                         for now, then in zip(counts(), before))
        right = not wrong and codes == {code: count} and blamed == ({reason: count} if reason else {})
        lib.claim(right, f"{about}, {count:,} times: {sorted(map(str, seen))}, counted {codes} {blamed} {wrong[:3] or ''}")
        if log:
            line = re.search(f".*{log}.*", weir.log())
            lib.claim(line is not None, f"{about}: the log says “{line[0].split('  ', 1)[-1][:150] if line else log}”")
        rest(weir, about, memory, files)


def main():
    given = lib.arguments(__doc__)
    count = 100 if given.quick else 2000
    home, other = lib.folder(), Authority(lib.folder(), "another")
    ours = Authority(home)
    clients_ca = Authority(lib.folder(), "clients")
    good, expired, elsewhere = ours.pair(3), ours.pair(5, days=-1), ours.pair(7, name="elsewhere.test")
    kinds = {
        "unknown": (Target(other.pair(9)).port, ""), "expired": (Target(expired).port, ""),
        "elsewhere": (Target(elsewhere).port, ""), "plain": (lib.nginx("plain"), ""),
        "wants": (Target(good, clients=f"{clients_ca.home}/ca.pem").port, ""),
        "cut": (Target(good, cut=True).port, ""), "good": (Target(good).port, ""),
        "nobody": (lib.free_port(), ""),
    }
    tables = "".join(f"""
[pool.{name}]
targets = ["127.0.0.1:{port}"]
tls = {{ ca = "{home}/ca.pem", server_name = "localhost" }}
[[route]]
name = "{name}"
match = {{ path = "/{name}" }}
variants = {{ only = "{name}" }}
timeout = "5s"
""" for name, (port, _) in kinds.items())
    https, listener = lib.https(ours)
    machines = lib.free_port()
    tables += listener + listener.replace('"https"', '"machines"').replace(str(https), str(machines))
    tables += f'client_ca = "{clients_ca.home}/ca.pem"\nclient_auth = "require"\n[limits]\nhandshake_timeout = "2s"\n'
    weir = lib.Weir(given.binary, {"stable": lib.nginx("stable")}, {"stable": 100}, tables)
    clients(weir, {"https": https, "machines": machines}, ours, other.pair(11), count)
    stalled(weir, https, 100 if given.quick else 1000)
    targets(weir, {
        "good": ("a good target", {200}, "2xx", None, None),
        "unknown": ("a target of an unknown authority", {502}, "5xx", "connect", "authority that is not trusted"),
        "expired": ("a target whose certificate has expired", {502}, "5xx", "connect", "the target's certificate (has )?expired"),
        "elsewhere": ("a target with another host's certificate", {502}, "5xx", "connect", "is not for localhost"),
        "plain": ("a target that does not speak TLS", {502}, "5xx", "connect", "does not speak TLS there"),
        "nobody": ("nobody there", {502}, "5xx", "connect", "[Cc]onnection refused"),
        "wants": ("a target that wants a certificate", {502}, "5xx", "reset", "[Cc]ertificate ?[Rr]equired"),
        "cut": ("an answer cut without close_notify", {"IncompleteRead", "RemoteDisconnected"}, "2xx", "reset", None),
    }, count)
    lib.claim("panic" not in weir.log() and weir.ask("GET", "/readyz")[0] == 200, "Weir is well")


main()
sys.stdout.flush()
lib._clean()
# The targets' threads wait for connections and nothing else.
os._exit(0)
