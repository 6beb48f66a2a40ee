"""The command `corral`: run a worker, publish, look at a task, redrive dead letters, find out what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import json
import logging
import os
import sys
from typing import Any

from . import doctor
from ._sync.corral import Corral
from ._tasks import Unique
from ._worker.base import BaseWorker
from ._worker.processes import report, run_processes
from ._worker.report import HealthServer
from .errors import CorralError

_URL = "redis://localhost:6379"


def main(arguments: list[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    try:
        return int(options.run(options, words) or 0)
    except (CorralError, ValueError, TypeError, ImportError) as error:
        print(f"corral: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="corral", description=__doc__)
    parser.add_argument("--url", default=os.environ.get("CORRAL_URL", _URL), help=f"default: CORRAL_URL, or {_URL}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    worker = commands.add_parser("worker", help="run a worker until SIGTERM or SIGINT")
    worker.add_argument("worker", metavar="MODULE:NAME", help="where the worker is, for example shop.tasks:worker")
    worker.add_argument("--concurrency", type=int, help="tasks at a time in each process")
    worker.add_argument("--processes", type=int, default=1)
    worker.add_argument("--health", metavar="HOST:PORT", help="answer HTTP requests with the state of the worker")
    worker.add_argument("--child", help=argparse.SUPPRESS)
    worker.set_defaults(run=_worker)

    publish = commands.add_parser("publish", help="publish a task, and print its id")
    publish.add_argument("queue")
    publish.add_argument("task")
    publish.add_argument("payload", nargs="?", default="{}", help="the arguments as a JSON object")
    publish.add_argument("--delay")
    publish.add_argument("--priority", type=int, default=0)
    publish.add_argument("--unique", metavar="ID")
    publish.add_argument("--window", default="1h", help="for --unique")
    publish.set_defaults(run=_publish)

    state = commands.add_parser("state", help="print where a task is, or the state of a queue")
    state.add_argument("queue")
    state.add_argument("id", nargs="?")
    state.set_defaults(run=_state)

    redrive = commands.add_parser("redrive", help="move dead letters back to their queue")
    redrive.add_argument("queue")
    redrive.add_argument("ids", nargs="*", metavar="ID")
    redrive.add_argument("--count", type=int, default=1000)
    redrive.set_defaults(run=_redrive)

    examine = commands.add_parser("doctor", help="say what is wrong with the server and with queues")
    examine.add_argument("queues", nargs="*", metavar="QUEUE")
    examine.set_defaults(run=_doctor)
    return parser


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    if not name:
        raise ValueError(f"MODULE:NAME is expected, not {place!r}")
    sys.path.insert(0, os.getcwd())
    worker = getattr(importlib.import_module(module), name, None)
    if not isinstance(worker, BaseWorker):
        raise TypeError(f"{place} is no Worker")
    return worker


def _worker(options: argparse.Namespace, words: list[str]) -> int:
    if options.processes < 1:
        raise ValueError("--processes is at least 1")
    if options.processes > 1:
        _load(options.worker)
        return run_processes(_for_a_child(words), options.processes, options.health)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    worker = _load(options.worker)
    if options.concurrency is not None:
        if options.concurrency < 1:
            raise ValueError("--concurrency is at least 1")
        worker.concurrency = options.concurrency
    if options.child:
        report(options.child, worker.health)
    server = HealthServer(options.health, worker.health) if options.health else None
    try:
        if inspect.iscoroutinefunction(worker.run):
            asyncio.run(worker.run())
        else:
            worker.run()
    finally:
        if server is not None:
            server.close()
    return 0


def _for_a_child(words: list[str]) -> list[str]:
    """The arguments without --processes and --health."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("--processes", "--health"):
            skip = True
        elif not word.startswith(("--processes=", "--health=")):
            kept.append(word)
    return kept


def _publish(options: argparse.Namespace, words: list[str]) -> None:
    payload = json.loads(options.payload)
    if not isinstance(payload, dict):
        raise ValueError("the payload is a JSON object")
    more: dict[str, Any] = {"priority": options.priority}
    if options.delay is not None:
        more["delay"] = options.delay
    if options.unique is not None:
        more["unique"] = Unique(options.unique, options.window)
    with Corral.from_url(options.url) as corral:
        print(corral.queue(options.queue).publish(options.task, payload, **more))


def _state(options: argparse.Namespace, words: list[str]) -> int:
    with Corral.from_url(options.url) as corral:
        queue = corral.queue(options.queue)
        state = queue.info() if options.id is None else queue.state(options.id)
    print(json.dumps(state, indent=2) if state is not None else "this task is done, or unknown")
    return 0 if state is not None else 1


def _redrive(options: argparse.Namespace, words: list[str]) -> None:
    with Corral.from_url(options.url) as corral:
        print(corral.queue(options.queue).redrive(*options.ids, count=options.count))


def _doctor(options: argparse.Namespace, words: list[str]) -> int:
    with Corral.from_url(options.url) as corral:
        problems = doctor.examine(corral, options.queues)
    for problem in problems:
        print(f"- {problem}")
    if not problems:
        print("Nothing is wrong.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
