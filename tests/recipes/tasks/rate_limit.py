from driver import *
from corral_client import Later
from rate_limit import at_most

def attempt():
    try:
        at_most(10, 3_600, "smtp")
    except Later as later:
        return 0 < later.delay_ms <= 3_600_000
    return "sent"
results = [attempt() for _ in range(30)]
# An interval may end in between.
assert results.count("sent") in (10, 20) and results.count(True) == 30 - results.count("sent"), results
assert 0 < C("TTL", C("KEYS", "rate:smtp:*")[0]) <= 3_600
