"""OpenTelemetry: what the breakers did, as span events, metrics and log records. A listener of the breakers, no more.

Theory of operation
    *Span events.* Each change of state is an event on the span of the very call that caused it. The trace context is
    captured when the call begins and travels with its permit, because the callback that ends a call runs on a thread
    whose current span belongs to another call. Where that span is not recording, or has ended, or no call caused the
    change, a short span of its own carries the event, linked to the captured context where there is one: no change is
    lost but to a sampler. Only the interceptors capture it: a caller who uses a breaker without them may pass it,
    `admit(context=opentelemetry.context.get_current())`; decorated functions have none.
    Each retry, and each answer of a fallback, is an event on the span that is current where it happens.
    `events="log"` emits OpenTelemetry log events instead, correlated by the same context; never both.

    *Metrics.* The instruments are observable: a reader asks, and the breakers' own counts are its answer. So a call
    pays nothing for them, however many readers there are; only a change of state is counted when it happens. Labels are
    bounded by the registry's cap: names beyond it count as `other`, unless they were configured. What a registry
    counted is reported when it is gone, too, because a counter must not fall.

    *Log records.* One for each change, on the logger `grpc_breaker`, with the same facts as attributes of the record:
    a warning when it opens, else for information.

Without an SDK all this goes to OpenTelemetry's no-op implementations. There is no lock: attaching is idempotent, and
what readers share is replaced in single steps.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, TypeAlias, cast

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation

from grpc_breaker import _semconv as names
from grpc_breaker._core.breaker import CircuitBreaker, counts_of
from grpc_breaker._core.counts import FALLBACK, REJECTED, RETRY, UNENFORCED, LabelledCounts, summed
from grpc_breaker._core.events import StateChange
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once, logger, printable
from grpc_breaker._core.policy import STATUS_NAMES
from grpc_breaker._core.stack import Acted
from grpc_breaker._core.state import State
from grpc_breaker._core.target import split_target
from grpc_breaker._registry import BreakerRegistry

__all__ = ["BreakerTelemetry", "attach"]

_SCOPE: Final = "grpc_breaker"

_GONE_APART: Final = 100
"""Registries that are gone whose counts are kept apart, so that their breakers may go on counting."""


class BreakerTelemetry:
    """Where the breakers' telemetry goes.

    Give one to `CircuitBreakerInterceptor(telemetry=…)` or `aio.interceptors(telemetry=…)` to choose providers, or the
    form of events. One object serves any number of interceptors, registries and breakers; attaching it twice to one of
    them does nothing the second time. Each has one telemetry: another is an error, or each change would be reported
    twice.
    """

    def __init__(
        self,
        *,
        events: Literal["span", "log"] = "span",
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        logger_provider: Any = None,
    ) -> None:
        """Make a telemetry.

        Args:
            events: "span": each change of state is a span event. "log": it is an OpenTelemetry log event; needs an
                opentelemetry-api that has them (1.35 or newer).
            tracer_provider: Default: the global one.
            meter_provider: Default: the global one.
            logger_provider: For `events="log"`. Default: the global one.

        Raises:
            TypeError: A provider is not one of OpenTelemetry's.
            ValueError: `events` is something else.
            RuntimeError: The installed opentelemetry-api has no log events.
        """
        if events not in {"span", "log"}:
            message = f"BreakerTelemetry events must be 'span' or 'log', got {events!r}"
            raise ValueError(message)
        _check_provider("tracer_provider", tracer_provider, "get_tracer")
        _check_provider("meter_provider", meter_provider, "get_meter")
        _check_provider("logger_provider", logger_provider, "get_logger")
        self._emit = _SpanEvents(tracer_provider) if events == "span" else _log_events(logger_provider)
        self._sources: weakref.WeakKeyDictionary[_Source, LabelledCounts] = weakref.WeakKeyDictionary()
        """What is reported, and what it has counted."""
        self._gone: dict[int, LabelledCounts] = {}
        """What registries counted that are gone."""
        self._reported: dict[tuple[str, str, str], int] = {}
        _all_telemetry.add(self)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._changes = meter.create_counter(names.METRIC_STATE_CHANGES, "{change}", "Changes of a breaker's state.")
        meter.create_observable_gauge(
            names.METRIC_STATE, [self._observe_states], "1", "1 for the state a breaker is in, 0 for the others."
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

    def attach(self, source: BreakerRegistry | CircuitBreaker) -> None:
        """Report everything that a registry's breakers, or a breaker without a registry, do from now on.

        Raises:
            TypeError: `source` is neither.
            ValueError: Another telemetry reports it, or it is a breaker of a registry, which reports it.
        """
        counts = _counts_of(source)
        if _attached.setdefault(source, self) is not self:
            message = f"another BreakerTelemetry reports {source!r}; attach the same one everywhere"
            raise ValueError(message)
        source.on_state_change(lambda change: self._report(change, counts.label(change.breaker)), key=self)
        if isinstance(source, BreakerRegistry):
            source.actions.add(_note_action, _note_action)
        if source not in self._sources:
            counts = self._sources.setdefault(source, counts)  # or it was attached in the middle of this
            weakref.finalize(source, self._gone.setdefault, id(counts), counts).atexit = False
            self._fold()

    def forget_reported(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Begin anew in a forked child: what was reported so far were the parent's calls."""
        self._reported.clear()
        self._gone.clear()

    def _attached(self) -> list[tuple[_Source, LabelledCounts]]:
        """The registries and breakers that are there, with their counts; again where one comes or goes meanwhile."""
        while True:
            with suppress(RuntimeError):
                return list(self._sources.items())

    def _labelled(self) -> Iterator[tuple[str, CircuitBreaker]]:
        """Each breaker that is there, with its label."""
        for source, counts in self._attached():
            for breaker in (source,) if isinstance(source, CircuitBreaker) else source:
                yield counts.label(breaker.name), breaker

    def _fold(self) -> None:
        """Add up the counts of registries that are gone, so that making registries again and again fills no memory."""
        if len(self._gone) > _GONE_APART:
            folded = LabelledCounts((), 0)
            oldest = [self._gone.pop(key, None) for key in list(self._gone)[:_GONE_APART]]
            folded.add_all(summed(counts for counts in oldest if counts is not None))
            self._gone[id(folded)] = folded

    def _report(self, change: StateChange, label: str) -> None:
        """Each of the three by itself: an exporter in trouble must not silence the log.

        In the context of the call that caused the change, where log records and exemplars find their trace: the
        thread's own context may be another call's.
        """
        emitters: tuple[Callable[[StateChange], None], ...] = (_log_record, self._emit, partial(self._count, label))
        passing: BaseException | None = None
        token = otel_context.attach(_context(change) or otel_context.Context())
        try:
            for emit in emitters:
                try:
                    emit(change)
                except BaseException as error:  # noqa: BLE001 - telemetry must never break a user's call
                    if isinstance(error, Exception) and not passes_through(error):
                        log_once("reporting a state change failed")
                    else:
                        passing = passing or error
        finally:
            otel_context.detach(token)
        if passing is not None:
            raise passing

    def _count(self, label: str, change: StateChange) -> None:
        attributes = {**_label(label), names.PREVIOUS_STATE: str(change.previous), names.STATE: str(change.state)}
        self._changes.add(1, attributes)

    def _observe_states(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - the API's signature
        states: dict[str, set[State]] = {}
        for label, breaker in self._labelled():
            states.setdefault(label, set()).add(breaker.state)
        for label, present in states.items():
            for state in State:
                yield Observation(int(state in present), {**_label(label), names.STATE: str(state)})

    def _totals(self) -> dict[tuple[str, str, str], int]:
        """Everything that was counted, of registries that are gone, too."""
        live_and_gone = [*(counts for _, counts in self._attached()), *list(self._gone.values())]
        totals = summed({id(counts): counts for counts in live_and_gone}.values())
        for key, calls in totals.items():  # what is being folded just now was reported the last time
            self._reported[key] = totals[key] = max(calls, self._reported.get(key, 0))
        return totals

    def _observe_calls(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - the API's signature
        for (label, outcome, status), calls in self._totals().items():
            if outcome in {RETRY, FALLBACK}:
                continue
            attributes = {**_label(label), names.OUTCOME: outcome}
            if outcome in {REJECTED, UNENFORCED}:
                attributes[names.REFUSAL_REASON] = status
            elif status:  # that of plain code is the name of an exception
                attributes[names.RPC_STATUS if status in STATUS_NAMES else names.ERROR_TYPE] = status
            yield Observation(calls, attributes)

    def _observe_retries(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        for (label, what, _), attempts in self._totals().items():
            if what == RETRY:
                yield Observation(attempts, _label(label))

    def _observe_fallbacks(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        for (label, what, kind), calls in self._totals().items():
            if what == FALLBACK:
                yield Observation(calls, {**_label(label), names.FALLBACK_KIND: kind})

    def _observe_in_flight(self, options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG002 - see above
        calls: dict[str, int] = {}
        for label, breaker in self._labelled():
            calls[label] = calls.get(label, 0) + breaker.in_flight
        for label, n in calls.items():
            yield Observation(n, _label(label))


_Source: TypeAlias = BreakerRegistry | CircuitBreaker

_attached: Final[weakref.WeakKeyDictionary[_Source, BreakerTelemetry]] = weakref.WeakKeyDictionary()
_all_telemetry: Final[weakref.WeakSet[BreakerTelemetry]] = weakref.WeakSet()
_defaults: Final[dict[str, BreakerTelemetry]] = {}


def _check_provider(name: str, provider: object, method: str) -> None:
    if provider is not None and not callable(getattr(provider, method, None)):
        message = f"BreakerTelemetry {name} must be an OpenTelemetry provider or None, got {provider!r}"
        raise TypeError(message)


def _counts_of(source: object) -> LabelledCounts:
    """What a registry, or a breaker without one, counts.

    Raises:
        TypeError: It is neither.
        ValueError: It is a breaker of a registry.
    """
    if isinstance(source, BreakerRegistry):
        return source.counts
    if not isinstance(source, CircuitBreaker):
        message = f"telemetry is attached to a BreakerRegistry or a CircuitBreaker, got {source!r}"
        raise TypeError(message)
    counts = counts_of(source)
    if counts is None:
        message = f"breaker {source.name!r} belongs to a registry; attach the registry, which reports all its breakers"
        raise ValueError(message)
    return counts


def attach(
    source: BreakerRegistry | CircuitBreaker, telemetry: bool | BreakerTelemetry = True
) -> Callable[[], object] | None:
    """Report a registry, or a breaker without one; the interceptors do it for theirs.

    Args:
        source: Whose breakers to report.
        telemetry: True for OpenTelemetry's global providers (the default), False for none, or a `BreakerTelemetry`.

    Returns:
        What captures the trace context as a call begins, for `admit(context=…)`; `None` without telemetry.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: Another telemetry reports it, or it is a breaker of a registry.
    """
    if telemetry is False:
        return None
    _counts_of(source)  # what cannot be attached is an error
    if telemetry is True:
        telemetry = _attached.get(source) or _default()
    if not isinstance(telemetry, BreakerTelemetry):
        message = f"telemetry must be True, False or a BreakerTelemetry, got {telemetry!r}"
        raise TypeError(message)
    telemetry.attach(source)
    return otel_context.get_current


def _after_fork_in_child() -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
    """A forked child reports its own calls: the counts of its registries begin anew, and so does what was reported."""
    for telemetry in tuple(_all_telemetry):
        telemetry.forget_reported()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _default() -> BreakerTelemetry:
    """The telemetry of every interceptor that was given none, made by the first."""
    return _defaults.get("one") or _defaults.setdefault("one", BreakerTelemetry())


class _SpanEvents:
    """Emits each change as an event on the span of the call that caused it."""

    def __init__(self, tracer_provider: trace.TracerProvider | None) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)

    def __call__(self, change: StateChange) -> None:
        attributes = _attributes(change)
        span = trace.INVALID_SPAN if change.context is None else trace.get_current_span(_context(change))
        if span.is_recording():
            span.add_event(names.EVENT_STATE_CHANGE, attributes)
            if span.is_recording() or _holds(span, attributes):
                return  # else its owner ended it in between, on another thread
        # An event on an ended span is dropped with a warning, so the change gets a span of its own.
        seen = span.get_span_context()
        links = [trace.Link(seen)] if seen.is_valid else []
        with self._tracer.start_as_current_span(
            names.EVENT_STATE_CHANGE, otel_context.Context(), links=links, attributes={names.NAME: change.breaker}
        ) as own:
            own.add_event(names.EVENT_STATE_CHANGE, attributes)


def _note_action(acted: Acted) -> None:
    """Note a retry, or the answer of a fallback, on the span in which the call is made."""
    span = trace.get_current_span()
    if not span.is_recording():
        return
    attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: acted.method}
    if acted.what == FALLBACK:
        span.set_attribute(names.FALLBACK_KIND, acted.kind)
        span.add_event(names.EVENT_FALLBACK, {**attributes, names.FALLBACK_KIND: acted.kind})
    else:
        span.add_event(names.EVENT_RETRY, attributes)


def _holds(span: Any, attributes: dict[str, Any]) -> bool:
    """Whether a span that has ended holds the event with these attributes."""
    return any(
        event.name == names.EVENT_STATE_CHANGE
        and event.attributes[names.NAME] == attributes[names.NAME]
        and event.attributes[names.SEQUENCE] == attributes[names.SEQUENCE]
        for event in getattr(span, "events", ())
    )


def _log_events(logger_provider: Any) -> Callable[[StateChange], None]:
    """What emits each change as an OpenTelemetry log event (OTEP 4430)."""
    try:
        from opentelemetry import _logs as logs  # noqa: PLC0415 - absent from older versions, and only needed here

        logs.LogRecord(event_name=names.EVENT_STATE_CHANGE)
    except (ImportError, TypeError) as error:
        message = "events='log' needs opentelemetry-api 1.35 or newer"
        raise RuntimeError(message) from error
    otel_logger = logs.get_logger(_SCOPE, logger_provider=logger_provider)

    def emit(change: StateChange) -> None:
        opened = change.state in {State.OPEN, State.FORCED_OPEN}
        otel_logger.emit(
            logs.LogRecord(
                timestamp=int(change.time * 1e9),
                context=_context(change),
                severity_number=logs.SeverityNumber.WARN if opened else logs.SeverityNumber.INFO,
                severity_text="WARN" if opened else "INFO",
                body=_words(change),
                attributes=_attributes(change),
                event_name=names.EVENT_STATE_CHANGE,
            )
        )

    return emit


def _log_record(change: StateChange) -> None:
    """One structured record for each change, at warning when it opens."""
    level = logging.WARNING if change.state in {State.OPEN, State.FORCED_OPEN} else logging.INFO
    attributes = {key: _printable(value) for key, value in _pairs(change)}
    logger.log(level, "%s", _words(change), extra={"event": names.EVENT_STATE_CHANGE, **attributes})


def _printable(value: Any) -> Any:
    """A value as it may stand in a line of a log."""
    if isinstance(value, str):
        return printable(value)
    return tuple(printable(it) for it in cast("tuple[str, ...]", value)) if isinstance(value, tuple) else value


def _words(change: StateChange) -> str:
    words = f"circuit breaker {printable(change.breaker)}: {change.previous} -> {change.state} ({change.reason})"
    if change.state is State.OPEN:
        words += f"; {change.failures} of {change.calls} calls failed, next probe in {change.retry_after:.1f} s"
        if change.last_failures:  # pragma: no branch - slow calls open it without
            last = change.last_failures[-1]
            words += f"; last failure: {printable(last.status)} {last.details}".rstrip()
    return words


def _attributes(change: StateChange) -> dict[str, Any]:
    return dict(_pairs(change))


def _pairs(change: StateChange) -> Iterator[tuple[str, Any]]:
    yield names.NAME, change.breaker
    if change.target:
        yield names.TARGET, change.target
    yield names.PREVIOUS_STATE, str(change.previous)
    yield names.STATE, str(change.state)
    yield names.REASON, str(change.reason)
    if not change.enforced:
        yield names.ENFORCED, False
    yield names.WINDOW_CALLS, change.calls
    yield names.WINDOW_FAILURES, change.failures
    yield names.WINDOW_SLOW, change.slow
    yield names.SEQUENCE, change.sequence
    if change.retry_after is not None:
        yield names.RETRY_AFTER, change.retry_after
    if change.last_failures:
        yield names.LAST_FAILURES, tuple(f"{it.status}: {it.details}" for it in change.last_failures)
    if change.method:
        yield names.RPC_SYSTEM, "grpc"
        yield names.RPC_METHOD, change.method
        if change.status:
            yield names.RPC_STATUS, change.status
    if change.status and change.status != "OK":
        yield names.ERROR_TYPE, change.status


def _context(change: StateChange) -> otel_context.Context | None:
    return change.context if isinstance(change.context, otel_context.Context) else None


def _label(label: str) -> dict[str, str]:
    name, target = split_target(label)
    attributes = {names.NAME: label}
    if "/" in name:
        attributes[names.RPC_METHOD] = name
    if target:
        attributes[names.TARGET] = target
    return attributes
