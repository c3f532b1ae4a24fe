#!/usr/bin/env python3
"""curl, nghttp and h2load through Weir to nginx: HTTP/1.0, 1.1 and 2, over TLS and without.

Each way of speaking is what was agreed; uploads and downloads arrive as they were; an upgrade to h2c is answered over
HTTP/1.1. Then h2load over each, 20,000 requests (`--quick`: 2,000), which it and Weir count alike.
"""
import hashlib
import os
import random
import re
import subprocess
import sys

import lib
from authority import Authority


def run(*command):
    done = subprocess.run(command, capture_output=True, timeout=300)
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


class Curl:
    def __init__(self, weir, tls_port, authority):
        self.urls = {"http": f"http://localhost:{weir.port}", "https": f"https://localhost:{tls_port}"}
        self.ca = f"{authority.home}/ca.pem"

    def ask(self, scheme, path, *options):
        """The exit code, the version that was spoken, the status and the body."""
        code, out, _ = run(lib.tool("curl"), "-s", "-m", "120", "--cacert", self.ca, "-w", "\n%{http_version} %{http_code}",
                           *options, self.urls[scheme] + path)
        body, _, last = out.rpartition(b"\n")
        version, status = (last.decode().split() + ["", ""])[:2]
        return code, version, int(status or 0), body


def versions(curl):
    for scheme, option, versions in (
        ("http", "--http1.0", "1 1.0"), ("http", "--http1.1", "1.1"), ("http", "--http2-prior-knowledge", "2"),
        ("https", "--http1.0", "1 1.0"), ("https", "--http1.1", "1.1"), ("https", "--http2", "2"),
    ):
        code, spoken, status, body = curl.ask(scheme, "/", option)
        lib.claim(code == 0 and spoken in versions.split() and (status, body) == (200, b"variant-stable;"),
                  f"curl {option} {scheme}: answered in HTTP/{spoken} {code, status}")
    code, spoken, status, body = curl.ask("http", "/", "--http2")
    lib.claim((code, spoken, status) == (0, "1.1", 200) and body == b"variant-stable;",
              "curl --http2 http: its upgrade to h2c is passed over, HTTP/1.1 goes on")
    for option, works in (("--tlsv1.3", True), ("--tls-max 1.2", True), ("--tls-max 1.1", False)):
        code, _, status, _ = curl.ask("https", "/", *option.split())
        lib.claim((code == 0 and status == 200) == works, f"curl {option}: {'served' if works else 'refused'}")


def bodies(curl, home):
    sent = f"{home}/sent"
    with open(sent, "wb") as out:
        out.write(random.randbytes(5_000_000))
    digest = hashlib.sha256(open(sent, "rb").read()).digest()
    for scheme, option in (("http", "--http1.1"), ("http", "--http2-prior-knowledge"), ("https", "--http1.1"), ("https", "--http2")):
        way = f"curl {option} {scheme}"
        code, _, status, _ = curl.ask(scheme, f"/files/{option}-{scheme}", option, "-T", sent, "-H", "Expect: 100-continue")
        lib.claim(code == 0 and status in (201, 204), f"{way}: an upload with a length, and Expect: 100-continue ({status})")
        _, _, status, body = curl.ask(scheme, f"/files/{option}-{scheme}", option)
        lib.claim(status == 200 and hashlib.sha256(body).digest() == digest, f"{way}: and it comes back as it was")
        code, _, status, _ = curl.ask(scheme, f"/files/{option}-{scheme}", option, "-H", "Transfer-Encoding: chunked",
                                      "-H", "Content-Length:", "-T", sent)
        _, _, _, body = curl.ask(scheme, f"/files/{option}-{scheme}", option, "-r", "1000-1999")
        lib.claim(code == 0 and status == 204 and body == open(sent, "rb").read()[1000:2000],
                  f"{way}: one without a length, and a range of it")
        code, _, status, body = curl.ask(scheme, f"/files/{option}-{scheme}", option, "-I")
        lib.claim(code == 0 and status == 200 and b"5000000" in body, f"{way}: HEAD has the length")


def nghttp(urls):
    for scheme, url in urls.items():
        code, out, _ = run(lib.tool("nghttp"), "-nsv", *(f"{url}/{n}" for n in range(20)))
        text = out.decode(errors="replace")
        lib.claim(code == 0 and len(re.findall(r":status: 200", text)) == 20, f"nghttp {scheme}: 20 at once on one connection")
    code, out, error = run(lib.tool("nghttp"), "-nuv", urls["http"] + "/")
    text = out.decode(errors="replace") + error
    lib.claim("HTTP Upgrade failed" in text and "101 Switching" not in text, "nghttp -u: an upgrade to h2c is refused")


def h2load(weir, urls, total):
    for scheme, option in (("http", None), ("https", None), ("http", "--h1"), ("https", "--h1")):
        before = sum(weir.counts().values())
        command = [lib.tool("h2load"), "-n", str(total), "-c", "20", "-m", "1" if option else "32", urls[scheme] + "/"]
        _, out, _ = run(*command, *([option] if option else []))
        text = out.decode()
        right = f"{total} succeeded, 0 failed, 0 errored, 0 timeout" in text and f"{total} 2xx" in text
        lib.until("Weir has counted all", lambda: sum(weir.counts().values()) - before == total)
        rate = re.search(r"([\d.]+) req/s", text)
        lib.claim(right, f"h2load {option or '--h2'} {scheme}: {total:,} of {total:,}, {rate[1] if rate else '?'} a second")


def main():
    given = lib.arguments(__doc__)
    home, authority = lib.folder(), Authority(lib.folder())
    os.chmod(home, 0o777)
    port, listener = lib.https(authority)
    files = f"location /files/ {{ root {home}; dav_methods PUT; client_max_body_size 0; create_full_put_path on; }}"
    weir = lib.Weir(given.binary, {"stable": lib.nginx("stable", files)}, {"stable": 100}, listener)
    curl = Curl(weir, port, authority)
    versions(curl)
    bodies(curl, home)
    nghttp(curl.urls)
    h2load(weir, curl.urls, 2_000 if given.quick else 20_000)
    codes = {code for _, code in weir.counts()}
    lib.claim(codes <= {"2xx"}, f"Weir counted nothing but {codes}")


main()
sys.exit(0)
