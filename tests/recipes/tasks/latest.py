from driver import *
from latest import reindex_latest
QUEUE = "mail"

first = reindex_latest("a")
same((reindex_latest("a"), C("ZCARD", "delayed:{mail}")), (first, 1))
C("TASK.RESCHEDULE", QUEUE, first, "DELAY", 0)
[[id, *_]] = C("TASK.CONSUME", "g", "w", QUEUE, "META")
held = reindex_latest("a")
same((reindex_latest("a"), held != first, C("ZCARD", "taskheld:{mail}")), (held, True, 1))
same((C("TASK.ACK", QUEUE, "g", id), C("ZCARD", "delayed:{mail}"), C("EXISTS", "taskheld:{mail}")), (1, 1, 0))
same((C("TASK.CANCEL", QUEUE, held), C("EXISTS", "taskmarks:{mail}")), (1, 0))
