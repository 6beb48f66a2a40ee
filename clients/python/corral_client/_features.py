"""What the server can do, read from COMMAND DOCS, and what its error replies mean for a user."""

from __future__ import annotations

from typing import Any

from .errors import FeatureMissing, ModuleMissing, QueueFull, ReplyError

PROBE = ("COMMAND", "DOCS", "cache.fetch", "lock.acquire", "task.publish", "task.consume", "task.extend", "task.nack",
         "task.redrive", "task.state")
#: Commands with options that an older version does not have.
OPTIONS = {
    "TASK.PUBLISH": ("FIELDS", "KEY", "EXPIRE", "TRIES", "UNTIL", "LAST"),
    "TASK.CONSUME": ("THEN", "TIED"),
    "TASK.NACK": ("PAYLOAD",),
}


class Features:
    """The options of each command. `tokens` is None if the server did not say: then everything is assumed."""

    def __init__(self, docs: Any) -> None:
        self.tokens: dict[str, set[str]] | None = None
        if isinstance(docs, list):
            names = [_text(name).upper() for name in docs[::2]]
            self.tokens = {name: set(_tokens(doc)) for name, doc in zip(names, docs[1::2], strict=False)}
        elif isinstance(docs, dict):
            self.tokens = {_text(name).upper(): set(_tokens(doc)) for name, doc in docs.items()}

    def has(self, command: str, option: str = "") -> bool:
        if self.tokens is None:
            return True
        known = self.tokens.get(command)
        return known is not None and (not option or option in known)

    def require(self, command: str, option: str = "") -> None:
        if not self.has(command, option):
            what = f"{command} … {option}" if option else command
            raise FeatureMissing(f"this server has a version of Corral without {what}: update the module")

    def explain(self, error: Exception) -> Exception:
        """A command that a server with Corral does not know is a newer one."""
        if isinstance(error, ModuleMissing) and self.tokens:
            return FeatureMissing("this server has a version of Corral without this command: update the module")
        return error

    def check(self, name: str) -> None:
        if self.tokens is not None and "TASK.CONSUME" not in self.tokens:
            raise no_module(name)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _tokens(doc: Any) -> list[str]:
    """All tokens of the arguments, however deep they are. An argument that may be repeated has the token `*name`."""
    if isinstance(doc, dict):
        doc = [item for pair in doc.items() for item in pair]
    if not isinstance(doc, list):
        return []
    found: list[str] = []
    pairs = dict(zip((_text(key) for key in doc[::2] if isinstance(key, bytes | str)), doc[1::2], strict=False))
    if "token" in pairs:
        found.append(_text(pairs["token"]).upper())
    if "name" in pairs and isinstance(pairs.get("flags"), list | set) and b"multiple" in pairs["flags"]:
        found.append(f"*{_text(pairs['name'])}")
    for item in doc:
        found += _tokens(item)
    return found


def no_module(name: str) -> ModuleMissing:
    return ModuleMissing(f"this server has no Corral: load libcorral.so into the server at {name}")


def reply_error(error: Exception, name: str) -> Exception:
    """The error of this package for an error reply."""
    text = str(error)
    words = text.split(" ", 1)
    # The client libraries cut the code from the replies for which they have a class.
    code = type(error).__name__
    known = {"ReadOnlyError": "READONLY", "OutOfMemoryError": "OOM", "NoPermissionError": "NOPERM",
             "ExecAbortError": "EXECABORT", "MovedError": "MOVED", "TryAgainError": "TRYAGAIN", "AskError": "ASK",
             "ClusterDownError": "CLUSTERDOWN", "MasterDownError": "MASTERDOWN", "NoScriptError": "NOSCRIPT"}
    if code in known and words[0] != known[code]:
        text = f"{known[code]} {text}"
    elif not words[0].isupper():
        text = f"ERR {text}"
    if "unknown command" in text.lower() and any(f"{family}." in text.lower() for family in ("cache", "task", "lock")):
        return no_module(name)
    if text.startswith("TASKFULL"):
        return QueueFull(text)
    return ReplyError(text)
