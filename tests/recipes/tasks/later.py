from driver import *
from later import at_noon, call_off, remind
from publish import QUEUE

from datetime import datetime, timedelta, timezone
due = lambda id: int(id.split(b"-")[0]) / 1000
in_days = lambda id: round((due(id) - time.time()) / 86_400)
reminder = remind("ann")
same((in_days(reminder), C("ZCARD", "delayed:{mail}")), (3, 1))
noon = datetime.now(timezone.utc) + timedelta(days=7)
id = at_noon("ann", noon)
same(due(id), int(noon.timestamp() * 1000) / 1000)
same((call_off(id), call_off(id), C("ZCARD", "delayed:{mail}")), (True, False, 1))
# A time that is past is now.
at_noon("now", datetime.now(timezone.utc) - timedelta(days=1))
[[now, *_]] = C("TASK.CONSUME", "g", "w", QUEUE, "META")
same(call_off(now), False)
