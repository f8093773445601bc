"""From a path, a text or a dict to plain JSON data.

Whatever a file may be, the answer is data or a `ServiceConfigError`: it may have vanished, be half written, not be
UTF-8, have a key twice (gRPC refuses that: every call of the channel would fail), or be far too large.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from grpc_breaker._service_config.problems import Problems, ServiceConfigError, at_key, shown

MOST_BYTES: Final = 8 * 1024 * 1024
"""Bytes that a document may have."""

_DEEPEST: Final = 100
"""Objects and lists inside each other."""

TEXT: Final = "service config"
"""Where a document came from that has no path."""


class _Repeating(dict[str, Any]):
    """An object of the document with keys that are there more than once."""

    repeated: tuple[str, ...] = ()


def load(source: object, problems: Problems) -> tuple[str, dict[str, Any]]:
    """The name of a document's source, and the document as plain data that nobody else has.

    Args:
        source: A path, JSON text, or a dict.
        problems: What is wrong with single values and keys is noted here, and the rest is read.

    Raises:
        TypeError: The source is neither a path, nor text, nor a dict.
        ServiceConfigError: It cannot be read, or is no JSON object.
    """
    if isinstance(source, Mapping):
        return TEXT, _plain(TEXT, cast("Mapping[object, object]", source), problems)
    if isinstance(source, str) and source.lstrip().startswith(("{", "[")):
        return TEXT, _plain(TEXT, _parsed(TEXT, source.encode("utf-8", "surrogatepass")), problems)
    if not isinstance(source, str | os.PathLike) or source == "":
        message = f"a service config must be a path, JSON text that begins with '{{', or a dict, got {source!r}"
        raise TypeError(message)
    path = Path(cast("str | os.PathLike[str]", source))
    name = str(path)
    return name, _plain(name, _parsed(name, _bytes_of(path)), problems)


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ServiceConfigError(str(path), [problem]) from error


def _parsed(name: str, content: bytes) -> Any:
    """The JSON in a file's content."""
    if len(content) > MOST_BYTES:
        raise ServiceConfigError(name, [f"is larger than {MOST_BYTES} bytes (8 MiB), the most that is read"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ServiceConfigError(name, [f"is not UTF-8: {error.reason} at byte {error.start}"]) from error
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        problem = f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise ServiceConfigError(name, [problem]) from error
    except ValueError as error:  # an integer of thousands of digits
        raise ServiceConfigError(name, [f"is not JSON that can be read: {error}"]) from error
    except RecursionError as error:
        raise ServiceConfigError(name, [f"has more than {_DEEPEST} objects and lists inside each other"]) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    repeating = _Repeating(made)
    repeating.repeated = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return repeating


def _plain(name: str, value: object, problems: Problems) -> dict[str, Any]:
    """A copy made of dicts, lists, strings, numbers, booleans and None alone."""
    mark = id(value)
    if not isinstance(value, Mapping):
        raise ServiceConfigError(name, [f"$ must be an object, got {shown(value)}"])
    return _copied_object("$", cast("Mapping[object, object]", value), problems, (mark,))


def _copied(path: str, value: object, problems: Problems, above: tuple[int, ...]) -> Any:
    mark = id(value)
    if isinstance(value, Mapping | list | tuple):
        if mark in above or len(above) >= _DEEPEST:
            problems.spoiled(path, f"inside at most {_DEEPEST} objects and lists", {})
            return None
        above = (*above, mark)
    if isinstance(value, Mapping):
        return _copied_object(path, cast("Mapping[object, object]", value), problems, above)
    if isinstance(value, list | tuple):
        each = cast("list[object]", value)
        return [_copied(f"{path}[{number}]", it, problems, above) for number, it in enumerate(each)]
    return _copied_value(path, value, problems)


def _copied_value(path: str, value: object, problems: Problems) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            problems.spoiled(path, "a finite number", value)
        return value
    if isinstance(value, str):
        if not _is_unicode(value):
            problems.spoiled(path, "text without half of a surrogate pair", value)
        return value
    problems.spoiled(path, "JSON data", value)
    return None


def _copied_object(
    path: str, value: Mapping[object, object], problems: Problems, above: tuple[int, ...]
) -> dict[str, Any]:
    if isinstance(value, _Repeating):
        for name in value.repeated:
            problems.add(f"{at_key(path, name)} is there more than once")
    copied: dict[str, Any] = {}
    for key, it in value.items():
        if not isinstance(key, str) or not _is_unicode(key):
            problems.add(f"{path} has a key that is no text: {shown(key)}")
        else:
            copied[key] = _copied(at_key(path, key), it, problems, above)
    return copied


def _is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return text.isascii() or not any("\ud800" <= it <= "\udfff" for it in text)
