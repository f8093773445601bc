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

    *Metrics* are observed, see `_metrics.py`: a call pays nothing for them.

    *Log records.* One for each change, on the logger `grpc_breaker`, with the same facts as attributes of the record:
    a warning when it opens, else for information.

Without an SDK all this goes to OpenTelemetry's no-op implementations. There is no lock: attaching is idempotent, and
what readers share is replaced in single steps.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, cast

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace

from grpc_breaker import _semconv as names
from grpc_breaker._core.breaker import CircuitBreaker, counts_of
from grpc_breaker._core.counts import FALLBACK, LabelledCounts
from grpc_breaker._core.events import StateChange
from grpc_breaker._core.interrupts import passes_through
from grpc_breaker._core.log import log_once, logger, printable
from grpc_breaker._core.stack import Acted
from grpc_breaker._core.state import State
from grpc_breaker._metrics import SCOPE, BreakerMetrics, Source
from grpc_breaker._registry import BreakerRegistry

__all__ = ["BreakerTelemetry", "attach"]


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
        self._metrics = BreakerMetrics(meter_provider)
        _all_telemetry.add(self)

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
        self._metrics.add(source, counts)

    def begin_anew(self) -> None:  # pragma: no cover - runs in forked children, where coverage does not follow
        """Begin anew in a forked child: what was counted and reported so far is the parent's."""
        self._metrics.forget_counted()

    def _report(self, change: StateChange, label: str) -> None:
        """Each of the three by itself: an exporter in trouble must not silence the log.

        In the context of the call that caused the change, where log records find their trace: the thread's own context
        may be another call's.
        """
        count = partial(self._metrics.count_change, label)
        emitters: tuple[Callable[[StateChange], None], ...] = (_log_record, self._emit, count)
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


_attached: Final[weakref.WeakKeyDictionary[Source, BreakerTelemetry]] = weakref.WeakKeyDictionary()
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
        A callable that captures the trace context as a call begins, for `admit(context=…)`; `None` without telemetry.

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
        telemetry.begin_anew()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _default() -> BreakerTelemetry:
    """The telemetry of every interceptor that was given none, made by the first."""
    return _defaults.get("one") or _defaults.setdefault("one", BreakerTelemetry())


class _SpanEvents:
    """Emits each change as an event on the span of the call that caused it."""

    def __init__(self, tracer_provider: trace.TracerProvider | None) -> None:
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)

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
    otel_logger = logs.get_logger(SCOPE, logger_provider=logger_provider)

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
