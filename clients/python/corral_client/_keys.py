"""Keys of cached values, from a template over the names of arguments.

`user:{user_id}` is a key for every `user_id`. Different values make different keys on every machine and in every
language: only types with one written form are accepted, and what could be mistaken for the template is percent-encoded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from enum import Enum
from string import Formatter
from typing import Any
from uuid import UUID

_ENCODED = str.maketrans({"%": "%25", ":": "%3A", "{": "%7B", "}": "%7D"})


def key_part(value: object, name: str) -> str:
    """The written form of an argument in a key."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return value.translate(_ENCODED)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(
        f"the argument {name!r} is part of a key and must be a str, int, bool, UUID, Enum or date, "
        f"not {type(value).__name__}"
    )


class KeyTemplate:
    """A template such as `user:{user_id}`. `{{` and `}}` stand for braces, as in the hash tag `{{user:{id}}}`."""

    def __init__(self, template: str) -> None:
        self._parts: list[tuple[str, str | None]] = []
        try:
            for text, field, spec, conversion in Formatter().parse(template):
                if field is not None and (not field.isidentifier() or spec or conversion):
                    raise ValueError("a field is the name of an argument")
                self._parts.append((text, field))
        except ValueError as error:
            raise ValueError(f"the key template {template!r} is not valid: {error}") from None
        self.fields = [field for _, field in self._parts if field is not None]
        if not template:
            raise ValueError("a key must not be empty")

    def key(self, arguments: Mapping[str, Any]) -> str:
        return "".join(
            text + ("" if field is None else key_part(arguments[field], field)) for text, field in self._parts
        )


class CallKeys:
    """The keys of the calls of one function. Each of its arguments is in the template, or is listed in `ignore`."""

    def __init__(self, template: str, function: Callable[..., Any], ignore: Iterable[str], bound: bool) -> None:
        self._template = KeyTemplate(template)
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if bound:
            parameters = parameters[1:]
        self._signature = signature.replace(parameters=parameters)
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"*{parameter.name} cannot be part of a key: name the arguments")
        names = {parameter.name for parameter in parameters}
        fields = set(self._template.fields)
        if unknown := fields - names:
            raise TypeError(f"the key template {template!r} names {sorted(unknown)}, which are no arguments")
        if unused := names - fields - set(ignore):
            raise TypeError(
                f"the arguments {sorted(unused)} are not in the key template {template!r}: "
                "add them, or list them in ignore="
            )

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return self._template.key(bound.arguments)
