from driver import *
from corral_client import Worker
from idempotent import once

import sqlite3
db = sqlite3.connect(":memory:", check_same_thread=False)
db.execute("CREATE TABLE done (task PRIMARY KEY)")
db.execute("CREATE TABLE mail (address)")
queue, attempts = corral.queue("mail"), []

def change(db, address):
    db.execute("INSERT INTO mail VALUES (?)", (address,))
    if len(attempts) == 1:
        raise ValueError("down")

@queue.task()
def welcome(task, to):
    attempts.append(task.id)
    once(db, task, change, to)
    if len(attempts) == 2:
        raise OSError("the answer was lost")            # after the work, before the acknowledgement

C("TASK.POLICY", "mail", "BACKOFF", 1, 1)
id = welcome.publish("ann")
work_off(Worker([queue]), lambda: is_done("mail"))
# Three attempts: one is undone, one is done, one finds it done.
same(attempts, [id] * 3)
same(db.execute("SELECT * FROM mail").fetchall(), [("ann",)])
