#!/usr/bin/env python3
"""gRPC by the package grpcio through Weir: clients over TLS and h2c, targets over h2c and TLS, every kind of call.

Unary, client-streaming, server-streaming and both ways; metadata and trailers, errors without a message and in the
middle of a stream, deadlines, cancelling, large messages; then a thousand calls (`--quick`: 200), which the clients, the servers and
Weir's metrics must count alike, each by its status.
"""
import collections
import concurrent.futures
import random
import sys
import threading
import time

import grpc

import h2client
import lib
from authority import Authority

BIG = 8 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# What Weir counts a status as.
CLASSES = {0: "2xx", 1: "4xx", 3: "4xx", 5: "4xx", 7: "4xx", 8: "4xx", 10: "4xx", 16: "4xx",
           2: "5xx", 4: "5xx", 12: "5xx", 13: "5xx", 14: "5xx", 15: "5xx"}


class Service(grpc.GenericRpcHandler):
    """Calls without protobuf: messages are bytes."""

    def __init__(self, version):
        self.version, self.lock = version, threading.Lock()
        self.calls, self.statuses, self.cancelled, self.abandoned = 0, collections.Counter(), threading.Event(), 0

    def service(self, details):
        kind = details.method.rsplit("/", 1)[1]
        kinds = {"unary": grpc.unary_unary_rpc_method_handler, "up": grpc.stream_unary_rpc_method_handler,
                 "down": grpc.unary_stream_rpc_method_handler, "both": grpc.stream_stream_rpc_method_handler,
                 "late": grpc.unary_stream_rpc_method_handler, "slow": grpc.unary_unary_rpc_method_handler,
                 "endless": grpc.unary_stream_rpc_method_handler}
        if kind not in kinds:
            return None
        return kinds[kind](getattr(self, kind))

    def begin(self, context):
        with self.lock:
            self.calls += 1
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-version", self.version), ("x-got", sent.get("x-asked", "")),
                                       ("x-got-hex", sent.get("x-asked-bin", b"").hex())))
        context.set_trailing_metadata((("x-trailer", "1"), ("x-trailer-bin", b"\x00\xff")))
        return sent

    def end(self, status):
        with self.lock:
            self.statuses[status] += 1

    def unary(self, message, context):
        with self.lock:
            self.calls += 1
        sent = dict(context.invocation_metadata())
        status = int(sent.get("x-fail", 0))
        self.end(status)
        if status:
            # Nothing was sent before: an answer of trailers only.
            context.set_trailing_metadata((("x-trailer", "1"),))
            code = next(code for code in grpc.StatusCode if code.value[0] == status)
            context.abort(code, "as asked, 100% \u00fc")
        context.send_initial_metadata((("x-version", self.version), ("x-got", sent.get("x-asked", "")),
                                       ("x-got-hex", sent.get("x-asked-bin", b"").hex())))
        context.set_trailing_metadata((("x-trailer", "1"), ("x-trailer-bin", b"\x00\xff")))
        return message

    def up(self, messages, context):
        self.begin(context)
        total = sum(len(message) for message in messages)
        self.end(0)
        return str(total).encode()

    def down(self, message, context):
        self.begin(context)
        for number in range(int(message)):
            yield str(number).encode()
        self.end(0)

    def both(self, messages, context):
        self.begin(context)
        for message in messages:
            yield message
        self.end(0)

    def late(self, message, context):
        self.begin(context)
        yield b"one"
        yield b"two"
        self.end(13)
        context.abort(grpc.StatusCode.INTERNAL, "in the middle")

    def slow(self, message, context):
        """Answers nothing until the client has gone."""
        self.begin(context)
        ended = threading.Event()
        context.add_callback(ended.set)
        if ended.wait(20):
            self.abandoned += 1
            self.cancelled.set()
        return b""

    def endless(self, message, context):
        self.begin(context)
        ended = threading.Event()
        context.add_callback(ended.set)
        yield b"first"
        while not ended.wait(0.02):
            yield b"more"
        self.abandoned += 1
        self.cancelled.set()


def serve(version, credentials=None):
    pool = concurrent.futures.ThreadPoolExecutor(64)
    server, service = grpc.server(pool, options=UNLIMITED), Service(version)
    server.add_generic_rpc_handlers((service,))
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    return server, service, port


def status_of(call):
    """A call's status, its text and trailing metadata."""
    try:
        call()
        return 0, "", ()
    except grpc.RpcError as error:
        return error.code().value[0], error.details(), error.trailing_metadata()


def every_kind(channel, service, way):
    call = channel.unary_unary("/t/unary").with_call
    message, done = call(b"hello", metadata=(("x-asked", "a b"), ("x-asked-bin", b"\x00\x01\xfe")), timeout=20)
    first, last = dict(done.initial_metadata()), dict(done.trailing_metadata())
    right = message == b"hello" and (first["x-version"], first["x-got"], first["x-got-hex"]) == (service.version, "a b", "0001fe")
    lib.claim(right and last["x-trailer"] == "1" and last["x-trailer-bin"] == b"\x00\xff",
              f"{way}: unary, with metadata and trailers both ways, binary too")
    sent = [random.randbytes(random.randrange(0, 40_000)) for _ in range(50)]
    total = channel.stream_unary("/t/up")(iter(sent), timeout=20)
    lib.claim(int(total) == sum(map(len, sent)), f"{way}: client-streaming, {len(sent)} messages")
    lib.claim(list(channel.unary_stream("/t/down")(b"500", timeout=20)) == [str(n).encode() for n in range(500)],
              f"{way}: server-streaming, 500 messages in order")
    turns, answered = threading.Semaphore(1), []

    def one_by_one():
        for text in sent:
            turns.acquire(timeout=10)
            yield text

    for text in channel.stream_stream("/t/both")(one_by_one(), timeout=20):
        answered.append(text)
        turns.release()
    lib.claim(answered == sent, f"{way}: both ways, each message answered before the next is sent")
    big = random.randbytes(BIG)
    lib.claim(channel.unary_unary("/t/unary")(big, timeout=60) == big, f"{way}: a message of {BIG >> 20} MiB and back")
    status, text, trailers = status_of(lambda: channel.unary_unary("/t/unary")(b"", metadata=(("x-fail", "5"),), timeout=20))
    lib.claim((status, text, dict(trailers)["x-trailer"]) == (5, "as asked, 100% \u00fc", "1"),
              f"{way}: an error without a message, its text and its trailers")
    got = []
    status, text, trailers = status_of(lambda: got.extend(channel.unary_stream("/t/late")(b"", timeout=20)))
    lib.claim((status, text, dict(trailers)["x-trailer"]) == (13, "in the middle", "1"), f"{way}: an error after two messages")
    lib.claim(status_of(lambda: channel.unary_unary("/t/nothing")(b"", timeout=20))[0] == 12, f"{way}: an unknown method")


