"""Several processes with the same worker, below one parent that starts them again.

A child reports its health each second through a pipe. It holds the end of another pipe, which closes when the parent
dies, however that happens: then it stops as if it had got SIGTERM. Signals reach the children through the parent only.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from .report import HealthServer

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SILENT_S = 15.0


class Child:
    def __init__(self, arguments: list[str]) -> None:
        report_read, report_write = os.pipe()
        life_read, self._life = os.pipe()
        command = [sys.executable, "-m", "corral_client.cli", *arguments, "--child", f"{report_write},{life_read}"]
        # In a session of its own, so that Ctrl-C in a terminal reaches the parent only.
        self.process = subprocess.Popen(command, pass_fds=(report_write, life_read), start_new_session=True)
        os.close(report_write)
        os.close(life_read)
        self._reports = os.fdopen(report_read, "rb", buffering=0)
        self._rest = b""
        self.health: dict[str, Any] = {"ok": False}
        self.heard_at = self.began_at = time.monotonic()

    def listen(self) -> None:
        while select.select([self._reports], [], [], 0)[0]:
            data = self._reports.read(65536)
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                self.health, self.heard_at = json.loads(lines[-1]), time.monotonic()

    def state(self) -> dict[str, Any]:
        silent = time.monotonic() - self.heard_at
        return self.health | {"pid": self.process.pid, "ok": bool(self.health["ok"]) and silent < _SILENT_S}

    def close(self) -> None:
        self._reports.close()
        os.close(self._life)


def run_processes(arguments: list[str], count: int, health: str | None) -> int:
    """Runs until a signal. Returns the exit code."""
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {number: signal.signal(number, lambda number, frame: signals.put(number)) for number in _SIGNALS}
    children = [Child(arguments) for _ in range(count)]
    lock = threading.Lock()

    def state() -> dict[str, Any]:
        with lock:
            found = [child.state() for child in children]
        return {"ok": all(child["ok"] for child in found), "processes": found}

    server = None if health is None else HealthServer(health, state)
    stopping, failures, sent = False, 0, {0}
    try:
        while any(child.process.poll() is None for child in children) or not stopping:
            try:
                number = signals.get(timeout=0.1)
                stopping = True
                sent.add(-number)
                for child in children:
                    child.process.send_signal(number)
            except queue.Empty:
                pass
            with lock:
                for index, child in enumerate(children):
                    child.listen()
                    if child.process.poll() is not None and not stopping:
                        lived = time.monotonic() - child.began_at
                        failures = 0 if lived > 60 else failures + 1
                        print(f"corral: process {child.process.pid} ended with {child.process.returncode}", file=sys.stderr)
                        child.close()
                        time.sleep(min(0.1 * 2**failures, 5.0))
                        children[index] = Child(arguments)
        # A child that was still starting has ended by the signal itself, without having begun a task.
        codes = [int(child.process.returncode or 0) for child in children]
        return max((abs(code) for code in codes if code not in sent), default=0)
    finally:
        for child in children:
            child.close()
        if server is not None:
            server.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def report(pipes: str, health: Callable[[], dict[str, Any]]) -> None:
    """In a child: reports each second, and stops when the parent has gone."""
    write, life = (int(number) for number in pipes.split(","))
    for descriptor in (write, life):
        os.set_inheritable(descriptor, False)

    def work() -> None:
        while True:
            try:
                os.write(write, json.dumps(health()).encode() + b"\n")
                gone = select.select([life], [], [], 1.0)[0]
            except OSError:
                gone = [life]
            if gone:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=work, name="corral: report", daemon=True).start()
