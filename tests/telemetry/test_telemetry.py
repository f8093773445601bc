"""Metrics, log records, log events, and the switches."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import _logs as logs
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    BulkheadFullError,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    CircuitOpenError,
    Fallback,
    MethodPolicy,
    RateLimit,
    RateLimitedError,
    State,
    telemetry,
)
from grpc_breaker.telemetry import BreakerTelemetry
from grpc_breaker.testing import EventRecorder, FakeClock
from tests.support.child import in_child
from tests.support.lines import act_at
from tests.support.memory import memory_grown
from tests.support.server import PATIENCE
from tests.telemetry.meter import Meter
from tests.telemetry.receiver import Receiver, attributes

METHOD = "pkg.S/M"
FILES = {telemetry.__file__, str(Path(telemetry.__file__).with_name("_metrics.py"))}
"""What telemetry is made of."""


@pytest.fixture
def breakers() -> BreakerRegistry:
    """Two failures open."""
    return BreakerRegistry(default=BreakerPolicy(consecutive_failures=2), clock=FakeClock(), max_breakers=2)


def open_it(breakers: BreakerRegistry, context: object = None) -> None:
    """Open a breaker by two calls."""
    for _ in range(2):
        breakers[METHOD].admit(METHOD, context).failure("UNAVAILABLE", "ill")


NAME = (f"grpc_breaker.name={METHOD}",)
RPC = (f"rpc.method={METHOD}",)


def test_metrics_show_states_calls_and_changes(breakers: BreakerRegistry, meter: Meter) -> None:
    """Metrics say each breaker's state, its changes, its calls by outcome and status, and those in flight."""
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    breakers[METHOD].admit().success()
    left = breakers[METHOD].admit()
    assert meter.read()["grpc_breaker.calls.in_flight", *NAME, *RPC] == 1
    left.settle(telemetry_outcome("success"), "NOT_FOUND")
    open_it(breakers)
    breakers[METHOD].try_admit()
    read = meter.read()
    states = {
        state: read["grpc_breaker.state", *NAME, f"grpc_breaker.state={state}", *RPC] for state in map(str, State)
    }
    assert states == {"closed": 0, "open": 1, "half_open": 0, "forced_open": 0, "disabled": 0}
    change = ("grpc_breaker.state=open", "grpc_breaker.state.previous=closed")
    assert read["grpc_breaker.state_changes", *NAME, *change, *RPC] == 1
    calls = {key[2:]: value for key, value in read.items() if key[0] == "grpc_breaker.calls"}
    assert calls == {
        ("grpc_breaker.outcome=success", *RPC, "rpc.status_code=OK"): 1,
        ("grpc_breaker.outcome=success", *RPC, "rpc.status_code=NOT_FOUND"): 1,
        ("grpc_breaker.outcome=failure", *RPC, "rpc.status_code=UNAVAILABLE"): 2,
        ("grpc_breaker.outcome=rejected", "grpc_breaker.refusal.reason=breaker", *RPC): 1,
    }
    assert read["grpc_breaker.calls.in_flight", *NAME, *RPC] == 0


def telemetry_outcome(name: str) -> Any:
    """An outcome by name."""
    from grpc_breaker import Outcome

    return Outcome(name)


def test_labels_are_bounded_and_counters_never_fall(breakers: BreakerRegistry, meter: Meter) -> None:
    """However many methods come and go, labels are as many as the cap and `other`, and no counter ever falls."""
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    last = 0.0
    for n in range(20):
        breakers[f"flood.S/M{n}"].admit().success()
        read = {key: value for key, value in meter.read().items() if key[0] == "grpc_breaker.calls" and value}
        assert sum(read.values()) > last
        last = sum(read.values())
        assert len(read) <= 3
    assert any("grpc_breaker.name=other" in key for key in read)


def test_registries_share_a_telemetry(breakers: BreakerRegistry, meter: Meter) -> None:
    """One telemetry serves many registries, adding what they have in common; attached twice it counts once."""
    shared = BreakerTelemetry(meter_provider=meter.provider)
    other = BreakerRegistry()
    for registry in (breakers, breakers, other):
        shared.attach(registry)
    for registry in (breakers, other):
        registry[METHOD].force_open()
    read = meter.read()
    assert sum(value for key, value in read.items() if key[0] == "grpc_breaker.state_changes") == 2
    assert read["grpc_breaker.state", *NAME, "grpc_breaker.state=forced_open", *RPC] == 1


