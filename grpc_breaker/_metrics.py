"""OpenTelemetry: the metrics of breakers.

All instruments are observable: a reader asks, and the breakers' own counts are its answer. So a call pays nothing for
them, however many readers there are; only a change of state is counted as it happens. Labels are bounded by the
registry's cap: names beyond it count as `other`, unless they were configured. A counter never falls: what a registry
counted is reported when it is gone, too. Counters that alerts ask for are there at 0 as soon as their breaker is,
because Prometheus does not see an increase that a series begins with.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from grpc_breaker import _semconv as names
from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.counts import (
    FAILURE,
    FALLBACK,
    HUNG_STATUS,
    REJECTED,
    RETRY,
    UNENFORCED,
    LabelledCounts,
    summed,
)
from grpc_breaker._core.events import StateChange
from grpc_breaker._core.policy import STATUS_NAMES
from grpc_breaker._core.state import TRANSITIONS, RefusalReason, State
from grpc_breaker._core.target import split_target
from grpc_breaker._registry import BreakerRegistry

Source: TypeAlias = BreakerRegistry | CircuitBreaker
"""What is reported: a registry's breakers, or a breaker without a registry."""

SCOPE: Final = "grpc_breaker"
"""The name of the instrumentation scope."""

_GONE_APART: Final = 100
"""Registries that are gone whose counts are kept apart, so that their breakers may go on counting."""

_OPENINGS: Final = tuple((str(previous), str(state)) for previous, state in TRANSITIONS if state is State.OPEN)
"""The changes of state that are reported from 0 on."""

_BREAKER: Final = str(RefusalReason.BREAKER)


