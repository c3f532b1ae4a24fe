#!/usr/bin/env python3
"""A canary that answers 500 to everything, that resets, that hangs: with rescue no client sees an error, the canary's
counters are exact, and no POST is sent twice.

Three times 100,000 GETs with the canary at 15 %; --quick sends 6,000. POSTs carry ids that both upstreams count.
"""
import http.client
import itertools
import re
import socket
import struct
import threading
import time

import lib

ROUTE_LINES = """timeout = "300ms"
rescue = { on = ["connect", "reset", "timeout", "5xx"], budget = "30%" }"""
THREADS = 8


class Upstream:
    """Raw: reads heads and bodies, counts GETs and the ids of POSTs, and does what `fault` says at the moment."""

    def __init__(self, name):
        self.name, self.fault, self.gets, self.ids = name, None, 0, []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = connection.recv(65536)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.I)
                while length and len(buffer) < int(length[1]):
                    buffer += connection.recv(65536)
                buffer = buffer[int(length[1]):] if length else buffer
                with self.lock:
                    if head.startswith(b"GET"):
                        self.gets += 1
                    else:
                        self.ids.append(re.search(rb"x-id: *(\w+)", head, re.I)[1])
                if self.fault == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if self.fault == "hang":
                    time.sleep(1)
                    return
                status = 500 if self.fault == "500" else 200
                body = self.name.encode()
                connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        except OSError:
            pass
        finally:
            connection.close()


def clients(port, total, method, ids=None):
    """{(status, body): count} of `total` requests over THREADS connections."""
    counts, lock = {}, threading.Lock()
    assert total % THREADS == 0

    def one(share):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        own = {}
        for _ in range(share):
            headers = {"x-id": f"id{next(ids)}"} if ids else {}
            connection.request(method, "/", b"hi" if ids else None, headers)
            answer = connection.getresponse()
            key = (answer.status, answer.read().decode()[:8])
            own[key] = own.get(key, 0) + 1
        with lock:
            for key, count in own.items():
                counts[key] = counts.get(key, 0) + count

    threads = [threading.Thread(target=one, args=(total // THREADS,)) for _ in range(THREADS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return counts


def metric(weir, family, **labels):
    found = 0
    for line in weir.ask("GET", "/metrics")[2].splitlines():
        if line.startswith(family + "{") and all(f'{name}="{value}"' in line for name, value in labels.items()):
            found += int(float(line.rsplit(" ", 1)[1]))
    return found


def main():
    given = lib.arguments(__doc__)
    totals = {"500": 100_000, "reset": 100_000, "hang": 100_000}
    if given.quick:
        totals = {"500": 6_000, "reset": 6_000, "hang": 400}
    ids = itertools.count()
    reasons = {"500": None, "reset": "reset", "hang": "timeout"}
    for fault, total in totals.items():
        # Anew each time: no connection was kept from the time when the canary failed otherwise.
        stable, canary = Upstream("stable"), Upstream("canary")
        canary.fault = fault
        weir = lib.Weir(
            given.binary, {"stable": stable.port, "canary": canary.port}, {"stable": 85, "canary": 15}, ROUTE_LINES
        )
        counts = clients(weir.port, total, "GET")
        lib.claim(counts == {(200, "stable"): total}, f"{fault}: {total:,} GETs, all answered by the baseline: {counts}")
        lib.until("the last request is counted", lambda: metric(weir, "weir_requests_in_flight") == 0)
        lib.claim(canary.gets > total * 0.05, f"{fault}: the canary had {canary.gets:,} of them")
        lib.claim(stable.gets == total, f"{fault}: the baseline had each once")
        charged = metric(weir, "weir_requests_total", variant="canary", code="5xx")
        lib.claim(charged == canary.gets, f"{fault}: {charged:,} are charged to the canary")
        rescued = metric(weir, "weir_rescued_total")
        lib.claim(rescued == canary.gets, f"{fault}: {rescued:,} are counted as rescued")
        if reasons[fault]:
            blamed = metric(weir, "weir_request_errors_total", variant="canary", reason=reasons[fault])
            lib.claim(blamed == canary.gets, f"{fault}: with the reason {reasons[fault]}")
        posts = 80 if fault == "hang" else 800
        counts = clients(weir.port, posts, "POST", ids)
        seen = stable.ids + canary.ids
        lib.claim(len(seen) == len(set(seen)) == posts, f"{fault}: each of {posts} POSTs was sent once ({counts})")
        lib.claim(metric(weir, "weir_retries_total") == 0, f"{fault}: and nothing was retried")
        weir.kill()


main()