def test_counters_do_not_fall_when_a_registry_is_gone(breakers: BreakerRegistry, meter: Meter) -> None:
    """What a registry counted stays in the metrics after it is gone, added to what the others count."""
    telemetry = BreakerTelemetry(meter_provider=meter.provider)
    other = BreakerRegistry()
    for registry in (breakers, other):
        telemetry.attach(registry)
        registry[METHOD].admit().success()
    key = ("grpc_breaker.calls", *NAME, "grpc_breaker.outcome=success", *RPC, "rpc.status_code=OK")
    assert meter.read()[key] == 2
    del registry, other
    gc.collect()
    assert meter.read()[key] == 2
    breakers[METHOD].admit().success()
    assert meter.read()[key] == 3


def test_one_telemetry_for_a_registry(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """A registry with one telemetry keeps it where the default is asked for, and refuses another."""
    mine = BreakerTelemetry()
    telemetry.attach(breakers, mine)
    telemetry.attach(breakers, True)
    with pytest.raises(ValueError, match="another BreakerTelemetry"):
        CircuitBreakerInterceptor(breakers, telemetry=BreakerTelemetry())
    open_it(breakers)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: BreakerTelemetry().attach("pkg.S/M"),  # type: ignore[arg-type]
        lambda: telemetry.attach(None),  # type: ignore[arg-type]
        lambda: BreakerTelemetry(tracer_provider="x"),  # type: ignore[arg-type]
        lambda: BreakerTelemetry(meter_provider=TracerProvider()),  # type: ignore[arg-type]
        lambda: BreakerTelemetry(logger_provider=7),
    ],
)
def test_wrong_objects(wrong: Any) -> None:
    """What is neither registry nor breaker, or is no provider, is an error at once."""
    with pytest.raises(
        TypeError, match=r"to a BreakerRegistry or a CircuitBreaker, got|provider must be an OpenTelemetry provider"
    ):
        wrong()


def fail(breaker: CircuitBreaker, context: object = None) -> None:
    """Open a breaker of plain code."""
    with pytest.raises(LookupError), breaker.admit(context=context):
        raise LookupError("gone")


