"""Tasks with Celery, with its default settings except for the timeout, if one is set."""
import os
import sys
from datetime import datetime, timezone

from celery import Celery
from tasks import PORT, QUEUE, SECOND, TIMEOUT, main, perform

app = Celery("celery_peer", broker=f"redis://127.0.0.1:{PORT}/0")
app.conf.task_default_queue = QUEUE
if TIMEOUT:
    # Otherwise a task is acknowledged before it starts, and is lost when its worker is killed.
    app.conf.task_acks_late = True
    # The default interval of this check is 100 seconds.
    sweeps = {"unacked_restore_interval": TIMEOUT, "unacked_restore_throttle": 1}
    app.conf.broker_transport_options = {"visibility_timeout": TIMEOUT, **sweeps}


@app.task(name="do")
def do(body):
    perform(body)


def publish(bodies):
    with app.producer_or_acquire() as producer:
        for body in bodies:
            do.apply_async((body,), producer=producer)


def publish_delayed(tasks):
    with app.producer_or_acquire() as producer:
        for body, due in tasks:
            do.apply_async((body,), producer=producer, eta=datetime.fromtimestamp(due, timezone.utc))


def work(count):
    arguments = ["-A", "celery_peer", "worker", "--concurrency", str(count), "--loglevel", "ERROR"]
    arguments += ["--queues", f"{QUEUE},{SECOND}"] if SECOND else []
    arguments += ["--pool", "threads"] if os.environ.get("THREADS") else []
    name = ["--hostname", f"{QUEUE}-{os.getpid()}@peer"]
    os.execv(sys.executable, [sys.executable, "-m", "celery", *arguments, *name])


if __name__ == "__main__":
    main(publish, publish_delayed, work)
