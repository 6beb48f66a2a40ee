from driver import *
from datetime import datetime, timedelta, timezone
from later import at, call_off, remind

due = lambda id: int(id.split("-")[0]) / 1000
reminder = remind("ann")
same((round((due(reminder) - time.time()) / 86_400), C("ZCARD", "delayed:{mail}")), (3, 1))
noon = datetime.now(timezone.utc) + timedelta(days=7)
id = at(noon, "ann")
same(due(id), round(noon.timestamp() * 1000) / 1000)
same((call_off(id), call_off(id), C("ZCARD", "delayed:{mail}")), (True, False, 1))
# A time that is past is now.
at(datetime.now(timezone.utc) - timedelta(days=1), "now")
[[now, *_]] = C("TASK.CONSUME", "g", "w", "mail", "META")
same(call_off(now.decode()), False)
