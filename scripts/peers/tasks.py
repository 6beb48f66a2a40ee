"""What the tasks of all queues in Python do, and what all programs that publish them are told.

The port, the queue and, where it is to be short, the time-out of a lease in seconds come from the environment.
"""
import os
import random
import sys
import time

import redis

PORT = int(os.environ["PORT"])
QUEUE = os.environ["QUEUE"]
TIMEOUT = int(os.environ.get("TIMEOUT") or 0)
connection = None


def store():
    """A connection of this process."""
    global connection
    if connection is None:
        connection = redis.Redis(port=PORT)
    return connection


def perform(body):
    """Nothing, except in the few tasks that tell how it goes."""
    word, _, rest = body.partition(" ")
    if word == "mark":
        store().set(f"{QUEUE}:{rest}", time.time())
    elif word == "due":
        store().rpush(f"{QUEUE}:late", time.time() * 1000 - float(rest))
    elif word == "hang":
        if store().incr(f"{QUEUE}:runs") == 1:
            store().set(f"{QUEUE}:worker", os.getsid(0))
            time.sleep(600)
        store().set(f"{QUEUE}:again", time.time())


def main(publish, postpone, work):
    """publish(bodies), postpone([(body, due in unix seconds), ...]), work(how many workers)"""
    what, count = sys.argv[1], int(sys.argv[2])
    if what == "publish":
        bodies = ["noop"] * count
        bodies[count // 5], bodies[-1] = "mark begin", "mark end"
        publish(bodies)
    elif what == "postpone":
        # Over 40 seconds, after the time that it takes to publish them.
        dues = [time.time() + 5 + random.random() * 40 for _ in range(count)]
        postpone([(f"due {due * 1000:.0f}", round(due, 3)) for due in dues])
    elif what == "hang":
        publish(["hang"])
    elif what == "work":
        work(count)
