from driver import *

batch = start("batch.py")
assert batch.wait(20) == 0, batch.printed
until(lambda: batch.printed == ["step 0\n", "step 1\n", "step 2\n"])
same(C("EXISTS", "lock:{nightly-batch}"), 0)
