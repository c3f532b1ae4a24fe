"""What the scenarios share: free loopback ports, processes that end with the script, the admin API, exact clients.

Nothing beside Python's standard library; programs, and the packages that some scenarios are clients by, come from
tests/tools.sh.
"""
import argparse
import atexit
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROUTE = "shop"
_children = []
_folders = []


def arguments(about, **extra):
    """Parsed `--binary FILE --quick` and more flags; the binary's path is made absolute."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--binary", default="target/release/weir", help="the Weir to run")
    parser.add_argument("--quick", action="store_true", help="a small run, for every change")
    for name, (kind, default, text) in extra.items():
        how = {"action": "store_true"} if kind is bool else {"type": kind, "default": default}
        parser.add_argument("--" + name, help=text, **how)
    given = parser.parse_args()
    given.binary = os.path.abspath(given.binary)
    if not os.access(given.binary, os.X_OK):
        sys.exit(f"{given.binary} is not there: cargo build --release")
    return given


def claim(holds, text):
    """Prints a claim with its outcome; a violated one ends the script with 1."""
    print(("ok    " if holds else "FAILED ") + text, flush=True)
    if not holds:
        sys.exit(1)


def tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        sys.exit(f"{name} is not installed: run tests/tools.sh")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def folder():
    path = tempfile.mkdtemp(prefix="weir-scenario-")
    _folders.append(path)
    return path


def spawn(command, log, **options):
    with open(log, "ab") as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)
    _children.append(child)
    return child


def _clean():
    for child in _children:
        if child.poll() is None:
            child.terminate()
    for child in _children:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for path in _folders:
        shutil.rmtree(path, ignore_errors=True)


atexit.register(_clean)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def until(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            sys.exit(f"FAILED not within {seconds} s: {what}")
        time.sleep(0.02)


def https(authority, number=1, more=""):
    """A listener with TLS: its port, and the lines of the configuration that make it."""
    port, (cert, key) = free_port(), authority.pair(number)
    return port, f"""
[[listener]]
name = "https"
bind = "127.0.0.1:{port}"
[listener.tls]
certs = [{{ cert = "{cert}", key = "{key}" }}]
{more}
"""


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def nginx(name, extra=""):
    """A real nginx that answers 200 `variant-NAME;` and names itself in X-Version; returns its port."""
    home, port = folder(), free_port()
    with open(f"{home}/nginx.conf", "w") as out:
        out.write(f"""
daemon off;
worker_processes 1;
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        add_header X-Version {name} always;
        location / {{ return 200 "variant-{name};"; }}
        {extra}
    }}
}}
""")
    os.chmod(home, 0o755)
    spawn([tool("nginx"), "-p", home, "-c", f"{home}/nginx.conf", "-e", f"{home}/error.log"], f"{home}/log")
    until(f"nginx {name} answers", lambda: answers(port))
    return port


class Weir:
    """One Weir on ports that stay the same over its restarts; `weights` are the file's.

    `route_lines` are more keys, and tables of their own may follow the route's; `pool_lines` are for all pools, or by
    pool. A target is a port, or a list of ports of one pool.
    """

    def __init__(self, binary, targets, weights, route_lines="", pool_lines=""):
        self.binary, self.home = binary, folder()
        self.port, self.admin_port = free_port(), free_port()
        more = pool_lines if isinstance(pool_lines, dict) else dict.fromkeys(targets, pool_lines)
        several = {name: port if isinstance(port, list) else [port] for name, port in targets.items()}
        addresses = {name: ", ".join(f'"127.0.0.1:{port}"' for port in ports) for name, ports in several.items()}
        pools = "".join(f'[pool.{name}]\ntargets = [{addresses[name]}]\n{more.get(name, "")}\n' for name in targets)
        variants = ", ".join(f'{name} = "{name}"' for name in targets)
        shares = ", ".join(f"{name} = {weights[name]}" for name in targets)
        with open(f"{self.home}/weir.toml", "w") as out:
            out.write(f"""[server]
state_dir = "state"
[admin]
listen = ["127.0.0.1:{self.admin_port}"]
[[listener]]
name = "http"
bind = "127.0.0.1:{self.port}"
{pools}
[[route]]
name = "{ROUTE}"
match = {{ path = "/" }}
variants = {{ {variants} }}
weights = {{ {shares} }}
{route_lines}
""")
        self.start()

    def start(self):
        command = [self.binary, "serve", "--config", f"{self.home}/weir.toml"]
        self.process = spawn(command, f"{self.home}/log")
        until("weir is ready", self._ready)

    def _ready(self):
        if self.process.poll() is not None:
            sys.exit("FAILED weir ended at start:\n" + open(f"{self.home}/log").read()[-3000:])
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait()

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and text of the admin API's answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def shift(self, **weights):
        status, _, text = self.ask("PATCH", f"/api/v1/routes/{ROUTE}/weights", {"weights": weights})
        if status != 200:
            sys.exit(f"FAILED PATCH {weights}: {status} {text}")

    def undo(self):
        """Back to the revision before."""
        status, _, text = self.ask("POST", f"/api/v1/routes/{ROUTE}/undo")
        if status != 200:
            sys.exit(f"FAILED POST undo: {status} {text}")

    def document(self):
        status, headers, text = self.ask("GET", f"/api/v1/routes/{ROUTE}")
        if status != 200:
            sys.exit(f"FAILED GET route: {status} {text}")
        return json.loads(text), headers["ETag"]

    def weight(self, variant):
        return next(v["weight"] for v in self.document()[0]["variants"] if v["name"] == variant)

    def metric(self, name, **labels):
        """The sum of a metric's children that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.ask("GET", "/metrics")[2].splitlines()
                   if re.match(name + r"[{ ]", line) and all(label in line for label in wanted))

    def memory(self):
        """Resident bytes, and how many files are open."""
        pid = self.process.pid
        with open(f"/proc/{pid}/statm") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident, len(os.listdir(f"/proc/{pid}/fd"))

    def log(self):
        with open(f"{self.home}/log") as text:
            return text.read()

    def counts(self):
        """{(variant, code): requests} by /metrics, zeros left out."""
        found = {}
        for line in self.ask("GET", "/metrics")[2].splitlines():
            if line.startswith("weir_requests_total{"):
                labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
                key = (labels["variant"], labels["code"])
                found[key] = found.get(key, 0) + int(float(line.rsplit(" ", 1)[1]))
        return {key: count for key, count in found.items() if count}


