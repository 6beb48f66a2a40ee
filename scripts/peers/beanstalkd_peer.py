"""Tasks with beanstalkd, with its default settings. A reserved job ends with the connection of its worker."""
import os
import time

import greenstalk
from tasks import QUEUE, SECOND, main, perform

SERVER = "127.0.0.1", int(os.environ["BEANSTALKD"])


def publish(bodies):
    with greenstalk.Client(SERVER, use=QUEUE) as client:
        for body in bodies:
            client.put(body)


def publish_delayed(tasks):
    # Delays are whole seconds.
    with greenstalk.Client(SERVER, use=QUEUE) as client:
        for body, due in tasks:
            client.put(body, delay=max(0, round(due - time.time())))


def work(count):
    for _ in range(count - 1):
        if os.fork() == 0:
            break
    client = greenstalk.Client(SERVER, watch=[QUEUE, SECOND] if SECOND else QUEUE)
    while True:
        job = client.reserve()
        perform(job.body)
        client.delete(job)


if __name__ == "__main__":
    main(publish, publish_delayed, work)
