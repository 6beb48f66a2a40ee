"""Measures what the package for Python promises, on a server of its own. Takes about four minutes.

Usage: scripts/python.sh bars [TASKS]     exits with 1 if a bar is missed
The server time of a task is the processor time of the server, with its system calls. The rounds alternate. Other queues
are measured with their defaults, if scripts/clients.sh could install them.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from corral_client import Corral, LoadRejected, Worker
from corral_client import asyncio as corral_asyncio
from corral_client.pytest_plugin import start_server

SECONDS = 120.0
ROUNDS = 3
missed: list[str] = []


def bar(what: str, value: float, most: float, unit: str = "") -> None:
    fine = value <= most
    print(f"  {'ok    ' if fine else 'MISSED'}  {what}: {value:.3g}{unit}, at most {most:.3g}{unit}", flush=True)
    if not fine:
        missed.append(what)


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


class Measured:
    """The processor time of the server per task, and tasks per second."""

    def __init__(self, client: redis.Redis, count: int) -> None:
        self._client, self._count = client, count

    def _cpu(self) -> float:
        used = self._client.info("cpu")
        return float(used["used_cpu_user"] + used["used_cpu_sys"])

    def __enter__(self) -> Measured:
        self._client.config_resetstat()
        self._used, self._began = self._cpu(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.rate = self._count / (time.monotonic() - self._began)
        self.micros = (self._cpu() - self._used) * 1e6 / self._count
        stats = self._client.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): one["calls"] / self._count for name, one in stats.items()}
        mine = ("info", "config|resetstat", "llen", "hlen", "exists")
        self.calls = {name: often for name, often in calls.items() if often >= 0.005 and name not in mine}


def median(name: str, rounds: list[Measured]) -> float:
    """Prints the medians, and the calls of commands per task, also of those within others. Returns the server time."""
    micros = statistics.median(one.micros for one in rounds)
    rate = statistics.median(one.rate for one in rounds)
    print(f"  {name:24} {micros:6.1f} us of the server per task, {rate:7.0f} tasks/s", flush=True)
    print("    " + ", ".join(f"{often:.2f} {name}" for name, often in sorted(rounds[-1].calls.items(), key=lambda one: -one[1])))
    return micros


def fill(client: redis.Redis, count: int) -> None:
    client.flushall()
    pipe = client.pipeline(transaction=False)
    for number in range(count):
        pipe.execute_command("TASK.PUBLISH", "work", json.dumps({"number": number}), "FIELDS", 1, "task", "quick")
    pipe.execute()


def bare_loop(url: str, client: redis.Redis, count: int) -> Measured:
    fill(client, count)
    with Measured(client, count) as measured:
        for _ in range(count):
            ((id, fields, *_),) = client.execute_command("TASK.CONSUME", "workers", "w", "work", "COUNT", 1, "META")
            json.loads(dict(zip(fields[::2], fields[1::2], strict=True))[b"payload"])
            client.execute_command("TASK.ACK", "work", "workers", id)
    return measured


def threads(url: str, client: redis.Redis, count: int) -> Measured:
    queue = Corral.from_url(url).queue("work")

    @queue.task()
    def quick(task: Any, number: int) -> None: ...

    worker = Worker([queue])
    fill(client, count)
    with Measured(client, count) as measured, worker:
        wait(lambda: worker.health()["acked"] >= count)
    return measured


def coroutines(url: str, client: redis.Redis, count: int) -> Measured:
    async def main() -> Measured:
        queue = corral_asyncio.Corral.from_url(url).queue("work")

        @queue.task()
        async def quick(task: Any, number: int) -> None: ...

        worker = corral_asyncio.Worker([queue], concurrency=64)
        with Measured(client, count) as measured:
            async with worker, asyncio.timeout(SECONDS):
                while worker.health()["acked"] < count:
                    await asyncio.sleep(0.02)
        return measured

    fill(client, count)
    return asyncio.run(main())


# The programs of scripts/peers.sh, and how many tasks each processes at a time.
PEERS = {"Celery, 8 threads": ("celery", 8), "Dramatiq, 8 threads": ("dramatiq", 8), "Taskiq, asyncio": ("taskiq", 64)}


def peer(name: str, url: str, client: redis.Redis, count: int) -> Measured:
    program, places = PEERS[name]
    python, queue = Path(os.environ["CORRAL_PEERS"]) / "python", "bars"
    settings = {"PORT": url.rpartition(":")[2], "QUEUE": queue, "THREADS": "yes", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, f"{program}_peer.py"]
    with tempfile.TemporaryFile() as log:
        options: dict[str, Any] = {"cwd": Path(__file__).parent / "peers", "env": os.environ | settings, "stdout": log, "stderr": log}
        client.flushall()
        subprocess.run([*command, "publish", str(count)], check=True, **options)
        with Measured(client, count) as measured:
            # In a session of its own: it starts processes, which end with it.
            process = subprocess.Popen([*command, "work", str(places)], start_new_session=True, **options)
            wait(lambda: client.exists(f"{queue}:end") == 1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return measured


def requests(url: str, seconds: float, results: Any) -> None:
    """250 requests per second; the server dies meanwhile."""
    corral, lock, running, most, times, rejected = Corral.from_url(url), threading.Lock(), 0, 0, [], 0
    load_s, began = 0.02, time.monotonic()

    def load() -> int:
        nonlocal running, most
        with lock:
            running += 1
            # Before the server dies, the keys are loaded at the same time. Half a second later, all of that has ended.
            if time.monotonic() - began > seconds / 2 + 0.5:
                most = max(most, running)
        time.sleep(load_s)
        with lock:
            running -= 1
        return 1

    def call(number: int) -> None:
        nonlocal rejected
        asked = time.monotonic()
        try:
            corral.cache.get_or_load(f"key:{number % 200}", load, ttl=1)
        except LoadRejected:
            rejected += 1
        times.append(time.monotonic() - asked - load_s)

    made = 0
    while time.monotonic() - began < seconds:
        due = int((time.monotonic() - began) * 250)
        for number in range(made, due):
            threading.Thread(target=call, args=(number,), daemon=True).start()
        made = due
        time.sleep(0.004)
    time.sleep(1)
    results.put((most, statistics.quantiles(times, n=100)[98], len(times), rejected))


def outage(program: str, module: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        server, port = start_server(program, module, directory)
        results: Any = multiprocessing.Queue()
        # Long enough that the last values are too old in the end.
        seconds = 16.0
        processes = [
            multiprocessing.Process(target=requests, args=(f"redis://127.0.0.1:{port}", seconds, results)) for _ in range(4)
        ]
        for process in processes:
            process.start()
        time.sleep(seconds / 2)
        server.kill()
        server.wait()
        found = [results.get(timeout=SECONDS) for _ in processes]
        for process in processes:
            process.join()
    calls, rejected = sum(one[2] for one in found), sum(one[3] for one in found)
    print(f"  {calls} requests in 4 processes, {rejected} rejected")
    bar("loads at a time in a process", max(one[0] for one in found), 4)
    bar("p99 beyond the load", max(one[1] for one in found) * 1000, 300, " ms")


def one_of_four(url: str, results: Any) -> None:
    async def run() -> int:
        queue, done = corral_asyncio.Corral.from_url(url).queue("work"), 0

        @queue.task()
        async def quick(task: Any, number: int) -> None:
            nonlocal done
            done += 1
            await asyncio.sleep(0.3)

        async with corral_asyncio.Worker([queue], concurrency=50), asyncio.timeout(SECONDS):
            while (await queue.info())["length"] or not results["published"]:
                await asyncio.sleep(0.05)
        return done

    results[os.getpid()] = asyncio.run(run())


def backlog(url: str, client: redis.Redis) -> None:
    client.flushall()
    manager = multiprocessing.Manager()
    results = manager.dict({"published": False})
    processes = [multiprocessing.Process(target=one_of_four, args=(url, results)) for _ in range(4)]
    for process in processes:
        process.start()
    wait(lambda: client.info("clients")["blocked_clients"] == 4)
    queue = Corral.from_url(url).queue("work")

    @queue.task()
    def quick(task: Any, number: int) -> None: ...

    queue.publish_many([quick.message(number=number) for number in range(50)])
    results["published"] = True
    for process in processes:
        process.join()
    counts = [count for place, count in results.items() if place != "published"]
    print(f"  tasks of each worker: {sorted(counts)}")
    bar("most of one worker beside a fair part", max(counts) / 12.5, 2)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    program, module = os.environ.get("SERVER", "redis-server"), os.environ["CORRAL_MODULE"]
    with tempfile.TemporaryDirectory() as directory:
        server, port = start_server(program, module, directory)
        url, client = f"redis://127.0.0.1:{port}", redis.Redis(port=port, protocol=2)
        try:
            print(f"{count} tasks that do nothing, medians of {ROUNDS} rounds")
            measures: dict[str, Callable[[], Measured]] = {
                "a bare loop": lambda: bare_loop(url, client, count),
                "Worker, 8 threads": lambda: threads(url, client, count),
                "asyncio.Worker": lambda: coroutines(url, client, count),
            }
            for name in PEERS if Path(os.environ.get("CORRAL_PEERS", ""), "python").exists() else ():
                measures[name] = lambda name=name: peer(name, url, client, count)
            rounds: dict[str, list[Measured]] = {name: [] for name in measures}
            for _ in range(ROUNDS):
                for name, measure in measures.items():
                    rounds[name].append(measure())
            micros = {name: median(name, found) for name, found in rounds.items()}
            bar("asyncio.Worker beside a bare loop", micros["asyncio.Worker"] / micros["a bare loop"], 1 / 3)
            celery = micros.get("Celery, 8 threads")
            if celery is not None:
                bar("asyncio.Worker beside Celery", micros["asyncio.Worker"] / celery, 1 / 4)
            print("A backlog of 50 for 4 workers with 50 places each")
            backlog(url, client)
        finally:
            server.kill()
            server.wait()
    print("The server dies under 1000 requests per second")
    outage(program, module)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
