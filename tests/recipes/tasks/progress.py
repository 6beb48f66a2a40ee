from driver import *
from mailer import welcome
from progress import progress, run_now, stop

first, second = welcome.publish("first"), welcome.publish("second")
later = welcome.options(delay=600).publish("later")
same([progress(id) for id in (first, second, later)], ["0 tasks before it", "1 tasks before it", "delayed"])
same((run_now(later), run_now(later), progress(later)), (True, True, "0 tasks before it"))
[[id, *_]] = C("TASK.CONSUME", "g", "w", "mail", "META")
same((progress(later), run_now(later), progress(id.decode())), ("leased", False, "leased"))
same((stop(later), C("TASK.EXTEND", "mail", "g", "w", id), progress(later)), (True, 0, "finished"))
same((stop(later), stop(first), progress(second)), (False, True, "0 tasks before it"))
