#!/usr/bin/env python3
"""Writes sixty_digits.csv: the judge's formulas in 60 digits, at arguments that are exact doubles. Needs mpmath."""
import math, random, sys
from mpmath import mp, mpf, log, exp, sqrt

mp.dps = 60
rng = random.Random(7)
rows = []


def row(kind, value, size, *args):
    rows.append(",".join([kind, mp.nstr(value, 25), mp.nstr(size, 6), *(repr(a) for a in args)]))


def excess(ratio, extra, alternative, baseline, per):
    """Formula (2) as docs/judge.md has it, minus 1."""
    r, d, A, p, m = map(mpf, (ratio, extra, alternative, baseline, per))
    q0, q1, q2 = A * (1 + r * m), A * r * m + r * p + d * (1 + r * m), d * r * m
    return 2 * q0 / (q1 + sqrt(q1 * q1 - 4 * q2 * q0)) - 1


def log_e(ratio, extra, nc, xc, ns, xs, x):
    r, d, x = mpf(ratio), mpf(extra), mpf(x)
    stake = r * nc / ns * x
    parts = [xc * log(1 + x), xs * log(1 - stake), -nc * d * x]
    near = xs * abs(stake / (1 - stake))
    return sum(parts), sum(map(abs, parts)) + near


def up_to(top):
    """A count, log-uniform, 0 now and then."""
    return 0 if rng.random() < 0.15 else int(min(top, math.exp(rng.uniform(0, math.log(max(top, 1) + 1)))))


for _ in range(160):
    harm = rng.random() < 0.5
    ratio, extra = rng.choice([(1.2, 1e-4), (1.0, 0.001), (1.0, 0.005)] if harm else [(1.5, 0.01), (1.5, 0.001), (1.5, 0.2), (2.0, 0.004)])
    p = 10 ** rng.uniform(-6, -0.3)
    base = ratio * p + extra
    alternative = min(base * rng.choice([1.3, 1.5, 2, 3, 5, 10, 30, 100, 1e9]), 1.0) if harm else max(p, 0.02 * base)
    if harm and alternative <= 1.05 * base:
        continue
    nc, ns = max(up_to(10**9), 1), max(up_to(10**9), 5)
    per = nc / ns
    x = excess(ratio, extra, alternative, p, per)
    row("excess", x, abs(x), ratio, extra, alternative, p, per)
    bet = float(max(x, mpf(0))) if harm else float(min(max(x, mpf("-0.98")), mpf(0)))
    xc, xs = min(up_to(nc), nc), min(up_to(ns), ns)
    value, size = log_e(ratio, extra, nc, xc, ns, xs, bet)
    row("log_e", value, size, ratio, extra, nc, xc, ns, xs, bet)

for _ in range(60):
    n = up_to(10**9)
    x, limit = min(up_to(10**9), n), 10 ** rng.uniform(-6, -0.4)
    rate = min(limit * rng.choice([1.5, 2, 4, 15, 1e9]), 0.5 + 0.5 * limit)
    p0, p1 = mpf(limit), mpf(rate)
    parts = [x * log(p1 / p0), (n - x) * log((1 - p1) / (1 - p0))]
    size = sum(map(abs, parts)) + x + (n - x) * (p1 - p0) / (1 - p1)
    row("alone", sum(parts), size, n, x, limit, rate)

for _ in range(50):
    a = rng.choice([rng.uniform(-1, 1), rng.uniform(-800, 800), rng.uniform(-1e9, 1e9)])
    b = a + rng.choice([0.0, rng.uniform(-1, 1), rng.uniform(-60, 60), rng.uniform(-1e9, 1e9)])
    value = max(mpf(a), mpf(b)) + log(1 + exp(-abs(mpf(a) - mpf(b))))
    row("log_add_exp", value, abs(mpf(a)) + abs(mpf(b)) + 1, a, b)

# The mixture of (3): checks of `seconds`, all with the same two e-values, prior 0.3 and 0.7.
for _ in range(30):
    checks, seconds = rng.choice([1, 2, 10, 300]), rng.choice([0.1, 1.0, 10.0, 60.0])
    les = [rng.uniform(-3, 3), rng.choice([0.0, rng.uniform(-50, 50)])]
    M, S, t = [mpf("0.5")] * 2, mpf("0.5"), mpf(0)
    for k in range(checks):
        if k:
            h = mpf(seconds) / (1500 + t)
            M, S = [m + h * S for m in M], S * (1 - h)
        M = [m * exp(mpf(le)) for m, le in zip(M, les)]
        t += mpf(seconds)
    value = log(mpf(0.3) / (mpf(0.3) + mpf(0.7)) * M[0] + mpf(0.7) / (mpf(0.3) + mpf(0.7)) * M[1] + S)
    row("mix", value, checks * (abs(mpf(les[0])) + abs(mpf(les[1])) + 1), checks, seconds, *les)

open(sys.argv[1] if len(sys.argv) > 1 else "sixty_digits.csv", "w").write("\n".join(rows) + "\n")
