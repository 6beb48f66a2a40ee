"""The tasks and the command line that all Python peers share.

The environment sets the port, the queue and, for a short lease, the timeout of a lease in seconds. A worker processes
the tasks of two queues if SECOND names another one, and ties its leases to its connection if TIED is set. With THREADS,
Celery has threads instead of processes.
"""
import os
import random
import sys
import time

import redis

PORT = int(os.environ["PORT"])
QUEUE = os.environ["QUEUE"]
SECOND = os.environ.get("SECOND")
TIMEOUT = int(os.environ.get("TIMEOUT") or 0)
TIED = bool(os.environ.get("TIED"))
connection = None


def store():
    """The connection of this process."""
    global connection
    if connection is None:
        connection = redis.Redis(port=PORT)
    return connection


def batches(bodies):
    """The bodies of tasks that are published together."""
    for start in range(0, len(bodies), 1000):
        yield bodies[start:start + 1000]


def perform(body):
    """Does nothing, except for the few tasks that report progress."""
    word, _, rest = body.partition(" ")
    if word == "mark":
        store().set(f"{QUEUE}:{rest}", time.time())
    elif word == "due":
        store().rpush(f"{QUEUE}:late", time.time() * 1000 - float(rest))
    elif word == "hang":
        if store().incr(f"{QUEUE}:runs{rest}") == 1:
            store().set(f"{QUEUE}:worker{rest}", os.getsid(0))
            time.sleep(600)
        store().set(f"{QUEUE}:again{rest}", time.time())


def main(publish, publish_delayed, work):
    """publish(bodies), publish_delayed([(body, due in Unix seconds), ...]), work(number of workers)"""
    what, count = sys.argv[1], int(sys.argv[2])
    if what == "publish":
        bodies = ["noop"] * count
        bodies[count // 5], bodies[-1] = "mark begin", "mark end"
        publish(bodies)
    elif what == "publish_delayed":
        # Spread over 40 seconds, after a lead time for publishing.
        dues = [time.time() + 5 + random.random() * 40 for _ in range(count)]
        publish_delayed([(f"due {due * 1000:.0f}", round(due, 3)) for due in dues])
    elif what == "hang":
        publish([f"hang {count}"])
    elif what == "now":
        # One at a time, to an idle worker.
        publish(["noop"])
        for _ in range(count):
            time.sleep(0.02)
            publish([f"due {time.time() * 1000}"])
    elif what == "work":
        work(count)
