from driver import *

batch = start("batch.py")
assert batch.wait(20) == 0, batch.printed
until(lambda: len(batch.printed) == 3)
tokens = {line.split(" token ")[1] for line in batch.printed}
same(([line.split(" token ")[0] for line in batch.printed], len(tokens)), ([f"step {n}" for n in range(3)], 1))
same(C("EXISTS", "lock:{nightly-batch}"), 0)
# It waits for its turn.
C("LOCK.ACQUIRE", "nightly-batch", "other", 60_000)
batch = start("batch.py")
until(lambda: counted("lock_waiters") == 1)
C("LOCK.RELEASE", "nightly-batch", "other")
same(batch.wait(20), 0)