def test_breaker_without_a_registry_is_reported(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    """A breaker without a registry has its log records, span events and metrics, once however often it is attached."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    mine = BreakerTelemetry(tracer_provider=tracers, meter_provider=meter.provider)
    breaker = CircuitBreaker("prices", BreakerPolicy(consecutive_failures=1), clock=FakeClock())
    capture = telemetry.attach(breaker, mine)
    assert capture is not None
    mine.attach(breaker)
    with breaker.admit():
        pass
    with tracers.get_tracer("test").start_as_current_span("causing"):
        fail(breaker, capture())
    breaker.try_admit()
    left = CircuitBreaker("left")
    mine.attach(left)
    left.admit()
    (record,) = caplog.records
    assert record.getMessage().endswith("last failure: LookupError gone")
    (span,) = exporter.get_finished_spans()
    assert (span.name, [event.name for event in span.events]) == ("causing", ["grpc_breaker.state_change"])
    assert (span.events[0].attributes or {})["error.type"] == "LookupError"
    read, name = meter.read(), "grpc_breaker.name=prices"
    assert read["grpc_breaker.state", name, "grpc_breaker.state=open"] == 1
    assert (
        read["grpc_breaker.state_changes", name, "grpc_breaker.state=open", "grpc_breaker.state.previous=closed"] == 1
    )
    assert read["grpc_breaker.calls.in_flight", "grpc_breaker.name=left"] == 1
    calls = {key[1:]: value for key, value in read.items() if key[0] == "grpc_breaker.calls" and name in key}
    assert calls == {
        (name, "grpc_breaker.outcome=success", "rpc.status_code=OK"): 1,
        ("error.type=LookupError", name, "grpc_breaker.outcome=failure"): 1,
        (name, "grpc_breaker.outcome=rejected", "grpc_breaker.refusal.reason=breaker"): 1,
    }


def test_counters_do_not_fall_when_a_breaker_is_gone(meter: Meter) -> None:
    """What a breaker without a registry counted is reported when it is gone, and telemetry does not keep it alive."""
    mine = BreakerTelemetry(meter_provider=meter.provider)
    breaker = CircuitBreaker("prices")
    mine.attach(breaker)
    breaker.admit().success()
    read, gone = meter.read(), weakref.ref(breaker)
    del breaker
    gc.collect()
    assert gone() is None
    calls = ("grpc_breaker.calls", "grpc_breaker.name=prices", "grpc_breaker.outcome=success", "rpc.status_code=OK")
    assert (read[calls], meter.read()[calls]) == (1, 1)


def test_breaker_attached_while_it_is_attached(meter: Meter) -> None:
    """A finalizer or signal handler may attach a breaker at any line of its being attached; it is counted once."""
    mine = BreakerTelemetry(meter_provider=meter.provider)
    for at in count(1):
        breaker = CircuitBreaker(f"at {at}")
        reached = act_at(FILES, partial(mine.attach, breaker), partial(mine.attach, breaker), at)
        breaker.admit().success()
        del breaker
        gc.collect()
        if not reached:
            break
    calls = [value for key, value in meter.read().items() if key[0] == "grpc_breaker.calls"]
    assert calls == [1] * at
    assert at > 5


def test_breaker_of_a_registry_is_not_reported_by_itself(breakers: BreakerRegistry) -> None:
    """A breaker of a registry is reported by that: attaching it alone is an error that says so."""
    with pytest.raises(ValueError, match=r"'pkg\.S/M' belongs to a registry; attach the registry"):
        telemetry.attach(breakers[METHOD])


def test_target_is_an_attribute_of_its_own(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    """Metrics and records of a target's breaker say the target beside the method; those of the others have none."""
    caplog.set_level(logging.INFO, "grpc_breaker")
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1), clock=FakeClock())
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    breakers[METHOD, "eu"].admit(METHOD).failure("UNAVAILABLE", "ill")
    breakers[METHOD].admit(METHOD).success()
    calls = [key for key, value in meter.read().items() if key[0] == "grpc_breaker.calls" and value]
    label = (f"grpc_breaker.name={METHOD}@eu", "grpc_breaker.outcome=failure", "grpc_breaker.target=eu")
    other = (f"grpc_breaker.name={METHOD}", "grpc_breaker.outcome=success")
    rpc = (f"rpc.method={METHOD}", "rpc.status_code=UNAVAILABLE")
    assert sorted(calls) == [
        ("grpc_breaker.calls", *other, rpc[0], "rpc.status_code=OK"),
        ("grpc_breaker.calls", *label, *rpc),
    ]
    (record,) = caplog.records
    assert vars(record)["grpc_breaker.target"] == "eu"


def test_group_has_no_method(meter: Meter) -> None:
    """A group's metrics carry its name, and no method."""
    breakers = BreakerRegistry(default=BreakerPolicy(group="prices"))
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    breakers[METHOD].admit()
    assert meter.read()["grpc_breaker.calls.in_flight", "grpc_breaker.name=prices"] == 1


def test_breaker_of_a_registry_that_is_gone_is_reported(meter: Meter) -> None:
    """The changes of a breaker that outlives its registry are reported; telemetry keeps no registry alive."""
    breakers = BreakerRegistry()
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    breaker = breakers[METHOD]
    del breakers
    breaker.force_open()
    assert any(key[0] == "grpc_breaker.state_changes" for key in meter.read())


def test_prometheus_reads_the_names_of_the_alert(breakers: BreakerRegistry) -> None:
    """With the Prometheus exporter the state reads as an alert on `grpc_breaker_state` would have it."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import REGISTRY, generate_latest

    others = ("grpc_breaker_state_changes", "grpc_breaker_state_start_time")
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    try:
        BreakerTelemetry(meter_provider=provider).attach(breakers)
        open_it(breakers)
        lines = [
            line for line in generate_latest(REGISTRY).decode().splitlines() if line.startswith("grpc_breaker_state")
        ]
        opened = [line for line in lines if 'grpc_breaker_state="open"' in line and not line.startswith(others)]
        assert len(opened) == 1
        assert f'grpc_breaker_name="{METHOD}"' in opened[0]
        assert opened[0].endswith(" 1.0")
    finally:
        provider.shutdown()


def test_one_log_record_for_each_change(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Each change is one log record, a warning when it opens, with its facts as attributes."""
    caplog.set_level(logging.INFO, "grpc_breaker")
    BreakerTelemetry().attach(breakers)
    open_it(breakers)
    breakers[METHOD].reset()
    opened, closed = caplog.records
    assert (opened.levelname, closed.levelname) == ("WARNING", "INFO")
    assert opened.getMessage().startswith(
        "circuit breaker pkg.S/M: closed -> open (consecutive_failures); 2 of 2 calls failed, next probe in 1"
    )
    assert closed.getMessage() == "circuit breaker pkg.S/M: open -> closed (reset)"
    facts = vars(opened)
    assert facts["event"] == "grpc_breaker.state_change"
    assert (facts["grpc_breaker.name"], facts["grpc_breaker.state"]) == (METHOD, "open")
    assert facts["rpc.status_code"] == "UNAVAILABLE"


