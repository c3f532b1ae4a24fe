#!/usr/bin/env python3
"""kill -9 at random moments while weights change: after every restart the last acknowledged weights are live.

A change that was sent and not acknowledged may be live or not; an acknowledged one must be. The history's newest
revision is the live one, and it has every revision before. Full run: 100 kills.
"""
import json
import random
import threading
import time

import lib

# Revisions kept of a route.
KEPT = 200


class Writer(threading.Thread):
    """Changes the canary's weight one thousandth at a time until Weir is gone."""

    def __init__(self, weir, acknowledged):
        super().__init__()
        self.weir, self.acknowledged, self.sent = weir, acknowledged, acknowledged

    def run(self):
        while True:
            self.sent = (self.acknowledged + 1) % 100_000
            try:
                body = {"weights": {"canary": self.sent / 1000}}
                status, _, _ = self.weir.ask("PATCH", f"/api/v1/routes/{lib.ROUTE}/weights", body)
            except (OSError, lib.http.client.HTTPException):
                return
            if status == 200:
                self.acknowledged = self.sent


def check_history(weir, number, live):
    """As many revisions as are kept, none left out, the newest the live one."""
    _, _, text = weir.ask("GET", f"/api/v1/routes/{lib.ROUTE}/history")
    history = json.loads(text)
    generations = [revision["generation"] for revision in history["revisions"]]
    whole = list(range(history["generation"], max(0, history["generation"] - KEPT), -1))
    newest = round(history["revisions"][0]["after"]["canary"] * 1000)
    if generations != whole or newest != live:
        lib.claim(False, f"round {number}: {live} is live and {newest} the newest revision, {generations}")


def main():
    given = lib.arguments(__doc__, seed=(int, random.randrange(1 << 32), "of the moments"))
    rng, rounds = random.Random(given.seed), 10 if given.quick else 100
    print(f"seed {given.seed}")
    target = lib.free_port()
    weir = lib.Weir(given.binary, {"stable": target, "canary": target}, {"stable": 100, "canary": 0})
    acknowledged, changes = 0, 0
    for number in range(1, rounds + 1):
        writer = Writer(weir, acknowledged)
        writer.start()
        time.sleep(rng.uniform(0.0, 0.15))
        weir.kill()
        writer.join(timeout=20)
        changes += writer.acknowledged - acknowledged
        weir.start()
        live = round(weir.weight("canary") * 1000)
        if live not in (writer.acknowledged, writer.sent):
            lib.claim(False, f"round {number}: {writer.acknowledged} was acknowledged, {writer.sent} sent, {live} is live")
        acknowledged = live
        check_history(weir, number, live)
    lib.claim(True, f"{rounds} kills among {changes:,} acknowledged changes: none was lost")
    lib.claim(changes > rounds, "changes were under way when Weir was killed")


main()
