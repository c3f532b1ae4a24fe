#!/usr/bin/env python3
"""A certificate is replaced again and again under load: no handshake fails, each new one is seen, nothing is closed.

Clients that verify connect all the time beside wrk with a handshake a request; others keep one connection throughout.
The files are replaced in turn by every way that there is: certificate first, key first, renamed into place, written in
place, by a link that is turned, and with a reload. Full run: 100 replacements.
"""
import os
import re
import signal
import socket
import ssl
import subprocess
import threading

import lib
from authority import Authority


def write(path, text):
    with open(path, "w") as out:
        out.write(text)


def renamed(path, text):
    write(path + ".new", text)
    os.rename(path + ".new", path)


def replace(home, number, cert, key):
    """Puts the pair into place in one of the ways that there are."""
    way = number % 5
    live = os.path.realpath(f"{home}/live")
    if way == 0:
        write(f"{live}/site.crt", cert)
        write(f"{live}/site.key", key)
    elif way == 1:
        write(f"{live}/site.key", key)
        write(f"{live}/site.crt", cert)
    elif way == 2:
        renamed(f"{live}/site.crt", cert)
        renamed(f"{live}/site.key", key)
    elif way == 3:
        renamed(f"{live}/site.key", key)
        renamed(f"{live}/site.crt", cert)
    else:
        new = f"{home}/version-{number}"
        os.mkdir(new)
        write(f"{new}/site.crt", cert)
        write(f"{new}/site.key", key)
        os.symlink(new, f"{home}/live.new")
        os.rename(f"{home}/live.new", f"{home}/live")
    return way


def handshake(context, port):
    """A connection, and the serial number of the certificate that it showed."""
    tcp = socket.create_connection(("127.0.0.1", port), timeout=20)
    tls = context.wrap_socket(tcp, server_hostname="localhost")
    return tls, int(tls.getpeercert()["serialNumber"], 16)


class Clients(threading.Thread):
    """Connects, asks, closes, until told to stop; with sessions to resume or without."""

    def __init__(self, authority, port, version):
        super().__init__(daemon=True)
        self.authority, self.port, self.version = authority, port, version
        self.running, self.handshakes, self.failures, self.seen = True, 0, [], set()

    def run(self):
        context = self.authority.context()
        context.maximum_version = self.version
        while self.running:
            try:
                tls, serial = handshake(context, self.port)
                tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := tls.recv(65536):
                    answer += part
                tls.close()
                if not answer.endswith(b"variant-stable;"):
                    self.failures.append(f"answered {answer[:80]}")
                self.seen.add(serial)
                self.handshakes += 1
            except OSError as error:
                self.failures.append(repr(error))


def load(port):
    command = [lib.tool("wrk"), "-t1", "-c16", "-d900s", "--timeout", "10s", "-H", "Connection: close",
               f"https://127.0.0.1:{port}/"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lib._children.append(process)
    return process


def main():
    given = lib.arguments(__doc__)
    count = 20 if given.quick else 100
    home = lib.folder()
    authority = Authority(home)
    os.mkdir(f"{home}/version-0")
    os.symlink(f"{home}/version-0", f"{home}/live")
    cert, key = authority.issue(1000)
    write(f"{home}/live/site.crt", cert)
    write(f"{home}/live/site.key", key)
    port = lib.free_port()
    listener = f"""
[[listener]]
name = "https"
bind = "127.0.0.1:{port}"
[listener.tls]
certs = [{{ cert = "{home}/live/site.crt", key = "{home}/live/site.key" }}]
"""
    pairs = {number: authority.issue(number) for number in range(1, count + 1)}
    weir = lib.Weir(given.binary, {"stable": lib.nginx("stable")}, {"stable": 100}, listener)
    context = authority.context()
    kept = [handshake(context, port)[0] for _ in range(4)]
    clients = [Clients(authority, port, version) for version in
               (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)]
    process = load(port)
    for client in clients:
        client.start()
    for number, (cert, key) in pairs.items():
        way = replace(home, number, cert, key)
        if way == 3:
            status, _, text = weir.ask("POST", "/api/v1/reload")
            if status != 200:
                lib.claim(False, f"a reload took certificate {number}: {status} {text}")

        def shows_it():
            tls, serial = handshake(context, port)
            tls.close()
            return serial == number

        lib.until(f"certificate {number} is served", shows_it, 10)
        for tls in kept:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"variant-stable;"):
                part = tls.recv(65536)
                if not part:
                    lib.claim(False, f"a kept connection was closed at replacement {number}")
                answer += part
    for client in clients:
        client.running = False
    for client in clients:
        client.join(30)
    # Before wrk hangs up on its last handshakes.
    metrics = weir.ask("GET", "/metrics")[2]
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    failures = [failure for client in clients for failure in client.failures]
    total = sum(client.handshakes for client in clients)
    seen = set.union(*(client.seen for client in clients))
    lib.claim(not failures, f"{total:,} handshakes that verify, none failed {failures[:3] or ''}")
    lib.claim(seen >= set(pairs), f"each of {count} certificates was seen by them")
    lib.claim(True, f"{len(kept)} connections were kept throughout")
    sent = int(re.search(r"(\d+) requests in", text)[1])
    lib.claim("Socket errors" not in text and "Non-2xx" not in text, f"wrk saw no error in {sent:,} requests")
    outcomes = dict(re.findall(r'weir_tls_handshakes_total\{listener="https",outcome="(\w+)"\} (\d+)', metrics))
    # One is wrk's: it connects once at its start to see whether somebody listens.
    good = int(outcomes["failed"]) <= 1 and outcomes["timeout"] == outcomes["shed"] == "0"
    lib.claim(good, f"Weir counted {outcomes}")
    current = re.search(r"weir_tls_last_reload_success (\d)", metrics)[1]
    lib.claim(current == "1", "and has every file as it stands")


main()
