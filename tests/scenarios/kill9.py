#!/usr/bin/env python3
"""kill -9 at random moments while weights change and are saved into the file: after every restart the last
acknowledged weights are live, and the file is whole.

A change that was sent and not acknowledged may be live or not; an acknowledged one must be. The history's newest
revision is the live one, and it has every revision before. Full run: 100 kills.
"""
import json
import random
import re
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


class Saver(threading.Thread):
    """Saves the live weights into the file until Weir is gone."""

    def __init__(self, weir):
        super().__init__()
        self.weir, self.done = weir, 0

    def run(self):
        while True:
            try:
                status, _, text = self.weir.ask("POST", "/api/v1/config/save", {})
            except (OSError, lib.http.client.HTTPException):
                return
            if status != 200:
                lib.claim(False, f"saving was refused with {status}: {text}")
            self.done += 1


def in_file(weir):
    """The canary's thousandths in the file."""
    with open(f"{weir.home}/weir.toml") as file:
        return round(float(re.search(r"canary = ([0-9.]+) }", file.read())[1]) * 1000)
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
    acknowledged, changes, saves, newer = 0, 0, 0, 0
    for number in range(1, rounds + 1):
        writer, saver = Writer(weir, acknowledged), Saver(weir)
        writer.start()
        saver.start()
        time.sleep(rng.uniform(0.0, 0.15))
        weir.kill()
        writer.join(timeout=20)
        saver.join(timeout=20)
        saves += saver.done
        written = in_file(weir)
        if written > writer.sent:
            lib.claim(False, f"round {number}: the file says {written}, and {writer.sent} was the last sent")
        newer += written < writer.acknowledged
        changes += writer.acknowledged - acknowledged
        weir.start()
        live = round(weir.weight("canary") * 1000)
        if live not in (writer.acknowledged, writer.sent):
            lib.claim(False, f"round {number}: {writer.acknowledged} was acknowledged, {writer.sent} sent, {live} is live")
        acknowledged = live
        check_history(weir, number, live)
    lib.claim(True, f"{rounds} kills among {changes:,} acknowledged changes: none was lost")
    lib.claim(saves > 0, f"{saves:,} savings meanwhile; live weights were newer than the file's {newer} times")
    lib.claim(changes > rounds, "changes were under way when Weir was killed")


main()
