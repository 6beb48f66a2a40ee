"""The programs of examples/python, started as their first lines say."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import Server

PACKAGE = Path(__file__).parents[1]
EXAMPLES = PACKAGE.parents[1] / "examples" / "python"


class Programs:
    def __init__(self, server: Server, directory: Path, **environment: str) -> None:
        self.server, self.directory, self._more = server, directory, environment
        self.database = directory / "shop.db"
        self._running: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
        more = {"CORRAL_URL": self.server.url, "SHOP_DATABASE": str(self.database), "PYTHONPATH": path} | self._more
        return os.environ | more | {"PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        with open(self.directory / "log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, *words], env=self.environment(), cwd=EXAMPLES, stdout=log, stderr=log
            )
        self._running.append(process)
        return process

    def worker(self, place: str) -> subprocess.Popen[bytes]:
        return self.start("-m", "corral_client.cli", "worker", place)

    def run(self, *words: str) -> None:
        """In the test's own directory, to its end."""
        with open(self.directory / "log", "ab") as log:
            done = subprocess.run(
                [sys.executable, *words], env=self.environment(), cwd=self.directory, stdout=log, stderr=log, timeout=120
            )
        assert done.returncode == 0, (self.directory / "log").read_text()

    def rows(self, statement: str) -> list[Any]:
        try:
            with sqlite3.connect(self.database, timeout=30) as connection:
                return connection.execute(statement).fetchall()
        except sqlite3.OperationalError:
            return []

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
