#!/usr/bin/env python3
"""More than there is room for, and clients that take and don't give: Weir stays, answers others, and keeps its size.

- 256 open files and 1,000 connects: it neither ends nor spins, the admin API answers, and within a second after they have
  gone new clients are served.
- 200 clients with 256 KiB of a request head that never ends (Weir takes as much), 50 that read nothing of a 4 MiB answer,
  100 HTTP/2 streams without a window for it, a Weir of their own each: at most 64 MiB more.
- Idle connections (10,000, or as many as this process may have files), 2,000 whose heads come a byte a second, and 500
  requests a second beside them: their p99 against that without the others. at most 1.5 times. The short run tells it, and
  claims only that nobody waits for a second.

Quick: 1,000 idle connections and 200 slow ones, and stretches of two seconds. Needs two descriptors for each connection
of the last part in all, one of them in Weir.
"""
import multiprocessing
import os
import resource
import signal
import socket
import statistics
import struct
import threading
import time

import lib

MIB = 1 << 20
GROWTH = 64 * MIB
ANSWER = 4 * MIB
HEAD = 256 * 1024
FILES = 256
CONNECTS = 1000
# What nobody may wait in the short run, in ms.
LONG = 1000
TIMES = 1.5
# What a wait for the CPU may add on an idle machine, in ms: one of the kernel's time slices.
SLICE = 1
SETTINGS, HEADERS = 4, 1
END_STREAM, END_HEADERS = 1, 4


def connect(port, receives=None):
    one = socket.socket()
    if receives:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    one.settimeout(10)
    one.connect(("127.0.0.1", port))
    return one


def get(one):
    """Whether the connection's next answer is the short one, whole."""
    one.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
    answer = b""
    while not answer.endswith(b"variant-main;"):
        part = one.recv(65_536)
        if not part:
            return False
        answer += part
    return answer.startswith(b"HTTP/1.1 200")


def is_served(port, patience=10):
    try:
        with connect(port) as one:
            one.settimeout(patience)
            return get(one)
    except OSError:
        return False


def cpu(pid):
    """Seconds of CPU that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limited(limit):
    """A context in which processes begin with so many files; this one's own hard limit stays."""
    class Limit:
        def __enter__(self):
            # The hard limit can't be raised again by everybody: a shell lowers it for Weir alone.
            self.spawn = lib.spawn
            lib.spawn = lambda command, log: self.spawn(
                ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "weir", *command], log)

        def __exit__(self, *_):
            lib.spawn = self.spawn
    return Limit()


def files(given, upstream):
    with limited(FILES):
        weir = lib.Weir(given.binary, {"main": upstream}, {"main": 100})
    with open(f"/proc/{weir.process.pid}/limits") as text:
        line = next(line for line in text if line.startswith("Max open files"))
    lib.claim(line.split()[3:5] == [str(FILES)] * 2, f"Weir may open {FILES} files")
    lib.claim("LimitNOFILE=" in weir.log(), "it says that this is too few, and how many would be enough")
    known = connect(weir.port)
    lib.claim(get(known), "a client before them is served")
    flood = [connect(weir.port) for _ in range(CONNECTS)]
    lib.until("accepting pauses", lambda: weir.metric("weir_accept_paused_total") > 0)
    used, began, asked, slowest = cpu(weir.process.pid), time.monotonic(), 0, 0
    while time.monotonic() < began + 2:
        before = time.monotonic()
        if weir.ask("GET", "/readyz")[0] != 200:
            lib.claim(False, "the admin API says that Weir is ready")
        asked, slowest = asked + 1, max(slowest, time.monotonic() - before)
        time.sleep(0.02)
    used = (cpu(weir.process.pid) - used) / (time.monotonic() - began)
    lib.claim(slowest < 1, f"{asked} requests to the admin API were answered, the slowest in {slowest * 1000:.0f} ms")
    lib.claim(used < 0.25, f"meanwhile Weir used {used:.1%} of a CPU")
    lib.claim(get(known), "the client from before is served")
    memory, open_files = weir.memory()
    lib.claim(open_files < FILES, f"{open_files} of {FILES} files are open")
    for one in flood:
        one.close()
    gone = time.monotonic()
    lib.until("new clients are served", lambda: is_served(weir.port, 1), 10)
    took = time.monotonic() - gone
    lib.claim(took < 1, f"new clients are served {took * 1000:.0f} ms after the others have gone")
    lib.claim(all(is_served(weir.port) for _ in range(50)), "50 more, too")
    errors = weir.metric("weir_request_errors_total", reason="connect") + weir.metric("weir_accept_failures_total")
    lib.claim(errors == 0 and weir.process.poll() is None, "no connect and no accept failed")
    weir.kill(signal.SIGTERM)


