"""What requests ask for, checked: everything that is wrong with one is said at once, by the names of its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import grpc

from grpc_breaker._core.overview import Meaning
from grpc_breaker._core.registry import Registry
from grpc_breaker.admin._overviews import Entry
from grpc_breaker.admin.v1 import admin_pb2

LONGEST_HOLD: Final = 7 * 24 * 3600
"""Seconds: a hold that is forgotten must end."""

_LONGEST_REASON: Final = 200
_INTERVALS: Final = (0.2, 60.0)
_INTERVAL: Final = 1.0
_SHORTEST_RECORD: Final = 1
_LONGEST_RECORD: Final = 86_400
_RECORDED_FOR: Final = 60
_MOST_CALLS: Final = 1_000_000


_EVERYTHING: Final = ("", frozenset[int]())


class RefusedError(Exception):
    """A request that is refused, with the status that says so."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        """Say why.

        Args:
            code: The status.
            details: Words for the operator.
        """
        super().__init__(details)
        self.code = code
        self.details = details


class Wanted:
    """The breakers that a filter means."""

    def __init__(self, breakers: Registry, name: str, states: Iterable[int]) -> None:
        """Say which.

        Args:
            breakers: The registry.
            name: What they are called; empty for all.
            states: Their states; none for all.

        Raises:
            ValueError: A target that is none.
        """
        self._meaning = Meaning(breakers, name)
        self._states = frozenset(states)
        self.key = (name, self._states)
        """Two who want the same have the same key."""

    def among(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of some breakers."""
        if self.key == _EVERYTHING:
            return list(entries)
        return [it for it in entries if self.has(it.name, it.state)]

    def has(self, breaker: str, *states: int) -> bool:
        """Whether a breaker of this name is meant, in one of these states."""
        return (not self._states or not self._states.isdisjoint(states)) and self._meaning.covers(breaker)


class HoldRequest(NamedTuple):
    """A hold that is asked for."""

    name: str
    ttl: float
    reason: str


def wanted_by(breakers: Registry, wanted: Any, *, interval: Any = None) -> tuple[Wanted, float]:
    """What a filter means; and the seconds between two responses of a watch.

    Raises:
        RefusedError: A field is wrong.
    """
    wrong: list[str] = []
    try:
        found = Wanted(breakers, wanted.name, wanted.states)
    except ValueError as error:
        wrong.append(f"filter.name: {error}")
        found = Wanted(breakers, "", ())
    unknown = [it for it in wanted.states if it not in admin_pb2.State.values() or it == admin_pb2.STATE_UNSPECIFIED]
    if unknown:
        wrong.append(f"filter.states must be states other than STATE_UNSPECIFIED, got {unknown}")
    seconds = _INTERVAL if interval is None else _seconds(interval)
    if not _INTERVALS[0] <= seconds <= _INTERVALS[1]:
        wrong.append(f"interval must be from {_INTERVALS[0]:g} s to {_INTERVALS[1]:g} s, got {seconds:g} s")
    _refuse(wrong)
    return found, seconds


class Recorded(NamedTuple):
    """The traffic that is asked for."""

    has_name: Callable[[str], bool]
    """Whether the calls of a breaker of this name are."""
    seconds: float
    max_calls: int


def recorded_by(breakers: Registry, request: Any) -> Recorded:
    """The traffic that a request asks for.

    Raises:
        RefusedError: A field is wrong.
    """
    wrong: list[str] = []
    meaning = Meaning(breakers, "")
    try:
        meaning = Meaning(breakers, request.filter.name)
    except ValueError as error:
        wrong.append(f"filter.name: {error}")
    if request.filter.states:
        wrong.append("filter.states must be empty: traffic is recorded whatever the state")
    seconds = _seconds(request.duration) if request.HasField("duration") else _RECORDED_FOR
    if not _SHORTEST_RECORD <= seconds <= _LONGEST_RECORD:
        wrong.append(f"duration must be from {_SHORTEST_RECORD} s to {_LONGEST_RECORD} s, got {seconds:g} s")
    if request.max_calls < 0:
        wrong.append(f"max_calls must be 1 or more, got {request.max_calls}")
    _refuse(wrong)
    return Recorded(meaning.covers, seconds, request.max_calls or _MOST_CALLS)


def hold_of(request: Any, breakers: Registry) -> HoldRequest:
    """The hold that a request asks for.

    Raises:
        RefusedError: A field is wrong.
    """
    wrong = _wrong_with_name(request.name, breakers)
    ttl = _seconds(request.ttl)
    if not request.HasField("ttl"):
        wrong.append("ttl is missing: for how long, above 0, at most 7 days")
    elif not 1e-6 <= ttl <= LONGEST_HOLD:
        wrong.append(f"ttl must be above 0 and at most 7 days, got {ttl:g} s")
    reason = request.reason
    strange = next((it for it in reason if not it.isprintable()), "")
    if not reason.strip():
        wrong.append(f"reason is missing: why, in 1 to {_LONGEST_REASON} characters")
    elif len(reason) > _LONGEST_REASON or strange:
        got = f"{strange!r} in it" if strange else f"{len(reason)} characters"
        wrong.append(f"reason must be 1 to {_LONGEST_REASON} printable characters, got {got}")
    _refuse(wrong)
    return HoldRequest(request.name, ttl, reason)


def name_of(request: Any, breakers: Registry) -> str:
    """The name that a request has.

    Raises:
        RefusedError: It is none.
    """
    _refuse(_wrong_with_name(request.name, breakers))
    name: str = request.name
    return name


def _wrong_with_name(name: str, breakers: Registry) -> list[str]:
    if not name:
        return ["name is missing: a method, a service, a group or @target"]
    try:
        Meaning(breakers, name)
    except ValueError as error:
        return [f"name: {error}"]
    return []


def _refuse(wrong: list[str]) -> None:
    if wrong:
        raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "; ".join(wrong))


def _seconds(duration: Any) -> float:
    seconds: float = duration.seconds + duration.nanos / 1e9
    return seconds
