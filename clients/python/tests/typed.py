"""Checked by mypy, never run: signatures survive the decorators."""

from __future__ import annotations

from typing import assert_type

from corral_client import Corral, Lease, Task, Unique, Worker
from corral_client import asyncio as corral_asyncio
from corral_client._tasks import Message

corral = Corral.from_url("redis://localhost")


@corral.cached("user:{user_id}", ttl="5m")
def user(user_id: int) -> str | None:
    return None


assert_type(user(7), str | None)
assert_type(user.key(user_id=7), str)
user("7")  # type: ignore[arg-type]
user()  # type: ignore[call-arg]


class Shop:
    @corral.cached("price:{article}", ttl=60)
    def price(self, article: str) -> int:
        return 1


assert_type(Shop().price("a"), int)
Shop().price(1)  # type: ignore[arg-type]

mail = corral.queue("mail")


@mail.task(tries=5)
def welcome(task: Task, to: str) -> None:
    assert_type(task.attempt, int)


assert_type(welcome.publish(to="ann"), str)
welcome.publish(form="ann")  # type: ignore[call-arg]
welcome.options(delay="5m", unique=Unique("a", "1h")).publish("ann")
assert_type(welcome.message("ann"), Message)


@mail.cron("0 2 * * *")
def report(task: Task) -> None: ...


report.publish()

with corral.lock("name") as lease:
    assert_type(lease, Lease)

Worker([mail]).run()


async def main() -> None:
    other = corral_asyncio.Corral.from_url("redis://localhost")

    @other.cached("user:{user_id}", ttl="5m")
    async def user(user_id: int) -> str:
        return ""

    assert_type(await user(7), str)
    await user("7")  # type: ignore[arg-type]
    async with other.lock("name") as lease:
        assert_type(lease.fence, int | None)
    await corral_asyncio.Worker([other.queue("mail")]).run()
