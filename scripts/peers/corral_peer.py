"""Tasks with Corral."""
import os
import uuid

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tasks import PORT, QUEUE, SECOND, TIED, TIMEOUT, main, perform, store


def publish(bodies):
    if TIMEOUT:
        store().execute_command("TASK.POLICY", QUEUE, "LEASE", TIMEOUT * 1000)
    with store().pipeline(transaction=False) as pipeline:
        for body in bodies:
            pipeline.execute_command("TASK.PUBLISH", QUEUE, body)
        pipeline.execute()


def publish_delayed(tasks):
    for body, due in tasks:
        store().execute_command("TASK.PUBLISH", QUEUE, body, "AT", round(due * 1000))


def work(count):
    for _ in range(count - 1):
        if os.fork() == 0:
            break
    me = uuid.uuid4().hex
    server = redis.Redis(port=PORT, socket_timeout=15, retry=Retry(NoBackoff(), 0), decode_responses=True)
    args = ["TASK.CONSUME", "workers", me, QUEUE, "COUNT", 1, "BLOCK", 10_000, "META"]
    args += ["TIED"] if TIED else []
    args += ["THEN", 1, SECOND] if SECOND else []
    while True:
        for id, fields, _idle, _deliveries, *queue in server.execute_command(*args):
            perform(fields[1])
            server.execute_command("TASK.ACK", queue[0] if queue else QUEUE, "workers", id)


if __name__ == "__main__":
    main(publish, publish_delayed, work)
