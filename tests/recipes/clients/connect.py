from driver import *

same(corral.call("LOCK.ACQUIRE", "batch", "me", 1_000), 1)
same(corral.call("GET", "lock:{batch}"), b"me")
# Where redis-py looks for the node of a command in a cluster: it sees every queue.
from redis._parsers import CommandsParser
keys = CommandsParser(shared).get_keys
several = "TASK.CONSUME", "workers", "w1", "mail", "BLOCK", 2_000, "THEN", 2, "invoices", "reports"
same(keys(shared, *several), ["mail", "invoices", "reports"])
same(keys(shared, *several[:6]), ["mail"])
same(keys(shared, *several[:9]), None)
