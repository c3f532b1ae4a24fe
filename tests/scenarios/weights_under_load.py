#!/usr/bin/env python3
"""Weights change through the API under wrk with 64 connections: no error, no connection closed, no stale table.

After every acknowledged change, witnesses ask on connections that they keep and must get the new variant. Then two
writers with one ETag: one 200, one 412. Full run: 2,000 changes.
"""
import re
import signal
import subprocess
import threading
import time

import lib


def client_ports(port):
    """Local ports of the established connections to a loopback port, and their number."""
    found = set()
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if state == "01" and remote == f"0100007F:{port:04X}":
            found.add(int(local.split(":")[1], 16))
    return found


def load(port, connections):
    command = [lib.tool("wrk"), "-t2", f"-c{connections}", "-d900s", "--timeout", "10s", f"http://127.0.0.1:{port}/"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lib._children.append(process)
    ports = lib.until("wrk is connected", lambda: len(client_ports(port)) >= connections and client_ports(port))
    return process, ports


def change_and_watch(weir, changes):
    """Shifts everything to and fro; every witness must see each change with its next request."""
    witnesses = [lib.socket.create_connection(("127.0.0.1", weir.port), timeout=10) for _ in range(4)]
    stale = 0
    for turn in range(changes):
        share = 100 if turn % 2 == 0 else 0
        weir.shift(canary=share)
        expected = b"variant-canary;" if share else b"variant-stable;"
        for witness in witnesses:
            witness.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        for witness in witnesses:
            answer = b""
            while not answer.endswith(b";"):
                part = witness.recv(65536)
                if not part:
                    lib.claim(False, f"a witness's connection was closed at change {turn + 1}")
                answer += part
            stale += expected not in answer
    lib.claim(stale == 0, f"{changes * len(witnesses):,} requests after {changes:,} changes saw the acknowledged table")
    return {witness.getsockname()[1] for witness in witnesses}, witnesses


def two_writers(weir, shares):
    """Both change something: a change to what is live already is none, and leaves the generation."""
    _, etag = weir.document()
    path, statuses = f"/api/v1/routes/{lib.ROUTE}/weights", []

    def write(share):
        status, _, _ = weir.ask("PATCH", path, {"weights": {"canary": share}}, {"If-Match": etag})
        statuses.append(status)

    writers = [threading.Thread(target=write, args=(share,)) for share in shares]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    if sorted(statuses) != [200, 412]:
        lib.claim(False, f"two writers with one ETag: {sorted(statuses)}")


def main():
    given = lib.arguments(__doc__)
    changes = 200 if given.quick else 2_000
    targets = {name: lib.nginx(name) for name in ("stable", "canary")}
    weir = lib.Weir(given.binary, targets, {"stable": 100, "canary": 0})
    process, before = load(weir.port, 64)
    generation = weir.document()[0]["generation"]
    started = time.monotonic()
    own, witnesses = change_and_watch(weir, changes)
    took = time.monotonic() - started
    after = client_ports(weir.port) - own
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    sent = int(re.search(r"(\d+) requests in", text)[1])
    lib.claim(after == before, f"the {len(before)} connections of wrk are the same after {took:.1f} s and {sent:,} requests")
    lib.claim("Socket errors" not in text and "Non-2xx" not in text, "wrk saw no error")
    lib.claim(weir.document()[0]["generation"] == generation + changes, f"the generation rose by {changes:,}")
    failed = {key: count for key, count in weir.counts().items() if key[1] not in ("2xx", "none")}
    lib.claim(not failed, f"Weir counted no answer but 2xx {failed or ''}")
    for turn in range(20):
        two_writers(weir, (turn + 10, turn + 50))
    lib.claim(True, "20 times two writers with one ETag: one 200, one 412")


main()
