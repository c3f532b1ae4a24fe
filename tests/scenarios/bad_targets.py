#!/usr/bin/env python3
"""Targets that speak HTTP/2 badly: each request still gets one right answer, in time, is counted once, and nothing is
left behind.

A target for each way to be bad, h2load as the client, 2,000 requests of each (`--quick`: 200, and few of those that
must time out; `--full`: 10,000 of each, also of these): the answers, Weir's counts, and how much memory and how many
files it has afterwards.
"""
import asyncio
import collections
import concurrent.futures
import http.client
import logging
import os
import re
import subprocess
import sys
import threading
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

import lib

PAGE = b"x" * 1000
Setting = h2.settings.SettingCodes


class Target(asyncio.Protocol):
    """A good one: answers each request when it is whole. The others differ in one thing each."""

    settings = {}
    answered_first = False

    def connection_made(self, transport):
        self.transport, self.taken = transport, 0
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=self.settings)
        self.h2.initiate_connection()
        self.begun()
        self.flush()

    def begun(self):
        pass

    def flush(self):
        if not self.transport.is_closing():
            self.transport.write(self.h2.data_to_send())

    def data_received(self, data):
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.flush()
            return self.transport.close()
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                self.asked(event.stream_id)
            elif isinstance(event, h2.events.DataReceived):
                self.data(event)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended(event.stream_id)
        self.flush()

    def asked(self, stream):
        self.taken += 1

    def data(self, event):
        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def ended(self, stream):
        self.answer(stream)

    def answer(self, stream, status="200", ended=True):
        self.h2.send_headers(stream, [(":status", status), ("content-length", str(len(PAGE)))])
        self.h2.send_data(stream, PAGE if ended else PAGE[:100], end_stream=ended)


class GoesAway(Target):
    """Answers ten on each connection. With the next comes GOAWAY, which leaves it out."""

    takes = 10

    def begun(self):
        self.last, self.open = None, set()

    def asked(self, stream):
        self.taken += 1
        if self.last is None and self.taken > self.takes:
            self.last = max(stream - 2, 0)
            self.flush()
            # By hand: the package takes nothing more after it.
            self.transport.write(hyperframe.frame.GoAwayFrame(0, last_stream_id=self.last).serialize())
        elif self.last is None:
            self.open.add(stream)

    def ended(self, stream):
        if stream in self.open:
            self.answer(stream)
            self.flush()
            self.open.discard(stream)
        if self.last is not None and not self.open:
            self.transport.close()


class GoesAwayAtOnce(GoesAway):
    """GOAWAY in place of any answer, on each connection."""

    takes = 0


class Resets(Target):
    reason = h2.errors.ErrorCodes.INTERNAL_ERROR

    def asked(self, stream):
        self.h2.reset_stream(stream, self.reason)

    def ended(self, stream):
        pass


class Refuses(Resets):
    """Says of each stream that it did nothing with it, for ever."""

    reason = h2.errors.ErrorCodes.REFUSED_STREAM


class TinyWindows(Target):
    settings = {Setting.INITIAL_WINDOW_SIZE: 7}


class NoWindow(Target):
    """Takes as much as there is room for, and makes no more."""

    def data(self, event):
        pass


class OneStream(Target):
    settings = {Setting.MAX_CONCURRENT_STREAMS: 1}


class NoStream(Target):
    settings = {Setting.MAX_CONCURRENT_STREAMS: 0}


class SmallHeads(Target):
    """Takes no head that is longer than 64 bytes, and says so."""

    settings = {Setting.MAX_HEADER_LIST_SIZE: 64}

    def ended(self, stream):
        self.h2.send_headers(stream, [(":status", "431"), ("content-length", "0")], end_stream=True)


class DiesMidStream(Target):
    def ended(self, stream):
        self.answer(stream, ended=False)
        self.flush()
        self.transport.close()


class ResetsMidStream(Target):
    def ended(self, stream):
        self.answer(stream, ended=False)
        self.h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)


class ShortOfItsLength(Target):
    """Ends its stream in order, and before the length that it announced."""

    def ended(self, stream):
        self.answer(stream, ended=False)
        self.h2.end_stream(stream)


class Silent(Target):
    def ended(self, stream):
        pass


