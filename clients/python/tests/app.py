"""A worker that tests start as a process. Each run adds a line to the file RUNS."""

from __future__ import annotations

import asyncio
import os
import time

from corral_client import Corral, Later, Task, Worker
from corral_client import asyncio as corral_asyncio

CONCURRENCY = int(os.environ.get("CONCURRENCY", "4"))
TIMEOUT = float(os.environ.get("SHUTDOWN_TIMEOUT", "25"))
corral = Corral.from_url(os.environ["CORRAL_URL"])
queue = corral.queue("work")
aqueue = corral_asyncio.Corral.from_url(os.environ["CORRAL_URL"]).queue("work")


def note(text: str) -> None:
    with open(os.environ["RUNS"], "ab", buffering=0) as file:
        file.write(f"{text}\n".encode())


@queue.task()
def quick(task: Task, number: int) -> None:
    note(f"{number}")


@queue.task()
def slow(task: Task, seconds: float) -> None:
    note(f"start {task.attempt}")
    time.sleep(seconds)
    note(f"end {task.attempt}")


@queue.task()
def polite(task: Task) -> None:
    note("start")
    while not task.stopping:
        time.sleep(0.01)
    note("later")
    raise Later(0)


@aqueue.task(name="quick")
async def aquick(task: Task, number: int) -> None:
    note(f"{number}")


@aqueue.task(name="slow")
async def aslow(task: Task, seconds: float) -> None:
    note(f"start {task.attempt}")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("canceled")
        raise
    note(f"end {task.attempt}")


worker = Worker([queue], concurrency=CONCURRENCY, shutdown_timeout=TIMEOUT)
aworker = corral_asyncio.Worker([aqueue], concurrency=CONCURRENCY, shutdown_timeout=TIMEOUT)
