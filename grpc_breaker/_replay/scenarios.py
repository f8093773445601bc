"""Made-up traffic for those who have no record: eight kinds of trouble, seeded, as streams of calls.

Each is a server that answers in some milliseconds, with a long tail, and rarely fails by itself; calls come at random
times. Then the trouble comes, which is what its name says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from grpc_breaker._core.spelling import nearest
from grpc_breaker._replay.calls import Call

BEGINS: Final = 1_767_225_600.0
"""2026-01-01: when every scenario begins."""

SERVICE: Final = "pricing.v1.Pricing"
GET: Final = f"{SERVICE}/GetPrice"
_METHODS: Final = (GET, f"{SERVICE}/ListPrices", f"{SERVICE}/SetPrice", f"{SERVICE}/WatchPrices")
_DEADLINE: Final = 1.0
_TYPICAL: Final = 0.02
"""Seconds that half of the answers take at most."""
_BURST: Final = 2.0
_STRAY: Final = 0.001
"""Share of the calls that fail in healthy times."""


@dataclass(frozen=True)
class Moment:
    """How the server is at a moment, for a call."""

    failing: float = _STRAY
    """Share of the calls that fail."""
    status: str = "UNAVAILABLE"
    slowness: float = 1.0
    """Times as long as usual that an answer takes."""
    hanging: bool = False
    """Whether calls that fail run into their deadline."""


_WELL: Final = Moment()

Trouble = Callable[[float, float, str, Random], Moment]
"""How the server is: by the share of the time that is over, the seconds since the beginning, and the method."""


def _spike(share: float, _now: float, _method: str, _random: Random) -> Moment:
    """For a twentieth of the time every second call fails at once."""
    return Moment(0.5) if 0.45 <= share < 0.5 else _WELL


def _gradual(share: float, _now: float, _method: str, _random: Random) -> Moment:
    """From a third of the time on, ever more calls fail, up to all of them; then it is over."""
    failing = (share - 0.3) / 0.4
    return Moment(max(_STRAY, failing)) if 0.0 <= failing < 1.0 else _WELL


def _oscillating(share: float, now: float, _method: str, _random: Random) -> Moment:
    """For a third of the time the server is gone every other twenty seconds, as one that restarts."""
    return Moment(1.0) if 0.3 <= share < 0.65 and int(now / 20) % 2 else _WELL


def _slow(share: float, _now: float, _method: str, _random: Random) -> Moment:
    """A server that answers thirty times slower, and more than half of the calls run into their deadline."""
    return Moment(0.5, "DEADLINE_EXCEEDED", 30.0, hanging=True) if 0.4 <= share < 0.6 else _WELL


def _one_method(share: float, _now: float, method: str, _random: Random) -> Moment:
    """One method of four fails; the others do not."""
    return Moment(0.95, "INTERNAL") if method == _METHODS[1] and 0.35 <= share < 0.65 else _WELL


def _sustained(share: float, _now: float, _method: str, _random: Random) -> Moment:
    """The server is gone for a third of the time."""
    return Moment(1.0) if 0.35 <= share < 0.7 else _WELL


def _short_burst(share: float, now: float, _method: str, _random: Random) -> Moment:
    """Two seconds in which every call fails, as in a restart: hardly worth opening for."""
    since_half = now * (1.0 - 0.5 / share) if share else -1.0
    return Moment(1.0) if 0.0 <= since_half < _BURST else _WELL


def _tenant_quota(share: float, _now: float, _method: str, random: Random) -> Moment:
    """One tenant of five is above its quota and is told so; the others are well."""
    return Moment(1.0, "RESOURCE_EXHAUSTED") if 0.3 <= share < 0.7 and random.random() < 0.2 else _WELL


_SCENARIOS: Final = {
    "spike": _spike,
    "gradual": _gradual,
    "oscillating": _oscillating,
    "slow": _slow,
    "one-method": _one_method,
    "sustained": _sustained,
    "short-burst": _short_burst,
    "tenant-quota": _tenant_quota,
}

SCENARIOS: Final = {name: (function.__doc__ or "") for name, function in _SCENARIOS.items()}
"""The scenarios, and what happens in them."""


def scenario(name: str, *, seed: int = 0, seconds: float = 1200.0, calls_per_second: float = 50.0) -> Iterator[Call]:
    """The calls of a scenario, in the order of their starts.

    Args:
        name: One of `SCENARIOS`.
        seed: Another seed, other calls; the same seed, the same calls. Default 0.
        seconds: How long it is, from 1 to 1e7. Default 1200.
        calls_per_second: On average, from 0.01 to 100,000. Default 50.

    Raises:
        ValueError: There is no such scenario, or a number is out of range.
    """
    if name not in _SCENARIOS:
        near = nearest(name, _SCENARIOS)
        hint = f"; did you mean {near!r}?" if near else ""
        message = f"there is no scenario {name!r}{hint}; those there are: {', '.join(_SCENARIOS)}"
        raise ValueError(message)
    if not 1.0 <= seconds <= 1e7:
        message = f"seconds must be from 1 to 1e7, got {seconds!r}"
        raise ValueError(message)
    if not 0.01 <= calls_per_second <= 1e5:
        message = f"calls_per_second must be from 0.01 to 100,000, got {calls_per_second!r}"
        raise ValueError(message)
    return _calls(_SCENARIOS[name], Random(seed), seconds, calls_per_second)  # noqa: S311 - the same each time


def _calls(moment_of: Trouble, random: Random, seconds: float, rate: float) -> Iterator[Call]:
    at = random.expovariate(rate)
    while at < seconds:
        method = GET if moment_of is not _one_method else random.choice(_METHODS)
        moment = moment_of(at / seconds, at, method, random)
        usual = random.lognormvariate(0.0, 0.5) * _TYPICAL * moment.slowness
        if random.random() < moment.failing:
            duration = _DEADLINE if moment.hanging else min(usual, _DEADLINE)
            yield _call(at, method, duration, moment.status)
        elif usual >= _DEADLINE:
            yield _call(at, method, _DEADLINE, "DEADLINE_EXCEEDED")
        else:
            yield _call(at, method, usual, "OK")
        at += random.expovariate(rate)


def _call(at: float, method: str, duration: float, status: str) -> Call:
    return Call(round(BEGINS + at, 6), method, round(duration, 6), status, _DEADLINE)