class Garbage(Target):
    def asked(self, stream):
        self.transport.write(b"\xff" * 64)

    def ended(self, stream):
        pass


class NoSettings(asyncio.Protocol):
    pass


class NotHttp2(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.transport.close()


class HangsUp(asyncio.Protocol):
    def connection_made(self, transport):
        transport.close()


def serve(kinds):
    """A port for each kind of target, all in one thread."""
    ports, ready = {}, threading.Event()

    async def run():
        loop = asyncio.get_running_loop()
        for kind in kinds:
            server = await loop.create_server(kind, "127.0.0.1", 0, backlog=1024)
            ports[kind.__name__] = server.sockets[0].getsockname()[1]
        ready.set()
        await asyncio.Future()

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    ready.wait(10)
    return ports


def http1(port, path, count, body, clients=8):
    """The same over HTTP/1.1, with a connection a request: h2load ends at the first answer that is cut."""
    found = collections.Counter()
    method, fields = ("POST", {"Content-Type": "text/plain"}) if body else ("GET", {})

    def one(_):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, path, body, fields)
            answer = connection.getresponse()
            text = answer.read()
            whole = answer.status != 200 or len(text) == len(PAGE)
            return (f"{answer.status // 100}xx", "failed") if answer.status >= 400 else (f"{answer.status // 100}xx",) if whole else ("failed",)
        except (OSError, http.client.HTTPException):
            return ("failed",)
        finally:
            connection.close()

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for names in pool.map(one, range(count)):
            found.update(names)
    return dict(found), count


def h2load(port, path, count, body=None, clients=4, streams=5):
    """What the client saw: {"2xx": …, "4xx": …, "5xx": …, "cut": requests that got no whole answer}."""
    command = [lib.tool("h2load"), "-n", str(count), "-c", str(min(clients, count)), "-m", str(streams), "-N", "60s",
               f"http://127.0.0.1:{port}{path}"]
    command += ["-d", body] if body else []
    text = subprocess.run(command, capture_output=True, text=True, timeout=600).stdout
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    totals = re.search(r"(\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed", text)
    if not codes or not totals:
        sys.exit("FAILED h2load:\n" + text)
    found = {"2xx": int(codes[1]), "4xx": int(codes[3]), "5xx": int(codes[4]), "failed": int(totals[5])}
    return {name: number for name, number in found.items() if number}, int(totals[1])


class Case:
    """`seen`: the class that all answers have, or None where every one is cut. `counted`: Weir's code and the reason."""

    def __init__(self, kind, seen, counted, reason=None, body=False, slow=False, about=""):
        self.kind, self.seen, self.counted, self.reason = kind, seen, counted, reason
        self.body, self.slow, self.about = body, slow, about


CASES = [
    Case(Target, "2xx", "2xx", about="a good target"),
    Case(Target, "2xx", "2xx", body=True, about="a good target, requests with bodies"),
    Case(GoesAway, "2xx", "2xx", about="GOAWAY after ten requests"),
    Case(GoesAway, "2xx", "2xx", body=True, about="GOAWAY after ten requests with bodies"),
    Case(OneStream, "2xx", "2xx", about="one stream at a time"),
    Case(TinyWindows, "2xx", "2xx", body=True, about="windows of 7 bytes"),
    Case(SmallHeads, "4xx", "4xx", about="heads of at most 64 bytes"),
    Case(Resets, "5xx", "5xx", "reset", about="each stream is reset"),
    Case(Refuses, "5xx", "5xx", "reset", about="each stream is refused"),
    Case(GoesAwayAtOnce, "5xx", "5xx", "reset", about="GOAWAY in place of an answer"),
    Case(Garbage, "5xx", "5xx", None, about="no frames"),
    Case(NotHttp2, "5xx", "5xx", None, about="HTTP/1.1 in place of HTTP/2"),
    Case(HangsUp, "5xx", "5xx", None, about="connections are closed at once"),
    Case(DiesMidStream, None, "2xx", "reset", about="the connection dies in the middle of an answer"),
    Case(ResetsMidStream, None, "2xx", "reset", about="an answer is reset in its middle"),
    Case(ShortOfItsLength, None, "2xx", "reset", about="an answer shorter than its length"),
    Case(NoWindow, "5xx", "5xx", "timeout", body=True, slow=True, about="a window that never opens"),
    Case(NoStream, "5xx", "5xx", "timeout", slow=True, about="no stream at all"),
    Case(NoSettings, "5xx", "5xx", "timeout", slow=True, about="not a word"),
    Case(Silent, "5xx", "5xx", "timeout", slow=True, about="no answer"),
]


