"""A small shop. The page: `uvicorn shop:app`. The worker: `corral worker shop:worker`, also with `--processes 4`."""

import os
import sqlite3

from corral_client import Corral, Fatal, Task, Unique, Worker
from fastapi import FastAPI

corral = Corral.from_url(os.environ.get("CORRAL_URL", "redis://localhost:6379"))
urgent, mail = corral.queue("{shop}:urgent"), corral.queue("{shop}:mail")
database = os.environ.get("SHOP_DATABASE", "shop.db")
app = FastAPI()


def execute(statement: str, *values: object) -> list[tuple]:
    with sqlite3.connect(database, timeout=30) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS outbox (task PRIMARY KEY, address, text)")
        connection.execute("CREATE TABLE IF NOT EXISTS report (one PRIMARY KEY, mails, fence)")
        return connection.execute(statement, values).fetchall()


@corral.cached("shop:mails", ttl="2s", stale="1h")
def mails() -> int:
    return execute("SELECT count(*) FROM outbox")[0][0]


@app.get("/")
def page() -> dict:
    return {"mails": mails()}


@app.post("/customers/{address}")
def sign_up(address: str) -> str:
    return welcome.options(unique=Unique(f"welcome:{address}", "1d")).publish(to=address)


@app.post("/passwords/{address}")
def forgotten(address: str) -> str:
    return new_password.options(retry=True).publish(to=address)


@app.post("/carts/{address}/{item}")
def add_to_cart(address: str, item: str) -> str:
    """The reminder is about the last item, and comes some time after it."""
    last = Unique(f"reminder:{address}", "1d", until="start", last=True)
    return reminder.options(delay=os.environ.get("SHOP_DELAY", "30m"), unique=last).publish(to=address, item=item)


def send(task: Task, to: str, text: str) -> None:
    """A task may run twice, always with the same id: so its mail is sent once."""
    if "@" not in to:
        raise Fatal(f"{to!r} is no address")
    execute("INSERT OR IGNORE INTO outbox VALUES (?, ?, ?)", f"{task.queue} {task.id}", to, text)


@urgent.task(tries=5)
def new_password(task: Task, to: str) -> None:
    send(task, to, "Your new password")


@mail.task(tries=5, max_runtime="1m")
def welcome(task: Task, to: str) -> None:
    send(task, to, "Welcome")


@mail.task(tries=5)
def reminder(task: Task, to: str, item: str) -> None:
    send(task, to, f"Your cart is waiting, with {item}")


@mail.cron("0 2 * * *", tz="Europe/Berlin")
def report(task: Task) -> None:
    newer = "ON CONFLICT DO UPDATE SET mails = excluded.mails, fence = excluded.fence WHERE fence < excluded.fence"
    with corral.lock("{shop}:report", ttl="30s", wait="10s") as lease:
        execute(f"INSERT INTO report VALUES (1, ?, ?) {newer}", mails.uncached(), lease.fence)


worker = Worker([urgent, mail], concurrency=8)
