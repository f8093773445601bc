"""What is wrong with a document, and where: all of it at once."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from grpc_breaker._core.other_names import FIELDS
from grpc_breaker._core.spelling import nearest
from grpc_breaker._service_config.keys import camel

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_LONGEST_VALUE: Final = 100
"""Characters of a value that are shown."""

_MOST_COMPARED: Final = 1000
"""Unknown names that are compared with those that exist: with a million of them it would take minutes."""

_THEIRS: Final = {camel(theirs): camel(ours) for theirs, ours in FIELDS.items()}
"""Settings of other circuit breakers as keys, and the keys of the same meaning."""


class ServiceConfigError(ValueError):
    """A service config that cannot be used; nothing was changed.

    Attributes:
        source: Where it came from: a path, or "service config".
        problems: Everything that is wrong, each with its JSON path, the value, and what is allowed.
    """

    def __init__(self, source: str, problems: Iterable[str]) -> None:
        """Say what is wrong.

        Args:
            source: Where the document came from.
            problems: What is wrong with it.
        """
        self.source = source
        self.problems: Sequence[str] = tuple(problems)
        super().__init__(source, self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.source}: {self.problems[0]}"
        return "\n  ".join([f"{self.source}: {len(self.problems)} problems", *self.problems])


class Problems:
    """What was found to be wrong so far, in the order of the document."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.met = 0
        """How often something was wrong, also where it was known already."""
        self._spoiled: set[str] = set()
        """The paths of values that are no JSON: nothing more is said of them."""
        self._comparisons = _MOST_COMPARED

    def add(self, words: str) -> None:
        """Note a problem; the words name its place."""
        self.met += 1
        self.found.append(words)

    def spoiled(self, path: str, allowed: str, value: Any) -> None:
        """Note a value that is no JSON."""
        self.wrong(path, allowed, value)
        self._spoiled.add(path)

    def wrong(self, path: str, allowed: str, value: Any, near: str = "", hint: str = "") -> None:
        """Note a value that is not allowed, with the name that was probably meant, or other words about it."""
        if path in self._spoiled:
            self.met += 1
            return
        allowed = allowed.replace("or None", "or null").replace("True or False", "true or false")
        self.add(f"{path} must be {allowed}, got {shown(value)}{_meant(near)}{hint}")

    def unknown(self, path: str, what: str, name: str, known: Collection[str]) -> None:
        """Note a name that does not exist, with the one that was probably meant."""
        ours = _THEIRS.get(name, "")
        near = ours if ours in known else self.nearest(name, known)
        self.add(f"{path}: there is no {what} {shown(name)}" + _meant(near))

    def nearest(self, name: str, known: Iterable[str], alike: float = 0.6) -> str:
        """The nearest of the names that exist; empty where none is near, or too many were looked for."""
        if self._comparisons <= 0:
            return ""
        self._comparisons -= 1
        return nearest(name, sorted(known), alike)


def _meant(near: str) -> str:
    return f"; did you mean {shown(near)}?" if near else ""


def at_key(path: str, key: str) -> str:
    """The path of an object's key."""
    if _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}"
    return f"{path}[{shown(key)}]"


def shown(value: Any) -> str:
    """A value as the document has it, cut where it is long."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # what came in a dict, and is no JSON
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
