#!/usr/bin/env python3
"""Shares are exact, nobody moves without need, and 0 % means nobody.

Random requests at 95/5 and at 100/0 counted by the client (wrk); user ids whose variant is followed over changes of
weight, a third variant and a restart; cookie jars that start empty. Full run: 1,000,000 requests each, 100,000 ids and
10,000 jars with 50 requests each; about four minutes.
"""
import lib

# Chi-square at one degree of freedom that chance exceeds once in a million: a right split does not flake.
LIMIT = 23.9


def random_requests(given, targets, total):
    weir = lib.Weir(given.binary, targets, {"stable": 95, "canary": 5})
    counts, _ = lib.wrk_exactly(weir.port, total)
    seen = [counts.get((name, 200), 0) for name in ("stable", "canary")]
    statistic = lib.chi_square(seen, [sum(seen) * 0.95, sum(seen) * 0.05])
    lib.claim(statistic < LIMIT, f"95/5 over {sum(seen):,} random requests: {seen[0]:,}/{seen[1]:,}, chi-square {statistic:.2f}")
    weir.shift(stable=100, canary=0)
    counts, _ = lib.wrk_exactly(weir.port, total)
    lib.claim(counts == {("stable", 200): total}, f"a variant at 0 % got none of {total:,}: {counts}")
    weir.kill()


def placed(weir, ids):
    requests = [b"GET / HTTP/1.1\r\nHost: t\r\nX-User-Id: user-%d\r\n\r\n" % user for user in ids]
    return lib.asked_in_order(weir.port, requests)


def share_is(seen, variant, percent):
    """Whether a share is what the weights say, within five standard deviations of as many random ids."""
    p, n = percent / 100, len(seen)
    return abs(seen.count(variant) - n * p) <= 5 * (n * p * (1 - p)) ** 0.5


def user_ids(given, targets, ids):
    sticky = 'sticky = { key = ["header:x-user-id"], fallback = "random" }'
    weir = lib.Weir(given.binary, targets, {"stable": 100, "canary": 0, "third": 0}, sticky)
    before = placed(weir, ids)
    lib.claim(set(before) == {"stable"}, f"all {len(ids):,} ids start at stable")
    for percent in (0.1, 1, 5, 10, 50, 100):
        weir.shift(canary=percent)
        after = placed(weir, ids)
        left = sum(1 for a, b in zip(before, after) if a == "canary" and b != "canary")
        lib.claim(left == 0, f"at {percent} % the canary kept every id that it had")
        lib.claim(share_is(after, "canary", percent), f"at {percent} % it has {after.count('canary'):,} of {len(ids):,} ids")
        before = after
    weir.shift(stable=60, canary=40, third=0)
    before = placed(weir, ids)
    weir.shift(stable=55, canary=35, third=10)
    after = placed(weir, ids)
    moved = [b for a, b in zip(before, after) if a != b]
    lib.claim(set(moved) == {"third"}, f"a third variant at 10 % moved {len(moved):,} ids, all of them to it")
    lib.claim(share_is(after, "third", 10), "and has its share")
    weir.shift(stable=50, canary=40, third=10)
    raised = placed(weir, ids)
    moved = [(a, b) for a, b in zip(after, raised) if a != b]
    lib.claim(set(moved) == {("stable", "canary")}, f"raising the second by 5 % moved {len(moved):,} ids, only from stable to it")
    again = placed(weir, ids)
    lib.claim(again == raised, "the same ids have the same variants when asked again")
    for number, name in ((15, "SIGTERM"), (9, "SIGKILL")):
        weir.kill(number)
        weir.start()
        lib.claim(placed(weir, ids) == raised, f"and after {name} and a restart")
    weir.kill()


def cookie_jars(given, targets, jars, times):
    weir = lib.Weir(given.binary, targets, {"stable": 90, "canary": 10}, 'sticky = { fallback = "cookie" }')
    bare = [b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"] * jars
    first = lib.asked_in_order(weir.port, bare, pattern=rb"weir_shop=(\w+);.*?variant-(\w+);")
    ids, before = [one[0] for one in first], [one[1] for one in first]
    lib.claim(len(set(ids)) == jars, f"{jars:,} clients without a cookie got an id each")
    requests = [b"GET / HTTP/1.1\r\nHost: t\r\nCookie: weir_shop=%s\r\n\r\n" % one.encode() for one in ids]
    share = 100 * before.count("canary") / jars
    lib.claim(share_is(before, "canary", 10) and (abs(share - 10) <= 1 or given.quick), f"{share:.2f} % of them got the canary at 10 %")
    same = all(lib.asked_in_order(weir.port, requests) == before for _ in range(times - 1))
    lib.claim(same, f"over {times} requests each, nobody saw two versions")
    weir.shift(canary=20)
    after = lib.asked_in_order(weir.port, requests)
    left = sum(1 for a, b in zip(before, after) if a == "canary" and b != "canary")
    lib.claim(left == 0, "at 20 % everybody who had the canary has it")
    lib.claim(share_is(after, "canary", 20), f"and {100 * after.count('canary') / jars:.2f} % have it in all")
    weir.kill()


def main():
    given = lib.arguments(__doc__)
    total, ids = (60_000, 10_000) if given.quick else (1_000_000, 100_000)
    jars, times = (1_000, 5) if given.quick else (10_000, 50)
    targets = {name: lib.nginx(name) for name in ("stable", "canary")}
    cookie_jars(given, targets, jars, times)
    random_requests(given, targets, total)
    user_ids(given, {**targets, "third": lib.nginx("third")}, range(ids))


main()
