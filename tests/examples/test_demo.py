"""The demo: a real run of it, what it prints and exports, and how it checks itself."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the demo extra is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="the demo extra is not installed")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span

from examples.pricing import demo
from examples.pricing.demo_stage import STATE_CHANGE, Crowd, StateChanges, Terminal, percentile
from examples.pricing.switchboard import ServerError
from grpc_breaker import BreakerRegistry, State


class TracingBackend(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that are exported to it."""

    def __init__(self) -> None:
        """No spans yet."""
        self.spans: list[Any] = []

    def Export(self, request: ExportTraceServiceRequest, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        """Take spans."""
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return ExportTraceServiceResponse()


@dataclass(frozen=True, slots=True)
class Performance:
    """A finished run of the demo."""

    exit_code: int
    output: str
    errors: str
    spans: Sequence[Any]
    """What the tracing backend received."""


@pytest.fixture(scope="module")
def performance() -> Performance:
    """One fast run of the demo as a process, with a tracing backend beside it."""
    backend = TracingBackend()
    with ThreadPoolExecutor(2) as pool:
        collector = grpc.server(pool)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(backend, collector)  # type: ignore[no-untyped-call]
        port = collector.add_insecure_port("127.0.0.1:0")
        collector.start()
        arguments = ["--fast", "--otlp-endpoint", f"http://127.0.0.1:{port}"]
        command = [sys.executable, "-m", "examples.pricing.demo", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
        collector.stop(None).wait()
    return Performance(done.returncode, done.stdout, done.stderr, backend.spans)


def test_the_story_happens(performance: Performance) -> None:
    """The demo exits with 0, and names the states the breaker went through."""
    assert performance.exit_code == 0, performance.errors
    last = performance.output.splitlines()[-1]
    assert last.startswith("Its states: closed -> open -> half_open")
    assert "half_open -> open -> half_open" in last
    assert "half_open -> closed" in last


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("closed -> open", "failure_threshold"),
        ("open -> half_open", "reset_timeout"),
        ("half_open -> open", "probe_failed"),
        ("half_open -> closed", "probes_succeeded"),
    ],
)
def test_each_state_change_is_printed(performance: Performance, change: str, reason: str) -> None:
    """Each kind of state change is printed with its span event and what that says."""
    lines = performance.output.splitlines()
    (first, *_) = (number for number, line in enumerate(lines) if line.endswith(f" s  {change}"))
    assert lines[first + 1].split("  ")[-1] == f" span event {STATE_CHANGE} on span 'checkout with-a-breaker'"
    assert lines[first + 2].split() == [
        "grpc_breaker.name=pricing.v1.Pricing/GetPrice",
        f"grpc_breaker.reason={reason}",
    ]


def test_an_outage_is_met_with_a_receipt(performance: Performance) -> None:
    """Both checkouts show a receipt with last known prices, one because of the refusal, one of the deadline."""
    reasons = [line.strip() for line in performance.output.splitlines() if "because: " in line]
    assert len(reasons) == 2
    assert reasons[0].startswith("because: circuit breaker open for pricing.v1.Pricing/GetPrice; next probe in ")
    assert reasons[1].startswith("because: DEADLINE_EXCEEDED: ")
    assert performance.output.count("total: 27.95 EUR") == 2


def test_the_table_has_both_checkouts(performance: Performance) -> None:
    """The table shows both checkouts, and how many of their calls reached the failing service."""
    table = performance.output.partition("\n\nHow long customers waited")[2]
    rows = {row[: row.index(" breaker")]: row.split() for row in table.splitlines() if " ms " in row}
    assert set(rows) == {"with a", "without a"}
    assert int(rows["with a"][-1]) < int(rows["without a"][-1])


def test_no_colours_without_a_terminal(performance: Performance) -> None:
    """Output that goes to a file has no escape sequences."""
    assert "\x1b" not in performance.output


def test_spans_reach_a_tracing_backend(performance: Performance) -> None:
    """With `--otlp-endpoint` a tracing backend receives the span events that were printed, all of them."""
    exported = [event for span in performance.spans for event in span.events if event.name == STATE_CHANGE]
    assert len(exported) == performance.output.count(f"span event {STATE_CHANGE}")


@pytest.mark.parametrize(
    "states",
    [[], ["closed", "open"], ["closed", "open", "half_open", "closed"], ["closed", "open", "half_open", "open"]],
    ids=len,
)
def test_another_story_is_not_this_one(states: list[str]) -> None:
    """The demo fails if its breaker does not open, open again and close."""
    with pytest.raises(demo.StoryError, match="the span events show other changes of state"):
        demo.judge(states, {demo.WITH: 1, demo.WITHOUT: 2})


def test_a_busy_machine_is_no_other_story() -> None:
    """The demo does not fail if the breaker opens once more, before the outage or after it."""
    states = ["closed", "open", "half_open", "open", "half_open", "closed"]
    for once_more in (["closed", "open", "half_open", *states], [*states, "open"]):
        demo.judge(once_more, {demo.WITH: 1, demo.WITHOUT: 2})


