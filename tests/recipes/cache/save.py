from driver import *
import user as module
from save import save
from user import user

rows = {1: "old"}
begun, go = threading.Event(), threading.Event()
def slow(number):
    row = rows[number]
    begun.set()
    assert go.wait(20)
    return row
module.find = slow
with Callers(1) as pool:
    loading = pool.submit(user, 1)
    assert begun.wait(20)
    save(1, "new", rows.__setitem__)
    go.set()
    same(loading.result(), "old")
# What was loaded before the change was not stored.
same(C("EXISTS", "user:1"), 0)
same(user(1), "new")
save(1, "newer", rows.__setitem__)
same(user(1), "newer")
