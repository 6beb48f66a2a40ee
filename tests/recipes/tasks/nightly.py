from driver import *
from datetime import datetime
from zoneinfo import ZoneInfo
from corral_client import Worker
from corral_client.testing import memory
from mailer import mail
from nightly import report

# Two workers, one run in the queue, and it is for the next night.
with Worker([mail]), Worker([mail]):
    until(lambda: C("ZCARD", "delayed:{mail}") == 1 and counted("task_deduplicated") == 1)
[[_, due]] = shared.zrange("delayed:{mail}", 0, -1, withscores=True)
local = datetime.fromtimestamp(due / 1000, ZoneInfo("Europe/Berlin"))
same((local.hour, local.minute, 0 < due / 1000 - time.time() < 26 * 3600), (2, 0, True))
# Each night once; after nights without a worker, one run.
with memory(corral) as fake:
    same(fake.run(), [])
    for _ in range(3):
        fake.advance("1d")
        same([run.task for run in fake.run()], ["report"])
    fake.advance("5d")
    same([run.task for run in fake.run()], ["report"])