def run(weir, case, count, body, client, *at_once):
    path = f"/{case.kind.__name__.lower()}/"
    route = case.kind.__name__.lower()
    reasons = ("connect", "reset", "timeout", "bad_response", "no_target", "queue", "client_abort")

    def counts():
        by_code = {code: weir.metric("weir_requests_total", route=route, code=code) for code in
                   ("2xx", "4xx", "5xx", "none")}
        by_reason = {reason: weir.metric("weir_request_errors_total", route=route, reason=reason) for reason in reasons}
        return {**by_code, **by_reason}

    before, began = counts(), time.monotonic()
    seen, total = client(weir.port, path, count, body if case.body else None, *at_once)
    took = time.monotonic() - began
    lib.until("all are counted", lambda: weir.metric("weir_requests_in_flight", route=route) == 0, 30)
    counted = {name: int(number - before[name]) for name, number in counts().items() if number > before[name]}
    lines = f"{case.about}, {client.__name__}: {count:,} in {took:.1f} s; seen {seen}, counted {counted}"
    cut = case.seen is None
    right = seen.get("failed", 0) == count if cut else seen.get(case.seen, 0) == count
    codes = {name: number for name, number in counted.items() if name.endswith("xx") or name == "none"}
    errors = {name: number for name, number in counted.items() if name in reasons}
    # Where a connection dies, so do the requests beside the one that is cut.
    allowed = {"2xx", "5xx"} if cut else {case.counted}
    once = sum(codes.values()) == count and set(codes) <= allowed and total == count
    blamed = sum(errors.values()) == (0 if case.counted[0] in "24" and not cut else count)
    named = case.reason is None or not errors or set(errors) == {case.reason}
    lib.claim(right and once and blamed and named, lines)


def main():
    given = lib.arguments(__doc__, full=(bool, False, "10,000 requests of each"))
    # Of connections that Weir has closed meanwhile.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    kinds = list(dict.fromkeys(case.kind for case in CASES))
    ports = serve(kinds)
    tables = "".join(f"""
[pool.{name.lower()}]
targets = ["127.0.0.1:{port}"]
protocol = "h2"
[[route]]
name = "{name.lower()}"
match = {{ path = "/{name.lower()}" }}
variants = {{ only = "{name.lower()}" }}
timeout = "2s"
""" for name, port in ports.items())
    tables += '[limits]\nbody_idle_timeout = "2s"\n'
    weir = lib.Weir(given.binary, {"stable": ports["Target"]}, {"stable": 100}, tables)
    small, large = (f"{lib.folder()}/body" for _ in range(2))
    for path, size in ((small, 200), (large, 200_000)):
        with open(path, "w") as out:
            out.write("y" * size)
    for case in CASES:
        count = 10_000 if given.full else (8 if given.quick else 100) if case.slow else (200 if given.quick else 2000)
        # Those that wait for a time-out wait together.
        many = (20, 20) if given.full and case.slow else ()
        body = large if case.kind is NoWindow else small
        # Pools, buffers and counters are there after the first ones.
        run(weir, case, 400 if many else 8 if case.slow else 100, body, h2load, *many)
        lib.until("Weir is at rest", lambda: weir.metric("weir_requests_in_flight") == 0)
        memory, files = weir.memory()
        run(weir, case, count, body, h2load, *many)
        run(weir, case, count, open(body, "rb").read(), http1, *((200,) if many else ()))
        lib.until(f"{case.about}: no more than {files + 8} files are open", lambda: weir.memory()[1] <= files + 8, 30)
        grown = weir.memory()[0] - memory
        lib.claim(grown < 6 << 20, f"{case.about}: memory has grown by {grown / 1024:,.0f} KiB")
    status = weir.ask("GET", "/readyz")[0]
    lib.claim(status == 200 and "panic" not in weir.log(), "Weir is well")


main()
lib._clean()
sys.stdout.flush()
# The targets' thread waits for connections and nothing else.
os._exit(0)
