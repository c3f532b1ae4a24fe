#!/usr/bin/env python3
"""Two real nginx as versions, wrk as clients, a real Prometheus: what it scraped is what the clients counted.

Shares and codes per variant must agree to the last request; promtool must accept the metrics' form.
"""
import json
import subprocess
import time
import urllib.parse
import urllib.request

import lib

EXTRA = """
location /missing { return 404 "variant-gone;"; }
location /broken { return 500 "variant-broken;"; }
location /moved { return 302 "http://127.0.0.1/"; }
"""


class Prometheus:
    """A Prometheus that scrapes Weir twice a second."""

    def __init__(self, weir):
        home, self.port = lib.folder(), lib.free_port()
        with open(f"{home}/prometheus.yml", "w") as out:
            out.write("global: { scrape_interval: 500ms, scrape_timeout: 400ms }\n"
                      "scrape_configs:\n- job_name: weir\n  static_configs:\n"
                      f"  - targets: ['127.0.0.1:{weir.admin_port}']\n")
        lib.spawn([lib.tool("prometheus"), f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data",
                   f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"], f"{home}/log")
        lib.until("Prometheus answers", lambda: lib.answers(self.port))
        lib.until("Prometheus has scraped Weir", lambda: self.query("up == 1"))

    def query(self, text):
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": text})
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            return []

    def sums(self, text, *labels):
        return {tuple(row["metric"].get(name, "") for name in labels): float(row["value"][1]) for row in self.query(text)}


def main():
    given = lib.arguments(__doc__)
    total = 40_000 if given.quick else 1_000_000
    targets = {name: lib.nginx(name, EXTRA) for name in ("stable", "canary")}
    weir = lib.Weir(given.binary, targets, {"stable": 90, "canary": 10})
    prometheus = Prometheus(weir)
    paths = ["/"] * 16 + ["/missing", "/missing", "/broken", "/moved"]
    clients, mean = lib.wrk_exactly(weir.port, total, paths)
    expected = {}
    for (version, status), count in clients.items():
        key = (version, f"{status // 100}xx")
        expected[key] = expected.get(key, 0) + count

    counted = 'sum by (variant, code) (weir_requests_total{route="%s"}) > 0' % lib.ROUTE
    deadline = time.monotonic() + 15
    while (seen := prometheus.sums(counted, "variant", "code")) != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    for key, count in sorted(expected.items()):
        lib.claim(seen.get(key) == count, f"{key[0]:7} {key[1]}: clients {count:,}, Prometheus {seen.get(key, 0):,.0f}")
    lib.claim(seen == expected, "and Prometheus knows of no other request")

    family = "weir_request_duration_seconds"
    timed = prometheus.sums(f"sum by (variant) ({family}_count)", "variant")
    for (variant,), count in sorted(timed.items()):
        own = sum(n for (version, _), n in expected.items() if version == variant)
        lib.claim(count == own, f"{variant}: {count:,.0f} durations for {own:,} requests")
    inf = prometheus.sums(f'sum by (variant) ({family}_bucket{{le="+Inf"}})', "variant")
    lib.claim(inf == timed, "the histograms' last buckets agree with their counts")
    seconds = sum(prometheus.sums(f"sum({family}_sum)").values())
    own_mean = seconds / total
    lib.claim(0 < own_mean <= mean * 1.02 + 0.0002, f"mean latency: Weir {own_mean * 1e3:.3f} ms within the clients' {mean * 1e3:.3f} ms")
    errors = sum(prometheus.sums("sum(weir_request_errors_total)").values())
    lib.claim(errors == 0, "no request failed")

    metrics = weir.ask("GET", "/metrics")[2]
    check = subprocess.run([lib.tool("promtool"), "check", "metrics"], input=metrics, capture_output=True, text=True)
    lib.claim(check.returncode == 0, "promtool check metrics " + (check.stdout + check.stderr).strip()[:500])


main()
