from driver import *
from idempotent import once
from worker import QUEUE, run, stopping

import sqlite3
db = sqlite3.connect(":memory:")
db.execute("CREATE TABLE done (task PRIMARY KEY)")
db.execute("CREATE TABLE mail (address)")
broken = True

def change(db, payload):
    db.execute("INSERT INTO mail VALUES (?)", (payload,))
    if broken:
        raise ValueError("down")

def handle(payload, key, lost):
    global broken
    try:
        once(db, payload, key, change)
    finally:
        broken = False
    if db.execute("SELECT count(*) FROM done").fetchone()[0] == 1 and not seen:
        seen.append(key)
        raise OSError("the answer was lost")            # after the work, before the acknowledgement
    stopping.set()

seen = []
C("TASK.POLICY", QUEUE, "BACKOFF", 1, 1)
C("TASK.PUBLISH", QUEUE, "ann")
run(handle)
# Three attempts: one is undone, one is done, one finds it done.
same(counted("task_delivered"), 3)
same(db.execute("SELECT * FROM mail").fetchall(), [(b"ann",)])
same(C("XLEN", QUEUE), 0)
