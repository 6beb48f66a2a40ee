from driver import *
from clients import C, ERRORS, W, waiting

# A wait of 10 s does not run into the socket's time-out, and is not sent twice.
same(W("TASK.CONSUME", "workers", "w1", "mail", "BLOCK", 10_000, "META"), [])
# Waiting clients leave the shared one alone.
with Callers(100) as pool:
    tasks = [pool.submit(W, "TASK.CONSUME", "workers", f"w{n}", "mail", "BLOCK", 10_000, "META") for n in range(100)]
    until(lambda: counted("task_waiters") == 100)
    for n in range(100):
        C("TASK.PUBLISH", "mail", n)
    same(sorted(int(task.result()[0][1][1]) for task in tasks), list(range(100)))
try:
    C("LOCK.EXTEND")
    assert False
except ERRORS:
    pass

# Where redis-py looks for the node of a command in a cluster: it sees every queue.
from redis._parsers import CommandsParser
keys = CommandsParser(shared).get_keys
several = "TASK.CONSUME", "workers", "w1", "mail", "BLOCK", 2_000, "THEN", 2, "invoices", "reports"
same(keys(shared, *several), ["mail", "invoices", "reports"])
same(keys(shared, *several[:6]), ["mail"])
same(keys(shared, *several[:9]), None)
