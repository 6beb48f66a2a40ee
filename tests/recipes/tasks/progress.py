from driver import *
from progress import progress, run_now, stop
from publish import QUEUE, publish

first, second = publish("first"), publish("second")
later = publish("later", "DELAY", 600_000)
same([progress(id) for id in (first, second, later)], ["0 tasks before it", "1 tasks before it", "delayed"])
same((run_now(later), run_now(later), progress(later)), (True, True, "0 tasks before it"))
[[id, *_]] = C("TASK.CONSUME", "g", "w", QUEUE, "META")
same((progress(later), run_now(later), progress(id)), ("leased", False, "leased"))
same((stop(later), C("TASK.EXTEND", QUEUE, "g", "w", id), progress(later)), (True, 0, "finished"))
same((stop(later), stop(first), progress(second)), (False, True, "0 tasks before it"))
