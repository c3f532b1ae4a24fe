"""A client over HTTP/1.1 that asks at a bounded rate and knows of every request what became of it."""
import asyncio
import collections
import re
import threading
import time

import lib

HEAD = re.compile(rb"HTTP/1\.1 (\d{3})")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
VERSION = re.compile(rb"\r\nx-version: *(\w+)", re.I)
CLOSE = re.compile(rb"\r\nconnection: *close", re.I)


def get(number, path="/"):
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\nX-Id: %d\r\n\r\n" % (path.encode(), number)


def post(number, length, path="/"):
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nX-Id: %d\r\nContent-Length: %d\r\n\r\n"
    return head % (path.encode(), number, length) + b"x" * length


class Connection(asyncio.Protocol):
    """Over HTTP/1.1. Another kind has the same `ask`, `under_way` and `transport`, and calls the load's `free`, `heard`
    and `lost`."""

    def __init__(self, load):
        self.load, self.number, self.buffer = load, None, b""

    def connection_made(self, transport):
        self.transport = transport
        self.load.free(self)

    def ask(self, number, request):
        self.number = number
        self.transport.write(request)

    def data_received(self, data):
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        status, length = HEAD.match(head), LENGTH.search(head)
        if not status or not length:
            return self.load.end(f"an answer that this client can't read: {self.buffer[:300]}")
        if len(body) < int(length[1]):
            return
        number, self.number, self.buffer = self.number, None, b""
        if number is None:
            return self.load.end(f"an answer that nobody asked for: {head}")
        version = VERSION.search(head)
        self.load.heard(number, int(status[1]), version[1].decode() if version else None, head, body)
        if CLOSE.search(head):
            self.transport.close()
        else:
            self.load.free(self)

    def under_way(self):
        return [] if self.number is None else [self.number]

    def connection_lost(self, _):
        self.load.lost(self)


class Load:
    """`total` requests, `rate` a second, over so many kept connections.

    `request` makes a request of its number. `counts` is {(version, status): answers}, with the status 0 for requests
    that ended without a whole answer; `failures` has those that were not answered 200, {number: status}.
    `look(number, status, head, body)` is called with each answer, if it is set.
    A request that is due while all connections are busy is sent when one is free: none is left out.
    """

    def __init__(self, port, rate, total, request=get, connections=64, context=None, kind=Connection):
        self.port, self.rate, self.total, self.request = port, rate, total, request
        self.connections, self.context, self.kind = connections, context, kind
        self.sent, self.done, self.reopened = 0, 0, 0
        self.idle, self.under_way, self.all = collections.deque(), {}, set()
        self.counts, self.failures, self.slowest, self.took = collections.Counter(), {}, 0.0, 0.0
        self.look, self.opening, self.broken = None, set(), None

    def end(self, why):
        self.broken = self.broken or why

    def outstanding(self):
        """The numbers of the requests that are sent and not answered."""
        return set(self.under_way)

    def free(self, connection):
        self.all.add(connection)
        self.idle.append(connection)

    def heard(self, number, status, version, head, body):
        self.done += 1
        self.slowest = max(self.slowest, time.monotonic() - self.under_way.pop(number))
        self.counts[(version, status)] += 1
        if status != 200:
            self.failures[number] = status
        if self.look:
            self.look(number, status, head, body)

    def lost(self, connection):
        self.all.discard(connection)
        self.idle = collections.deque(other for other in self.idle if other is not connection)
        for number in connection.under_way():
            self.heard(number, 0, None, b"", b"")
        if self.done < self.total:
            self.reopened += 1
            task = asyncio.ensure_future(self.open())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def open(self):
        name = "localhost" if self.context else None
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.kind(self), "127.0.0.1", self.port, ssl=self.context, server_hostname=name)
        except OSError as error:
            self.end(f"no connection: {error}")

    async def run(self):
        for _ in range(self.connections):
            await self.open()
        began = heard = time.monotonic()
        done = 0
        while self.done < self.total:
            now = time.monotonic()
            due = int(min(self.total, (now - began) * self.rate + 1))
            while self.sent < due and self.idle:
                number = self.sent
                self.under_way[number] = now
                self.sent += 1
                self.idle.popleft().ask(number, self.request(number))
            if self.broken:
                lib.claim(False, self.broken)
            if self.done > done:
                done, heard = self.done, now
            if now - heard > 60:
                self.end(f"no answer for a minute: {self.sent:,} sent, {self.done:,} answered")
            await asyncio.sleep(0.004)
        self.took = time.monotonic() - began
        for connection in list(self.all):
            connection.transport.close()

    def stop(self):
        """No more requests; those that are sent are answered yet."""
        self.total = self.sent


class Steady:
    """A load without an end, in a thread of its own, until `stop`."""

    def __init__(self, port, rate, request=get, **more):
        self.load = Load(port, rate, float("inf"), request, **more)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.load.run()), daemon=True)
        self.thread.start()

    def stop(self):
        """The load, with each of its requests accounted for."""
        self.load.stop()
        self.thread.join(timeout=90)
        if self.thread.is_alive() or not self.load.took:
            lib.claim(False, f"a load ends: {self.load.sent:,} sent, {self.load.done:,} answered")
        return self.load
