"""All errors of the package. Those that a handler raises on purpose, `Fatal` and `Later`, are no CorralError."""

from __future__ import annotations

from ._time import Duration, milliseconds


class CorralError(Exception):
    """The base of the errors that this package raises."""


class ServerUnreachable(CorralError, ConnectionError):
    """There is no connection, or it broke. `sent`: whether the command may have reached the server."""

    def __init__(self, message: str, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class ReplyError(CorralError):
    """The server rejected a command, which has changed nothing. `code` is the first word of its reply."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.split(" ", 1)[0]


class ModuleMissing(CorralError):
    """The server does not have the commands of Corral."""


class FeatureMissing(CorralError):
    """The server has an older version of Corral, without a feature that was used."""


class QueueFull(ReplyError):
    """The queue holds as many tasks as its policy allows. `ids`: those of `publish_many` that were added before."""

    ids: list[str]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.ids = []


class PublishUnknown(ServerUnreachable):
    """The connection broke before the reply: the task may have been added, or not."""


class LoadFailed(CorralError):
    """Another client failed to load the value, and the back-off has not ended; or it did not finish in time."""


class LoadRejected(CorralError):
    """The server is unreachable, and this process already loads as many values as it may by itself."""


class LockNotAcquired(CorralError, TimeoutError):
    """Another client holds the lock."""


class LockLost(CorralError):
    """The lease expired, or was taken away, while its holder was still at work."""


class Fatal(Exception):
    """Raised by a handler: the task goes to the dead-letter queue, whatever tries are left."""


class Later(Exception):
    """Raised by a handler: the task comes back after the delay, which does not count as a try."""

    def __init__(self, delay: Duration, reason: str = "") -> None:
        super().__init__(reason or f"again after {delay}")
        self.delay_ms = milliseconds(delay, "delay", 0)
