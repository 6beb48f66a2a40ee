"""`@corral.cached`: a function whose results are cached, with its signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from .._keys import CallKeys
from .cache import Cache, Rules

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Cached(Generic[P, R]):
    """Calls like the function. `invalidate`, `refresh`, `key` and `uncached` take the same arguments."""

    def __init__(
        self, cache: Cache, function: Callable[P, Awaitable[R]], template: str, rules: Rules, ignore: tuple[str, ...]
    ) -> None:
        functools.update_wrapper(self, function)
        # A method is called through __get__, and its object is not in the key.
        first = next(iter(inspect.signature(function).parameters), "")
        self._is_method = first in ("self", "cls") and "." in function.__qualname__.rpartition("<locals>.")[2]
        self._keys = CallKeys(template, function, ignore, self._is_method)
        self._cache, self._function, self._rules = cache, function, rules
        self._bound: tuple[Any, ...] = ()

    @overload
    def __get__(self, instance: None, owner: type) -> Cached[P, R]: ...
    @overload
    def __get__(self: Cached[Concatenate[S, Q], R], instance: S, owner: type | None = None) -> Cached[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = object.__new__(Cached)
        bound.__dict__.update(self.__dict__)
        bound._bound = (instance,)
        return bound

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        value: R = await self._cache.obtain(
            self.key(*args, **kwargs), functools.partial(self._function, *self._bound, *args, **kwargs), self._rules
        )
        return value

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of this call."""
        if self._is_method and not self._bound:
            raise TypeError(f"{self._function.__qualname__} is a method: call it on an instance")
        return self._keys.key(args, kwargs)

    async def uncached(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function itself."""
        value: R = await functools.partial(self._function, *self._bound, *args, **kwargs)()
        return value

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Removes the cached value. A load that began before does not store it again."""
        return await self._cache.invalidate(self.key(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function and caches the result, whether or not there is a value."""
        key = self.key(*args, **kwargs)
        await self._cache.invalidate(key, stale=self._rules.ttl / 1000)
        value: R = await self._cache.obtain(
            key, functools.partial(self._function, *self._bound, *args, **kwargs), self._rules.refreshing()
        )
        return value


def cached(
    cache: Cache, template: str, rules: Rules, ignore: tuple[str, ...]
) -> Callable[[Callable[P, Awaitable[R]]], Cached[P, R]]:
    def decorate(function: Callable[P, Awaitable[R]]) -> Cached[P, R]:
        return Cached(cache, function, template, rules, ignore)

    return decorate


