load = Loader((b"html", 60_000))
same(at_once(50, lambda: cached("page", load, patience=7_000)), [b"html"] * 50)
same(load.calls, 1)
# Whoever fails hands over to the next, at once: the lease is longer than anybody waits.
load = Loader(ValueError("down"), (b"html", 60_000))
def attempt():
    try: return cached("other", load, lease=60_000, patience=7_000)
    except ValueError: return None
got = at_once(50, attempt)
same((got.count(None), got.count(b"html"), load.calls), (1, 49, 2))
# Nobody loads: the wait has an end.
C("CACHE.FETCH", "hanging", 60_000)
same(fails(lambda: cached("hanging", load, patience=50)), "hanging")
