# needs: sqlite3
from driver import *
import sqlite3

lines = [line.split("--")[0].strip().rstrip(";") for line in open("fence.sql")]
db = sqlite3.connect(":memory:")
db.execute("CREATE TABLE account (id INTEGER, fence INTEGER, balance INTEGER)")
db.execute("INSERT INTO account VALUES (7, 0, 100)")
def begin(token):
    taken = db.execute(lines[0], {"token": token}).rowcount
    return taken and db.execute(lines[1]).fetchone()[0]
def end(token, new):
    return db.execute(lines[2], {"token": token, "new": new}).rowcount
old, new = (C("LOCK.ACQUIRE", "account", holder, 1, "FENCE", "BLOCK", 5_000) for holder in ("a", "b"))
same((begin(old), begin(new)), (100, 100))
same((end(old, 150), end(new, 200), begin(old)), (0, 1, 0))
same(begin(new), 200)
