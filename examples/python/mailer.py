"""A plain worker: two queues, retries, a reminder that waits, and a report at night.

Run it with `corral worker mailer:worker`, in several processes with `--processes 4`.
"""

import os
import sqlite3

from corral_client import Corral, Fatal, Task, Unique, Worker

corral = Corral.from_url(os.environ.get("CORRAL_URL", "redis://localhost:6379"))
urgent, mail = corral.queue("{shop}:urgent"), corral.queue("{shop}:mail")
database = os.environ.get("SHOP_DATABASE", "shop.db")


def execute(statement: str, *values: object) -> list[tuple]:
    with sqlite3.connect(database, timeout=30) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS outbox (task PRIMARY KEY, address, text)")
        connection.execute("CREATE TABLE IF NOT EXISTS report (one PRIMARY KEY, mails, fence)")
        return connection.execute(statement, values).fetchall()


def send(task: Task, to: str, text: str) -> None:
    """The id of a task is the same in all of its tries, and unique in its queue: so a mail is not sent again."""
    if "@" not in to:
        raise Fatal(f"{to!r} is no address")
    execute("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?)", f"{task.queue} {task.id}", to, text)


@urgent.task(tries=3)
def reset_password(task: Task, to: str) -> None:
    send(task, to, "Your new password")


@mail.task(tries=5, max_runtime="1m")
def welcome(task: Task, to: str) -> None:
    send(task, to, "Welcome")
    once = Unique(f"reminder:{to}", "1d")
    reminder.options(delay="30m", unique=once).publish(to=to)


@mail.task(tries=5)
def reminder(task: Task, to: str) -> None:
    send(task, to, "Your cart is waiting")


@mail.cron("0 2 * * *", tz="Europe/Berlin")
def report(task: Task) -> None:
    with corral.lock("{shop}:report", ttl="30s", wait="10s") as lease:
        [(mails,)] = execute("SELECT count(*) FROM outbox")
        # An older holder, which has been stopped for a while, does not overwrite a newer report.
        execute(
            "INSERT INTO report VALUES (1, ?, ?) ON CONFLICT DO UPDATE SET mails = excluded.mails,"
            " fence = excluded.fence WHERE fence < excluded.fence",
            mails,
            lease.fence,
        )


worker = Worker([urgent, mail], concurrency=8)