def test_record_is_logged_in_the_context_of_the_causing_call(breakers: BreakerRegistry) -> None:
    """The log record of a change is made in the trace of the call that caused it, like the span event."""
    BreakerTelemetry().attach(breakers)
    seen: list[trace.Span] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(trace.get_current_span())  # type: ignore[method-assign]
    tracer = TracerProvider().get_tracer("test")
    causing, another = tracer.start_span("causing"), tracer.start_span("another")
    logging.getLogger("grpc_breaker").addHandler(handler)
    try:
        with trace.use_span(another):
            open_it(breakers, trace.set_span_in_context(causing))
            breakers[METHOD].force_open()
            assert trace.get_current_span() is another
    finally:
        logging.getLogger("grpc_breaker").removeHandler(handler)
    assert seen == [causing, trace.INVALID_SPAN]


def test_registries_leave_nothing_behind() -> None:
    """The counts of registries that are gone are added up, also where nobody reads the metrics: they fill no memory."""
    shared = BreakerTelemetry()

    def come_and_go(numbers: range) -> None:
        for _ in numbers:
            breakers = BreakerRegistry()
            shared.attach(breakers)
            breakers[METHOD].admit().success()

    # as many are kept apart again: they are added up 99 at a time
    grown = memory_grown(come_and_go, range(150), range(198))
    assert grown < 20_000


def test_interceptor_made_in_the_middle(breakers: BreakerRegistry, meter: Meter) -> None:
    """A finalizer or signal handler may make an interceptor while telemetry attaches, reports or is read, at any line."""
    shared = BreakerTelemetry(meter_provider=meter.provider)

    def story() -> None:
        shared.attach(breakers)
        CircuitBreakerInterceptor(BreakerRegistry())
        open_it(breakers)
        breakers[METHOD].reset()
        meter.read()

    for at in count(1):
        if not act_at(FILES, story, CircuitBreakerInterceptor, at):
            break
    assert at > 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_child_of_a_busy_moment_attaches() -> None:
    """A child that was forked while another thread attached telemetry, at whatever line of it, attaches its own."""

    def pause() -> None:
        reached.set()
        go_on.wait(PATIENCE)

    def attach() -> None:
        act_at(FILES, lambda: shared.attach(BreakerRegistry()), pause, at)
        reached.set()
        ended.append(at)

    def child() -> bool:
        CircuitBreakerInterceptor()
        return True

    ended: list[int] = []
    shared = BreakerTelemetry()
    for at in range(1, 60, 3):
        reached, go_on = threading.Event(), threading.Event()
        thread = threading.Thread(target=attach)
        thread.start()
        assert reached.wait(PATIENCE)
        paused = at not in ended
        try:
            assert in_child(child)
        finally:
            go_on.set()
            thread.join(PATIENCE)
        if not paused:
            break
    assert len(ended) > 3


def spans() -> tuple[TracerProvider, InMemorySpanExporter]:
    """A tracer provider, and what it exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


@pytest.mark.parametrize("ends", ["before the event", "after the event"])
def test_span_that_ends_meanwhile(
    breakers: BreakerRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ends: str
) -> None:
    """A change is reported once when another thread ends its span just before or just after the event is added."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    span: Any = tracers.get_tracer("test").start_span("call")
    add_event = span.add_event

    def add(*event: Any) -> None:
        if ends == "before the event":
            span.end()
        add_event(*event)
        span.end()

    monkeypatch.setattr(span, "add_event", add)
    BreakerTelemetry(tracer_provider=tracers).attach(breakers)
    open_it(breakers, trace.set_span_in_context(span))
    holders = {ended.name: len(ended.events) for ended in exporter.get_finished_spans()}
    if ends == "before the event":
        assert holders == {"call": 0, "grpc_breaker.state_change": 1}
    else:
        assert holders == {"call": 1}
    caplog.clear()