def peak(weir):
    """The most memory that the process ever had."""
    with open(f"/proc/{weir.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def hold(given, what, port, lines, begin, count, least, under_way=0):
    """So many clients of a kind on a Weir of their own; what the most memory has grown by."""
    weir = lib.Weir(given.binary, {"main": port}, {"main": 100}, lines)
    lib.claim(is_served(weir.port), f"{what}: others are served before")
    before, held = peak(weir), []
    for _ in range(count):
        held.append(begin(weir.port))
    # Whatever is still on its way arrives: Weir has come to rest when it does nothing for half a second.
    used = [cpu(weir.process.pid), time.monotonic()]

    def rests():
        now = cpu(weir.process.pid)
        if now > used[0]:
            used[:] = [now, time.monotonic()]
        return time.monotonic() > used[1] + 0.5

    lib.until("Weir is at rest", rests, 30)
    grown = peak(weir) - before
    opened = weir.metric("weir_connections", listener="http")
    requests = weir.metric("weir_requests_in_flight")
    lib.claim(opened >= least and requests == under_way,
              f"{what}: {opened:.0f} connections and {requests:.0f} requests are held")
    lib.claim(is_served(weir.port), f"{what}: others are served")
    lib.claim(grown <= GROWTH, f"{what}: memory grew by {grown / MIB:.1f} MiB, at most {GROWTH / MIB:.0f}")
    for one in held:
        one.close()
    weir.kill(signal.SIGTERM)


def endless_head(port):
    """All but the end of a head, in fields of 8,000 bytes."""
    one = connect(port)
    field = b"x-%04d: " + b"y" * 8000 + b"\r\n"
    head = b"GET / HTTP/1.1\r\nHost: t\r\n" + b"".join(field % number for number in range(HEAD // 8010))
    one.sendall(head + b"z: " + b"z" * (HEAD - len(head) - 100))
    return one


def refused_head(port):
    try:
        return endless_head(port)
    except OSError:
        # Cut off on the way.
        return socket.socket()


def reads_nothing(port):
    one = connect(port, 4096)
    one.sendall(b"GET /large HTTP/1.1\r\nHost: t\r\n\r\n")
    return one


STREAMS = 10


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def zero_window(port):
    """A connection with ten streams whose windows are 0 from the start."""
    one = connect(port)
    path = b"/large"
    block = b"\x82\x86\x41\x01t\x04" + bytes((len(path),)) + path
    requests = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, block) for number in range(STREAMS))
    one.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)) + requests)
    return one


def sit(port, idle, slow, ready, over):
    """So many that say nothing, and so many whose heads grow by a byte a second; until it is over."""
    os.nice(10)
    idlers = [connect(port) for _ in range(idle)]
    crawlers = [connect(port) for _ in range(slow)]
    for one in crawlers:
        one.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nX: ")
    ready.set()
    while not over.wait(1):
        for at, one in enumerate(crawlers):
            try:
                one.send(b"x")
            except OSError:
                # Cut off in time, and back again.
                one.close()
                crawlers[at] = connect(port)
                crawlers[at].sendall(b"GET / HTTP/1.1\r\nHost: t\r\nX: ")
    for one in idlers + crawlers:
        one.close()