def deadlines(channel, service, way, port, context):
    service.cancelled.clear()
    began = time.monotonic()
    status = status_of(lambda: channel.unary_unary("/t/slow")(b"", timeout=0.5))[0]
    took = time.monotonic() - began
    lib.claim(status == 4 and 0.4 < took < 1.5, f"{way}: a deadline of 0.5 s ends with status {status} after {took:.2f} s")
    lib.claim(service.cancelled.wait(5), f"{way}: and the target is told")
    # A client that sends a deadline and keeps none itself: this one is Weir's.
    client = h2client.Client(port, context)
    fields = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/t/slow"),
              ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "700m")]
    began = time.monotonic()
    stream = client.begin(fields, ended=False)
    client.send(stream, b"\0\0\0\0\0", ended=True)
    answer = client.answer(stream)
    took = time.monotonic() - began
    status = (answer.trailers or answer.headers).get("grpc-status")
    lib.claim(answer.ended and status == "4" and 0.6 < took < 1.6,
              f"{way}: one that Weir alone keeps, status {status} after {took:.2f} s")
    client.close()


def cancels(channel, service, way):
    for method, message in (("slow", None), ("endless", b"first")):
        service.cancelled.clear()
        call = channel.unary_unary("/t/slow").future(b"") if message is None else channel.unary_stream("/t/endless")(b"")
        if message:
            lib.claim(next(call) == message, f"{way}: a stream has begun")
        else:
            time.sleep(0.2)
        call.cancel()
        lib.claim(service.cancelled.wait(5), f"{way}: cancelling {method} reaches the target")


def counted(weir, channels, services, total):
    """Calls with every status, at once; whose counts agree."""
    before, seen = weir.counts(), collections.Counter()
    calls = [service.calls for service in services]
    statuses = random.choices(sorted(CLASSES), k=total)

    def one(at):
        channel = channels[at % len(channels)]
        metadata = (("x-fail", str(statuses[at])),) if statuses[at] else ()
        status = status_of(lambda: channel.unary_unary("/t/unary")(b"x", metadata=metadata, timeout=30))[0]
        return status == statuses[at]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        right = sum(pool.map(one, range(total)))
    lib.claim(right == total, f"{total:,} calls have the status that the target gave, {right:,} do")
    for status in statuses:
        seen[CLASSES[status]] += 1
    served = sum(service.calls for service in services) - sum(calls)
    lib.claim(served == total, f"the targets counted {served:,}")

    def by_code():
        found = collections.Counter()
        for (_, code), count in weir.counts().items():
            found[code] += count
        for (_, code), count in before.items():
            found[code] -= count
        return +found

    lib.until("Weir has counted all", lambda: sum(by_code().values()) == total)
    lib.claim(by_code() == seen, f"Weir counted {dict(by_code())}: by status, though each head said 200")


def main():
    given = lib.arguments(__doc__)
    authority = Authority(lib.folder())
    port, listener = lib.https(authority)
    cert, key = (open(path, "rb").read() for path in authority.pair(2))
    root = open(f"{authority.home}/ca.pem", "rb").read()
    plain = serve("stable")
    behind_tls = serve("canary", grpc.ssl_server_credentials([(key, cert)]))
    pools = {"stable": 'protocol = "h2"',
             "canary": f'protocol = "h2"\ntls = {{ ca = "{authority.home}/ca.pem", server_name = "localhost" }}'}
    weir = lib.Weir(given.binary, {"stable": plain[2], "canary": behind_tls[2]}, {"stable": 100, "canary": 0},
                    listener, pools)
    clients = {"over h2c": grpc.insecure_channel(f"127.0.0.1:{weir.port}", options=UNLIMITED),
               "over TLS": grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(root), options=UNLIMITED)}
    ports = {"over h2c": (weir.port, None), "over TLS": (port, authority.context())}
    for shares, (_, service, _) in (((100, 0), plain), ((0, 100), behind_tls)):
        weir.shift(stable=shares[0], canary=shares[1])
        for way, channel in clients.items():
            way = f"{way}, target {'h2c' if service.version == 'stable' else 'TLS'}"
            every_kind(channel, service, way)
            deadlines(channel, service, way, *ports[way.split(",")[0]])
            cancels(channel, service, way)
    weir.shift(stable=60, canary=40)
    counted(weir, list(clients.values()), [plain[1], behind_tls[1]], 200 if given.quick else 1000)
    lib.until("nothing is under way", lambda: weir.metric("weir_requests_in_flight") == 0)
    lib.claim(True, "nothing is left under way")
    for server, _, _ in (plain, behind_tls):
        server.stop(None)


main()
sys.exit(0)