def asked_in_order(port, requests, batch=64, pattern=rb"variant-(\w+);"):
    """Sends the raw requests pipelined over one connection; which variant answered each, in order.

    Another pattern matches each answer once, up to its body's end; with several groups each answer is a tuple.
    """
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seen, buffer = [], b""
    for start in range(0, len(requests), batch):
        part = requests[start:start + batch]
        connection.sendall(b"".join(part))
        wanted = start + len(part)
        while len(seen) < wanted:
            data = connection.recv(1 << 18)
            if not data:
                sys.exit(f"FAILED weir closed the connection after {len(seen)} answers")
            buffer += data
            found = list(re.finditer(pattern, buffer, re.S))
            seen += [tuple(group.decode() for group in one.groups()) for one in found]
            buffer = buffer[found[-1].end():] if found else buffer
    connection.close()
    return [one[0] if len(one) == 1 else one for one in seen]


WRK_SCRIPT = """
-- Sends exactly `quota` requests a thread, so that every request sent is also answered and counted: a connection that
-- would send beyond it is put to sleep, and the thread stops with the last answer. wrk itself would wait for its -d;
-- the file that the thread leaves says that it may be interrupted.
local threads, paths = {}, { %(paths)s }
local parked = 1000000000
function setup(thread)
  table.insert(threads, thread)
  thread:set("id", #threads)
end
function init(args)
  quota, sent, received, turn, counts = %(quota)d, 0, 0, 0, ""
  table_of = {}
end
function delay()
  if sent >= quota then return parked end
  sent = sent + 1
  return 0
end
function request()
  turn = turn %% #paths + 1
  return wrk.format("GET", paths[turn])
end
function response(status, headers, body)
  local version = "none"
  for name, value in pairs(headers) do
    if name:lower() == "x-version" then version = value end
  end
  local key = version .. " " .. status
  table_of[key] = (table_of[key] or 0) + 1
  received = received + 1
  if received == quota then
    for name, count in pairs(table_of) do counts = counts .. name .. " " .. count .. "\\n" end
    io.open("%(finished)s" .. id, "w"):close()
    wrk.thread:stop()
  end
end
function done(summary, latency, requests)
  local e = summary.errors
  print("ERRORS " .. e.connect .. " " .. e.read .. " " .. e.write .. " " .. e.timeout)
  print("MEAN_US " .. latency.mean)
  for _, thread in ipairs(threads) do print(thread:get("counts")) end
end
"""


def wrk_exactly(port, total, paths=("/",), connections=64, seconds=600):
    """Runs wrk for exactly `total` requests; its counts {(version, status): n}, and the mean latency in seconds."""
    home = folder()
    with open(f"{home}/exact.lua", "w") as out:
        quoted = ", ".join(f'"{path}"' for path in paths)
        out.write(WRK_SCRIPT % {"quota": total // 2, "paths": quoted, "finished": f"{home}/finished"})
    command = [tool("wrk"), "-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", f"{home}/exact.lua",
               f"http://127.0.0.1:{port}/"]
    process = spawn(command, f"{home}/out")
    until("wrk sends all and hears all", lambda: process.poll() is not None or finished(home), seconds)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    text = open(f"{home}/out").read()
    errors, mean = re.search(r"ERRORS (.*)", text), re.search(r"MEAN_US ([0-9.e+]+)", text)
    if not errors or not mean:
        sys.exit("FAILED wrk did not finish:\n" + text)
    claim(errors[1] == "0 0 0 0", f"wrk saw no connect, read, write or time-out error ({errors[1]})")
    counts = {}
    for version, status, count in re.findall(r"^(\w+) (\d{3}) (\d+)$", text, re.M):
        counts[(version, int(status))] = counts.get((version, int(status)), 0) + int(count)
    claim(sum(counts.values()) == total // 2 * 2, f"wrk counted {sum(counts.values()):,} answers")
    return counts, float(mean[1]) / 1e6


def finished(home):
    return os.path.exists(f"{home}/finished1") and os.path.exists(f"{home}/finished2")


def chi_square(observed, expected):
    """The statistic of counts against expected counts."""
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected))