def test_log_events_instead_of_span_events(breakers: BreakerRegistry) -> None:
    """With `events="log"` a change arrives as a log event, correlated with the causing call's span; no span event."""
    pytest.importorskip("opentelemetry.sdk._logs")
    if not has_log_events():
        pytest.skip("this opentelemetry-api has no log events")
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    receiver = Receiver()
    provider, exporter = spans()
    logger_provider = LoggerProvider()
    logger_provider.add_log_record_processor(
        SimpleLogRecordProcessor(OTLPLogExporter(endpoint=receiver.endpoint, insecure=True))
    )
    BreakerTelemetry(events="log", tracer_provider=provider, logger_provider=logger_provider).attach(breakers)
    with provider.get_tracer("test").start_as_current_span("application") as span:
        context = trace.set_span_in_context(span)
        open_it(breakers, context)
    breakers[METHOD].reset()
    logger_provider.force_flush()
    opened, closed = receiver.logs
    assert opened.event_name == "grpc_breaker.state_change"
    assert opened.severity_text == "WARN"
    assert closed.severity_text == "INFO"
    assert attributes(opened)["grpc_breaker.state"] == "open"
    assert opened.span_id == span.get_span_context().span_id.to_bytes(8, "big")
    assert not closed.span_id
    assert [event for span in exporter.get_finished_spans() for event in span.events] == []
    logger_provider.shutdown()
    receiver.stop()


def has_log_events() -> bool:
    """Whether this API has them."""
    try:
        logs.LogRecord(event_name="test")
    except TypeError:
        return False
    return True


def test_api_without_log_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opentelemetry-api that has no log events is an error in words, where they are asked for."""

    class Old:
        def __init__(self, timestamp: int | None = None) -> None:
            pass

    monkeypatch.setattr(logs, "LogRecord", Old)
    with pytest.raises(RuntimeError, match=r"events='log' needs opentelemetry-api 1.35 or newer"):
        BreakerTelemetry(events="log")


def test_bad_switch() -> None:
    """Any other form of events is an error that says which there are."""
    with pytest.raises(ValueError, match="events must be 'span' or 'log', got 'both'"):
        BreakerTelemetry(events="both")  # type: ignore[arg-type]


def test_telemetry_off(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """With `telemetry=False` no context is captured and nothing is reported."""
    caplog.set_level(logging.DEBUG, "grpc_breaker")
    events = EventRecorder(breakers)
    interceptor = CircuitBreakerInterceptor(breakers, telemetry=False)
    open_it(breakers)
    refused = interceptor.intercept_unary_unary(lambda details, request: None, SimpleNamespace(method=METHOD), b"")
    assert isinstance(refused, CircuitOpenError)
    assert [rejection.context for rejection in events.rejections] == [None]
    assert not caplog.records


def test_telemetry_on_by_default(caplog: pytest.LogCaptureFixture) -> None:
    """Without an SDK telemetry is on, and writes to the log alone; every interceptor shares the default."""
    breakers = BreakerRegistry()
    for _ in range(2):
        CircuitBreakerInterceptor(breakers)
    for _ in range(5):
        breakers[METHOD].admit().failure()
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("nothing_logged_yet")
def test_exporter_in_trouble_harms_nobody(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Telemetry that raises is logged once; the log record and the metrics are made all the same."""

    class Broken:
        def get_tracer(self, *arguments: Any, **more: Any) -> Any:
            return self

        def start_as_current_span(self, *arguments: Any, **more: Any) -> Any:
            raise OSError

    broken: Any = Broken()
    BreakerTelemetry(tracer_provider=broken).attach(breakers)
    breakers[METHOD].admit().success()
    for _ in range(2):
        breakers[METHOD].force_open()
        breakers[METHOD].reset()
    said = [record.levelname for record in caplog.records]
    assert said.count("ERROR") == 1
    assert said.count("WARNING") == 2


