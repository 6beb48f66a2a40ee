from driver import *
from datetime import date, datetime, timedelta, timezone
from nightly import nightly, schedule
from publish import QUEUE

reports = []
for _ in range(3):
    schedule(date(2020, 1, 1))
same(C("XLEN", QUEUE), 1)
# Nights without a worker are caught up, each once, though each is worked on twice.
for night in range(1, 6):
    [[id, fields, _, _]] = C("TASK.CONSUME", "g", "w", QUEUE, "META")
    payload = fields[1]
    same(payload, f"2020-01-0{night}".encode())
    nightly(payload, reports.append)
    nightly(payload, reports.append)
    C("TASK.ACK", QUEUE, "g", id)
same(reports, [date(2020, 1, 1 + night // 2) for night in range(10)])
same(C("XLEN", QUEUE), 1)
# The next one is in time.
today = datetime.now(timezone.utc).date()
nightly(today.isoformat().encode(), reports.append)
[[_, due]] = shared.zrange("delayed:{mail}", 0, -1, withscores=True)
same(datetime.fromtimestamp(due / 1000, timezone.utc).isoformat(), f"{today + timedelta(days=1)}T02:00:00+00:00")
