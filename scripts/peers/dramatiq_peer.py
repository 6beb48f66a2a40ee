"""Tasks with Dramatiq, with its default settings."""
import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from tasks import PORT, QUEUE, main, perform

dramatiq.set_broker(RedisBroker(url=f"redis://127.0.0.1:{PORT}"))


@dramatiq.actor(queue_name=QUEUE)
def do(body):
    perform(body)


def publish(bodies):
    for body in bodies:
        do.send(body)


def work(count):
    arguments = ["-m", "dramatiq", "dramatiq_peer", "--processes", "1", "--threads", str(count)]
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(publish, None, work)
