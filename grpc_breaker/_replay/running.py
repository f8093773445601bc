"""What users call: a replay from its source to its report, and what is made of several."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Final, cast

from grpc_breaker._core.log import printable
from grpc_breaker._core.policy import BreakerPolicy
from grpc_breaker._replay.advice import Advice, advice_of
from grpc_breaker._replay.calls import Call, Notes, RecordError, call_of, is_doubtful, note_doubts
from grpc_breaker._replay.ordering import HORIZON, merged, ordered, watched
from grpc_breaker._replay.playing import Game
from grpc_breaker._replay.policies import Played, Policy, named, played
from grpc_breaker._replay.report import Report, report_of
from grpc_breaker._replay.sensitivity import Sensitivity, sensitivity_of, variants

Source = str | PathLike[str] | Sequence[str | PathLike[str]] | Iterable[Call]

_MADE: Final = "calls"
"""The name of a source that is no file."""


def replay(
    source: Source,
    policies: Mapping[str, Policy] | None = None,
    *,
    methods: Collection[str] = (),
    horizon: float = HORIZON,
    despite_breaker: bool = False,
    seed: int = 0,
) -> Report:
    """Play recorded traffic through policies.

    Reads the record once, in bounded memory, whatever its size; all policies are played at once. Blocks until it is
    done: a million calls take some seconds for each policy. May run in several threads at once.

    Args:
        source: The record: a path, several paths, or calls. Formats are told apart by content: the JSON lines of
            `TrafficRecorder`, CSV, OTLP/JSON spans, each also with gzip.
        policies: What to play, by names for the report: a `BreakerPolicy` or `MethodPolicy` for every method, a mapping
            of policies by method or service as `BreakerRegistry` takes it, a service config (a path, JSON text, or a
            dict with a "methodConfig"), or `None` for the default policy. Default: the default policy alone.
        methods: Play only calls of these methods or services. Default: all.
        horizon: Seconds by which a line may begin before those that stand before it: the longest call. Calls are held
            so long. From 0 to 1e6. Default 120.
        despite_breaker: Whether a record may be played that was made with a breaker at work. Default False.
        seed: For what policies leave to chance, the same for each. Default 0.

    Raises:
        RecordError: The record cannot be read, or is wrong; the error names the line.
        ServiceConfigError: A service config is wrong.
        TypeError: An argument of the wrong kind.
        ValueError: A policy is wrong, or `horizon` out of range.
    """
    prepared = named({"default": None} if policies is None else policies)
    return play(source, prepared, methods=methods, horizon=horizon, despite_breaker=despite_breaker, seed=seed)


def play(
    source: Source,
    policies: Sequence[Played],
    *,
    methods: Collection[str],
    horizon: float,
    despite_breaker: bool,
    seed: int,
) -> Report:
    """The same with policies that are prepared."""
    if not 0.0 <= horizon <= 1e6:
        message = f"horizon must be from 0 to 1e6 seconds, got {horizon!r}"
        raise ValueError(message)
    notes = Notes()
    calls = watched(_calls(source, notes, horizon, despite_breaker), notes, time.time())
    game = Game(policies, seed)
    others: set[str] = set()
    game.play(_of(methods, calls, others) if methods else calls)
    if not game.calls:
        there = f"; those there are: {printable(', '.join(sorted(others)))[:200]}" if methods and others else ""
        asked = f"no call of {printable(', '.join(methods))}" if methods else "no call"
        raise RecordError(_name_of(source), None, f"there is {asked} in it that was made{there}")
    return report_of(game, notes)


def _calls(source: Source, notes: Notes, horizon: float, holes: bool) -> Iterator[Call]:
    """The calls of a source, in the order of their starts."""
    paths = _paths(source)
    if paths is not None:
        return merged(paths, notes, horizon=horizon, holes=holes)
    return ordered(_checked(cast("Iterable[Call]", source), notes), _MADE, horizon, notes, holes)


def _paths(source: Source) -> list[str | PathLike[str]] | None:
    """The files of a source; `None` of one that is none."""
    if isinstance(source, str | PathLike):
        return [source]
    if isinstance(source, Sequence) and source and all(isinstance(it, str | PathLike) for it in source):
        return list(cast("Sequence[str | PathLike[str]]", source))
    if not isinstance(cast("object", source), Iterable):
        message = f"a record must be a path, several paths, or calls, got {source!r}"
        raise TypeError(message)
    return None


def _checked(calls: Iterable[Call], notes: Notes) -> Iterator[tuple[Call, int]]:
    """Calls that a program made, checked as those of a file are; numbered from 1."""
    for number, call in enumerate(calls, 1):
        if not isinstance(cast("object", call), Call):
            message = f"a record must be made of Call, got {call!r}"
            raise TypeError(message)
        try:
            checked = call_of(*call)
        except ValueError as error:
            raise RecordError(_MADE, number, str(error)) from None
        if is_doubtful(checked):
            note_doubts(checked, f"{_MADE}:{number}", notes)
        yield checked, number


def _of(methods: Collection[str], calls: Iterable[Call], others: set[str]) -> Iterator[Call]:
    """The calls of some methods and services; others are noted, to say what there is."""
    wanted = {it.strip("/") for it in methods}
    for call in calls:
        if call.method in wanted or call.method.rpartition("/")[0] in wanted:
            yield call
        elif len(others) < 20:
            others.add(call.method)


def _name_of(source: Source) -> str:
    paths = _paths(source)
    return _MADE if paths is None else ", ".join(str(it) for it in paths)


def advice(
    source: Source,
    policy: BreakerPolicy | None = None,
    *,
    threads: int | None = None,
    methods: Collection[str] = (),
    horizon: float = HORIZON,
    despite_breaker: bool = False,
    seed: int = 0,
) -> Advice:
    """What a record says of deadlines, bulkheads and thresholds, and what it cannot say.

    Reads the record twice: calls that are given as an iterator are kept meanwhile.

    Args:
        source: As for `replay`.
        policy: What is advised is played on top of this. Default `None`: the default policy.
        threads: Threads of the client, from 1, for the share of them that an outage takes. Default `None`: unknown.
        methods: As for `replay`.
        horizon: As for `replay`.
        despite_breaker: As for `replay`.
        seed: As for `replay`.

    Raises:
        RecordError: As for `replay`.
        TypeError: An argument of the wrong kind.
        ValueError: `threads` or `horizon` is out of range.
    """
    kept = source if _paths(source) is not None else list(cast("Iterable[Call]", source))

    def again(policies: Sequence[Played]) -> Report:
        return play(kept, policies, methods=methods, horizon=horizon, despite_breaker=despite_breaker, seed=seed)

    return advice_of(again([played("default" if policy is None else "as given", policy)]), threads, again)


def sensitivity(
    source: Source,
    policy: BreakerPolicy | None = None,
    *,
    methods: Collection[str] = (),
    horizon: float = HORIZON,
    despite_breaker: bool = False,
    seed: int = 0,
) -> Sensitivity:
    """Where the verdict on a policy flips as each of its fields is varied.

    Args:
        source: As for `replay`.
        policy: The policy. Default `None`: the default policy.
        methods: As for `replay`.
        horizon: As for `replay`.
        despite_breaker: As for `replay`.
        seed: As for `replay`.

    Raises:
        RecordError: As for `replay`.
        TypeError: An argument of the wrong kind.
        ValueError: `horizon` is out of range.
    """
    base = [played("default" if policy is None else "as given", policy)]
    report = play(
        source,
        [*base, *variants(base)],
        methods=methods,
        horizon=horizon,
        despite_breaker=despite_breaker,
        seed=seed,
    )
    return sensitivity_of(report, 1)
