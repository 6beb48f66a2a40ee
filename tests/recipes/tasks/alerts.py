from driver import *
from alerts import alerts
QUEUE = "mail"

same(alerts(QUEUE), [])
C("TASK.PUBLISH", QUEUE, "ann")
[[id, *_]] = C("TASK.CONSUME", "workers", "w1", QUEUE, "META")
same(alerts(QUEUE), [])
C("TASK.NACK", QUEUE, "workers", "w1", "FATAL", id)
same(alerts(QUEUE), ["dead letters"])
same(alerts(QUEUE, dead=1), [])
C("DEL", "dead:{mail}")

C("TASK.PUBLISH", QUEUE, "ann")
same(alerts(QUEUE), [])
until(lambda: alerts(QUEUE, oldest_ms=5) == ["tasks wait too long"])
C("TASK.CONSUME", "wrokers", "w1", QUEUE, "META")
same(alerts(QUEUE), ["unknown groups"])
C("XGROUP", "DESTROY", QUEUE, "wrokers")

C("TASK.CONSUME", "workers", "w1", QUEUE, "META")
C("TASK.POLICY", QUEUE, "LEASE", 1)
until(lambda: alerts(QUEUE, oldest_ms=5) == ["expired leases are not consumed"])
C("TASK.POLICY", QUEUE, "LEASE", 60_000)
same(alerts(QUEUE), [])

C("TASK.PUBLISH", QUEUE, "bob", "DELAY", 1)
until(lambda: alerts(QUEUE) == ["due tasks are not consumed"])
C("TASK.POLICY", QUEUE, "LIMIT", 2, "PAUSED", 1)
same(alerts(QUEUE), ["due tasks are not consumed", "nearly full", "paused"])