class BreakerMetrics:
    """The instruments of one telemetry, and the registries and breakers that they read. Safe to use from any thread."""

    def __init__(self, meter_provider: metrics.MeterProvider | None) -> None:
        """Make the instruments; `None` stands for the global provider."""
        self._sources: weakref.WeakKeyDictionary[Source, LabelledCounts] = weakref.WeakKeyDictionary()
        """What is reported, and what it has counted."""
        self._gone: dict[int, LabelledCounts] = {}
        """What registries counted that are gone."""
        self._reported: dict[tuple[str, str, str], int] = {}
        self._changes: dict[tuple[str, str, str], int] = {}
        """Changes of state by label, previous and new state."""
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        meter.create_observable_gauge(
            names.METRIC_STATE,
            [self._observe_states],
            "{breaker}",
            "1 for the state that a breaker is in, else 0.",
        )
        meter.create_observable_gauge(
            names.METRIC_STATE_START_TIME,
            [self._observe_start_times],
            "s",
            "When a breaker entered the state it is in, in seconds since the epoch; none before its first change.",
        )
        meter.create_observable_gauge(
            names.METRIC_HOLD_END_TIME,
            [self._observe_hold_end_times],
            "s",
            "When the hold of a breaker ends by itself, in seconds since the epoch.",
        )
        meter.create_observable_counter(
            names.METRIC_STATE_CHANGES, [self._observe_changes], "{change}", "Changes of a breaker's state."
        )
        meter.create_observable_counter(
            names.METRIC_CALLS, [self._observe_calls], "{call}", "Calls by what they said about the server."
        )
        meter.create_observable_counter(
            names.METRIC_RETRIES, [self._observe_retries], "{attempt}", "Attempts of calls after their first ones."
        )
        meter.create_observable_counter(
            names.METRIC_FALLBACKS, [self._observe_fallbacks], "{call}", "Calls that a fallback answered."
        )
        meter.create_observable_up_down_counter(
            names.METRIC_IN_FLIGHT, [self._observe_in_flight], "{call}", "Calls admitted and not ended."
        )

    def add(self, source: Source, counts: LabelledCounts) -> None:
        """Read a registry or a breaker, and what it counts, from now on; once, however often it is added."""
        if source not in self._sources:
            counts = self._sources.setdefault(source, counts)  # or it was added in the middle of this
            weakref.finalize(source, self._gone.setdefault, id(counts), counts).atexit = False
            self._fold()

    def count_change(self, label: str, change: StateChange) -> None:
        """Count a change of state."""
        key = label, str(change.previous), str(change.state)
        if key not in self._changes:
            self._changes.setdefault(key, 0)
        self._changes[key] += 1

    def forget_counted(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Begin anew in a forked child: what was counted and reported so far is the parent's."""
        self._reported.clear()
        self._gone.clear()
        self._changes.clear()

    def _there(self) -> list[tuple[Source, LabelledCounts]]:
        """The registries and breakers that are there, with their counts; again where one comes or goes meanwhile."""
        while True:
            with suppress(RuntimeError):
                return list(self._sources.items())

    def _labelled(self) -> Iterator[tuple[str, CircuitBreaker]]:
        """Each breaker that is there, with its label."""
        for source, counts in self._there():
            for breaker in (source,) if isinstance(source, CircuitBreaker) else source:
                yield counts.label(breaker.name), breaker

    def _fold(self) -> None:
        """Add up the counts of registries that are gone, so that making registries again and again fills no memory."""
        if len(self._gone) > _GONE_APART:
            folded = LabelledCounts((), 0)
            oldest = [self._gone.pop(key, None) for key in list(self._gone)[:_GONE_APART]]
            folded.add_all(summed(counts for counts in oldest if counts is not None))
            self._gone[id(folded)] = folded

    def _observe_states(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - the API's signature
        states: dict[str, set[State]] = {}
        for label, breaker in self._labelled():
            states.setdefault(label, set()).add(breaker.state)
        for label, present in states.items():
            for state in State:
                yield Observation(int(state in present), {**_attributes(label), names.STATE: str(state)})

    def _observe_start_times(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        """Of breakers that share a label and a state, the earliest time."""
        times: dict[tuple[str, str], float] = {}
        for label, breaker in self._labelled():
            for change in breaker.changes[-1:]:
                key = label, str(change.state)
                times[key] = min(change.time, times.get(key, change.time))
        for (label, state), time in times.items():
            yield Observation(time, {**_attributes(label), names.STATE: state})

    def _observe_hold_end_times(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        """Of breakers that share a label and a state, the latest time."""
        times: dict[tuple[str, str], float] = {}
        for label, breaker in self._labelled():
            hold, state = breaker.hold, str(breaker.state)
            if hold is not None and hold.ends < math.inf:
                times[label, state] = max(hold.ends, times.get((label, state), hold.ends))
        for (label, state), time in times.items():
            yield Observation(time, {**_attributes(label), names.STATE: state})

    def _observe_changes(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        begun = {(label, *opening): 0 for label, _ in self._labelled() for opening in _OPENINGS}
        for (label, previous, state), changes in {**begun, **self._changes.copy()}.items():
            yield Observation(changes, {**_attributes(label), names.PREVIOUS_STATE: previous, names.STATE: state})

    def _totals(self) -> dict[tuple[str, str, str], int]:
        """Everything that was counted, of registries that are gone, too."""
        live_and_gone = [*(counts for _, counts in self._there()), *list(self._gone.values())]
        totals = summed({id(counts): counts for counts in live_and_gone}.values())
        for key, calls in totals.items():  # what is being folded just now was reported the last time
            self._reported[key] = totals[key] = max(calls, self._reported.get(key, 0))
        return totals

    def _observe_calls(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        begun: dict[tuple[str, str, str], int] = {}
        for label, breaker in self._labelled():
            begun[label, REJECTED, _BREAKER] = 0
            if breaker.policy.hung_after is not None:
                begun[label, FAILURE, HUNG_STATUS] = 0
        for (label, outcome, status), calls in {**begun, **self._totals()}.items():
            if outcome in {RETRY, FALLBACK}:
                continue
            attributes = {**_attributes(label), names.OUTCOME: outcome}
            if outcome in {REJECTED, UNENFORCED}:
                attributes[names.REFUSAL_REASON] = status
            elif status:  # that of plain code is the name of an exception
                attributes[names.RPC_STATUS if status in STATUS_NAMES else names.ERROR_TYPE] = status
            yield Observation(calls, attributes)

    def _observe_retries(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        for (label, what, _), attempts in self._totals().items():
            if what == RETRY:
                yield Observation(attempts, _attributes(label))

    def _observe_fallbacks(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        for (label, what, kind), calls in self._totals().items():
            if what == FALLBACK:
                yield Observation(calls, {**_attributes(label), names.FALLBACK_KIND: kind})

    def _observe_in_flight(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        calls: dict[str, int] = {}
        for label, breaker in self._labelled():
            calls[label] = calls.get(label, 0) + breaker.in_flight
        for label, n in calls.items():
            yield Observation(n, _attributes(label))


def _attributes(label: str) -> dict[str, str]:
    """What a label says: the name, its target if there is one, and the method if it is a method's."""
    name, target = split_target(label)
    attributes = {names.NAME: label}
    if "/" in name:
        attributes[names.RPC_METHOD] = name
    if target:
        attributes[names.TARGET] = target
    return attributes
