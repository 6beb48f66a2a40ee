"""After a fork, the child must not hold the sockets of its parent.

A copy of a socket keeps the connection open when the parent dies, and the server would not notice the death: leases that
end with their connection would go on. So the child replaces each inherited socket by /dev/null, which keeps the number
of the descriptor in use, and everything registered here starts anew.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    def after_fork(self) -> None:
        """Runs in the child, which has one thread."""


_registered: weakref.WeakSet[Forked] = weakref.WeakSet()


def register(thing: Forked) -> None:
    _registered.add(thing)


def replace_descriptor(descriptor: int) -> None:
    if descriptor < 0:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(null, descriptor, inheritable=False)
    finally:
        os.close(null)


def _in_child() -> None:
    for thing in list(_registered):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