def test_a_breaker_that_keeps_nothing_away_is_no_breaker() -> None:
    """The demo fails if as many calls reach the service with a breaker as without one."""
    states = ["closed", "open", "half_open", "open", "half_open", "closed"]
    demo.judge(states, {demo.WITH: 1, demo.WITHOUT: 2})
    with pytest.raises(demo.StoryError, match="kept no call"):
        demo.judge(states, {demo.WITH: 2, demo.WITHOUT: 2})


def test_a_story_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a breaker the demo exits with 1 and says which change of state was missing."""

    def no_breakers(*_: object, **__: object) -> BreakerRegistry:
        return BreakerRegistry(default=None)

    monkeypatch.setattr(demo, "BreakerRegistry", no_breakers)
    monkeypatch.setattr(demo, "EVENT_PATIENCE", 0.0)
    assert demo.main(["--fast"]) == 1
    reason = "the breaker did not go from closed to open within 0 s"
    assert capsys.readouterr().err == f"\nThe demo failed: {reason}.\n"


def test_a_server_that_does_not_start_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a pricing server the demo exits with 1 and says so."""

    def no_server() -> None:
        message = "the pricing server did not start: exit code 1"
        raise ServerError(message)

    monkeypatch.setattr(demo, "PricingServer", no_server)
    assert demo.main(["--fast"]) == 1
    assert "The demo failed: the pricing server did not start" in capsys.readouterr().err


def test_a_story_that_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends the demo in a few words, not in a traceback."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "perform", leave)
    assert demo.main(["--fast"]) == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"


def test_a_demo_that_is_left() -> None:
    """Ctrl-C at a terminal ends the demo and its server, without a traceback of either."""
    command = [sys.executable, "-m", "examples.pricing.demo"]
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs behind it
    try:
        demo = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, inherited)
    with demo as process:
        assert process.stdout is not None
        assert any("The pricing service works." in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=20)  # both have ended when nobody holds the pipes
    assert (process.returncode, "KeyboardInterrupt" in errors) == (130, False), errors
    assert "\nInterrupted.\n" in errors


@pytest.mark.parametrize(
    ("chosen", "used"), [({}, "ERROR"), ({"GRPC_VERBOSITY": "DEBUG"}, "DEBUG")], ids=["unset", "set"]
)
def test_c_core_writes_errors_only(chosen: dict[str, str], used: str) -> None:
    """The example limits what gRPC's C core writes to errors, before grpc is imported, unless the user has set it."""
    code = "import os, sys, examples.pricing; print(os.environ['GRPC_VERBOSITY'], 'grpc' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"} | chosen
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [used, "False"]


def test_events_are_printed_in_the_order_of_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """An event whose span ends early is printed after its predecessor; waits find later and later ones."""
    printer = StateChanges(Terminal())
    provider = TracerProvider()
    provider.add_span_processor(printer)
    tracer = provider.get_tracer(__name__)
    changes = [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    spans: list[Span] = []
    for sequence, (previous, state) in enumerate(changes, start=1):
        span = tracer.start_span(f"span {sequence}")
        attributes: dict[str, str | int] = {
            "grpc_breaker.sequence": sequence,
            "grpc_breaker.state.previous": previous,
            "grpc_breaker.state": state,
        }
        span.add_event(STATE_CHANGE, attributes)
        spans.append(span)
    for span in (spans[0], spans[2], spans[1]):
        span.end()
    provider.shutdown()
    assert not printer.wait_for(State.HALF_OPEN, State.OPEN, 0)
    assert printer.wait_for(State.OPEN, State.HALF_OPEN, 0)
    assert not printer.wait_for(State.CLOSED, State.OPEN, 0)
    assert printer.wait_for(State.HALF_OPEN, State.CLOSED, 0)
    assert printer.states == ["closed", "open", "half_open", "closed"]
    printed = [line for line in capsys.readouterr().out.splitlines() if "span event" in line]
    assert [line.rpartition(" ")[2] for line in printed] == ["1'", "2'", "3'"]


def test_a_terminal_has_colours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal gets colours, unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert Terminal().styled("open", "open") == "\x1b[31mopen\x1b[0m"
    monkeypatch.setitem(os.environ, "NO_COLOR", "1")
    assert Terminal().styled("open", "open") == "open"
    assert capsys.readouterr().out == ""


def test_every_customer_is_served() -> None:
    """Each checkout gets equally many customers, and those in a queue are served after the last has come."""
    enough = threading.Event()
    waiting = itertools.count(1)

    def slow() -> None:
        enough.wait(10)

    def quick() -> None:
        if next(waiting) == 10:
            enough.set()

    with Crowd({"slow": slow, "quick": quick}, per_second=1000, threads=1) as crowd:
        assert enough.wait(10)
    counts = Counter(visit.checkout for visit in crowd.visits)
    assert counts["slow"] == counts["quick"] >= 10


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.99, 4), (1.0, 4), (0.25, 1)])
def test_percentile(share: float, expected: float) -> None:
    """A percentile is the smallest value that at least the share of values does not exceed."""
    assert percentile([4, 1, 3, 2], share) == expected


def test_percentile_of_nothing() -> None:
    """Without values there is no percentile."""
    assert math.isnan(percentile([], 0.5))