def p99(port, seconds, rate=500):
    """Of requests at a fixed rate over 16 connections, from the moment at which each was due; in milliseconds."""
    took, lock = [], threading.Lock()

    def client(number, began):
        one = connect(port)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = began + number / rate
        while due < began + seconds:
            time.sleep(max(0, due - time.monotonic()))
            if not get(one):
                return
            with lock:
                took.append(time.monotonic() - due)
            due += 16 / rate
        one.close()

    began = time.monotonic() + 0.05
    clients = [threading.Thread(target=client, args=[number, began]) for number in range(16)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    wanted = rate * seconds
    if len(took) < wanted - 16:
        lib.claim(False, f"{len(took)} of {wanted} requests were answered")
    return 1000 * statistics.quantiles(took, n=100)[98]


def beside(given, upstream):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    idle, slow = (1000, 200) if given.quick else (10_000, 2000)
    idle = min(idle, hard - slow - 500)
    rounds, seconds = (2, 2) if given.quick else (5, 6)
    lines = f'[limits]\nmax_connections = {idle + slow + 1000}\nheader_timeout = "10s"\nidle_timeout = "120s"\n'
    weir = lib.Weir(given.binary, {"main": upstream}, {"main": 100}, lines)
    p99(weir.port, 1)
    quiet, loud = [], []
    for _ in range(rounds):
        quiet.append(p99(weir.port, seconds))
        ready, over = multiprocessing.Event(), multiprocessing.Event()
        sitting = multiprocessing.Process(target=sit, args=(weir.port, idle, slow, ready, over), daemon=True)
        sitting.start()
        if not ready.wait(60):
            lib.claim(False, "all connect within a minute")
        lib.until("all are accepted", lambda: weir.metric("weir_connections", listener="http") >= idle + slow - 10)
        loud.append(p99(weir.port, seconds))
        opened = weir.metric("weir_connections", listener="http")
        lib.claim(opened >= 0.9 * (idle + slow), f"{opened:,.0f} connections were held to the end")
        over.set()
        sitting.join()
        lib.until("they have gone", lambda: weir.metric("weir_connections", listener="http") < 20, 60)
    usual, with_them = statistics.median(quiet), statistics.median(loud)
    each = " ".join(f"{one:.2f}" for one in quiet) + " | " + " ".join(f"{one:.2f}" for one in loud)
    text = f"{idle:,} idle and {slow:,} slow connections: p99 of others {with_them:.2f} ms, {with_them / usual:.2f} times the {usual:.2f} ms without ({each})"
    bound = max(TIMES * usual, usual + SLICE) if not given.quick else LONG
    lib.claim(with_them <= bound, text + f", at most {bound:.2f} ms")
    failed = {key: count for key, count in weir.counts().items() if key[1] == "5xx"}
    lib.claim(not failed, f"nobody got an error of the server {failed or ''}")
    weir.kill(signal.SIGTERM)


def main():
    given = lib.arguments(__doc__)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    home = lib.folder()
    os.chmod(home, 0o755)
    with open(f"{home}/large", "wb") as out:
        out.write(os.urandom(ANSWER))
    upstream = lib.nginx("main", f"location /large {{ alias {home}/large; }}")
    files(given, upstream)
    heads = f"[limits]\nmax_header_bytes = {HEAD + 65_536}\n"
    hold(given, "200 clients with 256 KiB of a head", upstream, heads, endless_head, 200, 200)
    hold(given, "200 of them where 64 KiB are allowed", upstream, "", refused_head, 200, 0)
    hold(given, "50 clients that read nothing of 4 MiB", upstream, "", reads_nothing, 50, 50, 50)
    hold(given, "100 streams without a window", upstream, "", zero_window, 100 // STREAMS, 100 // STREAMS, 100)
    beside(given, upstream)


main()
