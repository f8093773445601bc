"""What a soak counts: what the breakers report, and what is there while nobody calls.

Nothing here grows with the calls: spans and log records are counted and dropped.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import logging
import os
import pkgutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import grpc_breaker
from grpc_breaker import BreakerRegistry, Permit, Rejection, State, StateChange
from grpc_breaker.telemetry import BreakerTelemetry

_MODULES = [
    importlib.import_module(f"grpc_breaker.{module.name}")
    for module in pkgutil.iter_modules(grpc_breaker.__path__)
    if not module.ispkg
]
PER_CALL = {
    Permit,
    Rejection,
    *(
        it
        for module in _MODULES
        for it in vars(module).values()
        if inspect.isclass(it) and it.__module__ == module.__name__
    ),
}
"""Classes whose objects belong to single calls, and those of the interceptors, whose number never changes."""

LOGGED_BY_GRPCIO = "_StreamRequestMixin._consume_request_iterator"
"""In the log of asyncio: grpcio lets go of the task that writes an abandoned call's requests, bare as well."""

LOGGED_BY_THE_SDK = "_add_event on an ended span"
"""In OpenTelemetry's log: a span ended between the look at it and the event, which then has a span of its own."""

BLOCKS_PER_KIND = 50
"""What OpenTelemetry allocates, once, to count each kind of change."""

Change = tuple[str, str, str]
"""A kind of change of state: breaker, state before, state after."""


class Counts:
    """Counts the changes of a registry's breakers in every way they are reported, with the real OpenTelemetry SDK."""

    def __init__(self, breakers: BreakerRegistry) -> None:
        self.received: Counter[Change] = Counter()
        """By listeners; the others are held to it."""
        self.spans: Counter[Change] = Counter()
        self.logged: Counter[Change] = Counter()
        self.rejections = 0
        self.gaps: list[str] = []
        """Where the events of one breaker do not follow each other."""
        self.strange: list[str] = []
        """Log records that are no change of state, and errors that nobody could catch."""
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(_Spans(self))
        self.tracer = tracers.get_tracer("soak")
        self._providers = (tracers, MeterProvider([self._reader]))
        self.telemetry = BreakerTelemetry(tracer_provider=tracers, meter_provider=self._providers[1])
        self._last: dict[str, StateChange] = {}
        self._lock = threading.Lock()
        breakers.on_state_change(self._receive)
        breakers.on_rejection(self._count_rejection)

    def _receive(self, change: StateChange) -> None:
        last = self._last.get(change.breaker)
        expected = (last.sequence + 1, last.state) if last else (1, State.CLOSED)
        if (change.sequence, change.previous) != expected:
            self.gaps.append(f"{change.breaker}: expected {expected}, received {change.sequence, change.previous}")
        self._last[change.breaker] = change
        self.count(self.received, (change.breaker, str(change.previous), str(change.state)))

    def _count_rejection(self, rejection: Rejection) -> None:
        with self._lock:
            self.rejections += 1

    def count(self, counter: Counter[Change], change: Change) -> None:
        """Count one change of state."""
        with self._lock:
            counter[change] += 1

    def read(self, name: str) -> list[tuple[Any, int]]:
        """The points of one metric now: attributes and value."""
        data = self._reader.get_metrics_data()
        return [
            (point.attributes, point.value)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    @property
    def metered(self) -> Counter[Change]:
        """The changes of state by the metric."""
        counted: Counter[Change] = Counter()
        for attributes, value in self.read("grpc_breaker.state_changes"):
            counted[change_of(attributes)] += value
        return counted

    @contextmanager
    def open(self) -> Iterator[None]:
        """Collect everything that is logged, or raised where nobody can catch it; at the end, shut telemetry down."""
        handler = _Records(self)
        loggers = [logging.getLogger(name) for name in ("grpc_breaker", "opentelemetry", "asyncio", "grpc")]
        before = [(it, it.propagate, it.level) for it in loggers]
        hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = lambda it: self.strange.append(f"in a finalizer, {it.object!r}: {it.exc_value!r}")
        threading.excepthook = lambda it: self.strange.append(f"in {it.thread}: {it.exc_value!r}")
        for it in loggers:
            it.addHandler(handler)
            it.propagate = False
        loggers[0].setLevel(logging.INFO)
        try:
            yield
        finally:
            for provider in self._providers:
                provider.shutdown()
            sys.unraisablehook, threading.excepthook = hooks
            for it, propagate, level in before:
                it.removeHandler(handler)
                it.propagate = propagate
                it.setLevel(level)


class _Spans(SpanProcessor):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def on_end(self, span: ReadableSpan) -> None:
        for event in span.events:
            if event.name == "grpc_breaker.state_change":
                self._counts.count(self._counts.spans, change_of(event.attributes))


class _Records(logging.Handler):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "event", "") == "grpc_breaker.state_change":
            self._counts.count(self._counts.logged, change_of(vars(record)))
        elif not any(words in record.getMessage() for words in (LOGGED_BY_GRPCIO, LOGGED_BY_THE_SDK)):
            self._counts.strange.append(f"logged by {record.name}: {record.getMessage()} {record.exc_info or ''}")


def change_of(attributes: Any) -> Change:
    """The change that attributes of telemetry describe."""
    name, previous, state = (attributes[f"grpc_breaker.{it}"] for it in ("name", "state.previous", "state"))
    return name, previous, state


@dataclass(frozen=True)
class Census:
    """What is there while nobody calls."""

    calls: int
    """Made so far."""
    permits: int
    """In flight, as the breakers count them."""
    objects: int
    """Of the classes in `PER_CALL`."""
    threads: int
    native_threads: int
    tasks: int
    descriptors: int
    blocks: int
    """Of Python's allocator, less `BLOCKS_PER_KIND`."""
    resident: int
    """Bytes of memory."""

    @classmethod
    def take(cls, calls: int, breakers: BreakerRegistry, kinds: int) -> Self:
        """Collect garbage, and count; `kinds` of changes have been received so far."""
        gc.collect()
        return cls(
            calls=calls,
            permits=sum(breaker.in_flight for breaker in breakers),
            objects=sum(type(it) in PER_CALL for it in gc.get_objects()),
            threads=threading.active_count(),
            native_threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
            tasks=len(asyncio.all_tasks()),
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            blocks=sys.getallocatedblocks() - BLOCKS_PER_KIND * kinds,
            resident=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"),
        )


def slope(points: list[tuple[float, float]]) -> float:
    """The least-squares slope of y over x."""
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0
