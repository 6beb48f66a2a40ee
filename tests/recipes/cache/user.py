from driver import *
from user import user

find = Loader(None)
same(at_once(20, lambda: user(1, find)), [None] * 20)
same((find.calls, C("EXISTS", "user:1")), (1, 1))
assert 0 < C("PTTL", "user:1") <= 30_000
same(user(2, Loader(b"ann")), b"ann")
assert 30_000 < C("PTTL", "user:2") <= 300_000