def test_interrupt_in_an_exporter_reaches_the_caller(breakers: BreakerRegistry, meter: Meter) -> None:
    """Ctrl-C in an exporter reaches the caller of the change, when the log and the metrics have it."""

    class Interrupted:
        def get_tracer(self, *arguments: Any, **more: Any) -> Any:
            return self

        def start_as_current_span(self, *arguments: Any, **more: Any) -> Any:
            raise KeyboardInterrupt

    interrupted: Any = Interrupted()
    BreakerTelemetry(tracer_provider=interrupted, meter_provider=meter.provider).attach(breakers)
    breakers[METHOD].admit().success()
    with pytest.raises(KeyboardInterrupt):
        breakers[METHOD].force_open()
    assert sum(value for key, value in meter.read().items() if key[0] == "grpc_breaker.state_changes") == 1


def test_metrics_show_what_parts_did(meter: Meter) -> None:
    """Refusals are counted by what refused the call, retries as such, and answers of fallbacks by their kind."""
    policy = MethodPolicy(max_concurrent_calls=1, rate_limit=RateLimit(1, burst=2), fallback=Fallback(constant=b"none"))
    breakers = BreakerRegistry({METHOD: policy}, clock=FakeClock())
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    with breakers[METHOD].admit(), pytest.raises(BulkheadFullError):
        breakers[METHOD].admit()
    breakers[METHOD].admit().success()
    with pytest.raises(RateLimitedError):
        breakers[METHOD].admit()
    _, _, stack = breakers.route(METHOD) or (None, None, None)
    assert stack is not None
    stack.count_retry()
    stack.count_fallback("constant")
    read = meter.read()
    for reason in ("bulkhead", "rate"):
        refused = ("grpc_breaker.outcome=rejected", f"grpc_breaker.refusal.reason={reason}")
        assert read["grpc_breaker.calls", *NAME, *refused, *RPC] == 1
    assert read["grpc_breaker.retries", *NAME, *RPC] == 1
    assert read["grpc_breaker.fallbacks", "grpc_breaker.fallback=constant", *NAME, *RPC] == 1
    assert not [key for key in read if key[0] == "grpc_breaker.calls" and "retry" in str(key) + "fallback" in str(key)]
    snapshot = breakers[METHOD].snapshot()
    assert snapshot["refusals"] == {"bulkhead": 1, "rate": 1}
    assert (snapshot["retries"], snapshot["fallbacks"]) == (1, {"constant": 1})
    assert snapshot["limits"] == {"max_concurrent_calls": 1, "calls_per_second": 1.0, "throttled_share": None}


def test_parts_are_noted_on_the_current_span() -> None:
    """A retry and the answer of a fallback are events on the span in which the call is made, if one records."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    breakers = BreakerRegistry({METHOD: MethodPolicy(fallback=Fallback(constant=b"none"))})
    BreakerTelemetry(tracer_provider=tracers).attach(breakers)
    _, _, stack = breakers.route(METHOD) or (None, None, None)
    assert stack is not None
    with tracers.get_tracer("test").start_as_current_span("checkout"):
        stack.count_retry()
        stack.count_fallback("constant")
    stack.count_retry()  # no span records
    (span,) = exporter.get_finished_spans()
    assert [event.name for event in span.events] == ["grpc_breaker.retry", "grpc_breaker.fallback"]
    assert (span.attributes or {})["grpc_breaker.fallback"] == "constant"
    assert dict(span.events[1].attributes or {})["rpc.method"] == METHOD


def test_trial_shows_as_one(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    """The change of a breaker that enforces nothing says so, and its refusals are counted as not enforced."""
    policy = BreakerPolicy(consecutive_failures=1, enforcement_percentage=0)
    breakers = BreakerRegistry({METHOD: policy}, clock=FakeClock())
    BreakerTelemetry(meter_provider=meter.provider).attach(breakers)
    breakers[METHOD].admit().ignore()
    breakers[METHOD].admit().failure("UNAVAILABLE")
    breakers[METHOD].admit().success()  # which an open breaker would refuse
    (record,) = caplog.records
    assert vars(record)["grpc_breaker.enforced"] is False
    calls = {key[2:]: value for key, value in meter.read().items() if key[0] == "grpc_breaker.calls"}
    assert calls["grpc_breaker.outcome=unenforced", "grpc_breaker.refusal.reason=breaker", *RPC] == 1
    assert calls["grpc_breaker.outcome=ignored", *RPC] == 1
