"""Asks for tasks, on a connection that does nothing else and that nothing interrupts.

A connection has its own name as a consumer, new after each reconnect. With TIED the leases end with the connection: so it
is closed last, after everything else has been told to the server. Nothing is asked for that does not start at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
import uuid
from collections.abc import Callable
from typing import Any

from .._features import reply_error
from .._sync.hub import Hub, open_link
from .._wire import GROUP, Delivery, delivery
from ..errors import CorralError, ReplyError
from .finisher import BATCH, Finisher
from .running import Table, now

log = logging.getLogger("corral_client")
_BLOCK_MS = 2000
# After these another node is asked.
_MOVED_ON = ("UNBLOCKED", "READONLY", "MOVED", "CLUSTERDOWN")
_PATIENCE_S = _BLOCK_MS / 1000 + 5


class Fetcher:
    def __init__(
        self,
        hub: Hub,
        table: Table,
        finisher: Finisher,
        streams: list[str],
        batch: int,
        tied: bool,
        accept: Callable[[Delivery, str], None],
        reconnected: Callable[[], None],
    ) -> None:
        self._hub, self._table, self._finisher = hub, table, finisher
        self._streams, self._batch, self._tied = streams, batch, tied
        self._accept, self._reconnected = accept, reconnected
        self._link: Any = None
        self._client: int | None = None
        self._consumer = ""
        self._waiting = False
        self.stopping = threading.Event()
        self.asked_at = now()
        self._thread = threading.Thread(target=self._work, name="corral: tasks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Asks no more. The request that waits is ended on the server; without permission, its time runs out."""
        self.stopping.set()
        with self._table.changed:
            self._table.changed.notify_all()
        end = now() + timeout
        while self._thread.is_alive() and now() < end:
            if self._waiting and self._client is not None:
                with contextlib.suppress(CorralError):
                    self._hub.call("CLIENT", "UNBLOCK", self._client, key=self._streams[0], timeout=1.0)
            self._thread.join(0.05)

    def close(self) -> None:
        if self._link is not None and not self._thread.is_alive():
            self._link.close()

    def _free(self) -> int:
        return min(self._table.free, self._batch) if self._finisher.pending < BATCH else 0

    def _work(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            if not self._table.wait(lambda: self._free() > 0 or self.stopping.is_set(), 1.0) or self.stopping.is_set():
                # With all places taken this worker is as alive as with a request that waits.
                self.asked_at = now() if self._free() == 0 else self.asked_at
                continue
            try:
                self._ask(self._free())
                failures = 0
            except CorralError as error:
                failures += 1
                if isinstance(error, ReplyError) and error.code not in _MOVED_ON:
                    # The connection is kept: leases may be tied to it.
                    log.warning("no tasks: %s", error)
                else:
                    self._drop(error)
                self.stopping.wait(min(0.1 * 2**failures, 5.0) * random.uniform(0.5, 1.0))
            except Exception:
                log.exception("asking for tasks failed")
                self.stopping.wait(1.0)

    def _ask(self, count: int) -> None:
        if count < 1:
            return
        link = self._link or self._connect()
        command: list[Any] = ["TASK.CONSUME", GROUP, self._consumer, self._streams[0], "COUNT", count, "BLOCK", _BLOCK_MS, "META"]
        if self._tied:
            command.append("TIED")
        if len(self._streams) > 1:
            command += ["THEN", len(self._streams) - 1, *self._streams[1:]]
        self._waiting = True
        try:
            (reply,) = link.call([command], _PATIENCE_S)
        finally:
            self._waiting = False
        self.asked_at = now()
        if isinstance(reply, Exception):
            raise reply_error(reply, self._hub.driver.name())
        for entry in reply or []:
            try:
                self._accept(delivery(entry, self._streams[0]), self._consumer)
            except Exception:
                log.exception("a task was not accepted, its lease will expire")

    def _connect(self) -> Any:
        address = self._hub.address_of(self._streams[0])
        link = open_link(self._hub.driver, address)
        (client,) = link.call([("CLIENT", "ID")], _PATIENCE_S)
        # A user without the permission for CLIENT stops up to two seconds later.
        self._client = client if isinstance(client, int) else None
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._link = link
        return link

    def _drop(self, error: Exception) -> None:
        if not self.stopping.is_set():
            log.warning("the connection for tasks is made anew: %s", error)
        if self._link is not None:
            self._link.close()
            self._link = None
        # There may be another master, or the slot of the queue may be elsewhere.
        self._hub.forget_nodes()
        # The leases that were tied to the connection have ended. Those that nobody has taken yet can be renewed.
        self._reconnected()
