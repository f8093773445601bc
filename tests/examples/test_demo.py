"""The demo: a real run of it, what it prints and exports, and how it checks itself."""

from __future__ import annotations

import itertools
import math
import os
import re
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
from examples.pricing.shop import Item, Receipt
from examples.pricing.switchboard import ServerError
from grpc_breaker import State


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
    assert last.startswith("The states of its breaker for prices: closed -> open -> half_open")
    assert "half_open -> open -> half_open" in last
    assert "half_open -> closed" in last


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("closed -> open", "consecutive_failures"),
        ("open -> half_open", "reset_timeout"),
        ("half_open -> open", "probe_failed"),
        ("half_open -> closed", "probes_succeeded"),
    ],
)
def test_each_state_change_is_printed(performance: Performance, change: str, reason: str) -> None:
    """Each kind of state change is printed with its span event and what that says."""
    lines = performance.output.splitlines()
    (first, *_) = (number for number, line in enumerate(lines) if line.endswith(f" s  {change}"))
    assert lines[first + 1].split("  ")[-1] == f" span event {STATE_CHANGE} on span 'checkout guarded'"
    assert lines[first + 2].split() == [f"grpc_breaker.name={demo.GET_PRICE}", f"grpc_breaker.reason={reason}"]


def test_an_outage_is_met_with_a_receipt(performance: Performance) -> None:
    """In the outage the guarded checkout shows last known prices and bestsellers, and the bare one that it has no prices."""
    _, bare, guarded = re.split("The (?:guarded|bare) checkout prices the next basket in ", performance.output)
    assert "total: 27.95 EUR\n" in guarded
    assert guarded.count("  last known\n") == 2
    assert "bestsellers: milk-jug\n" in guarded
    assert bare.count("  price unavailable\n") == 2
    assert "because: DEADLINE_EXCEEDED: " in bare


def rows(performance: Performance, title: str) -> dict[str, list[str]]:
    """The rows of a table, by their first cell."""
    table = performance.output.partition(f"\n{title}\n\n")[2].partition("\n\n")[0]
    return {first: rest for first, *rest in (re.split(r" {2,}", row.strip()) for row in table.splitlines()[1:])}


def test_the_waits_are_shown(performance: Performance) -> None:
    """A table shows how long customers of either checkout waited, and that only the bare one had no prices for them."""
    table = rows(performance, demo.WAITS)
    assert list(table) == list(demo.PHASES)
    assert {row[2] for row in table.values()} == {"0"}
    assert int(table[demo.HANGS][5]) > 0


def test_what_each_part_did_is_shown(performance: Performance) -> None:
    """A table shows what each part did: fewer calls came, workers stayed free, and both fallbacks were given."""
    table = rows(performance, demo.PARTS)
    assert list(table) == ["retries", "last known prices", "bestsellers", "breakers", "bulkheads", "probe deadline"]
    assert int(table["last known prices"][1]) > 0
    assert int(table["bestsellers"][1]) > 0
    assert int(table["breakers"][1]) < int(table["breakers"][2])
    guarded, bare = (int(cell.split()[0]) for cell in table["bulkheads"][1:])
    allowed = sum(entry.get("bulkhead", {}).get("maxConcurrentCalls", 0) for entry in demo.CONFIG["methodConfig"])
    assert guarded <= allowed < bare == demo.WORKERS
    assert re.fullmatch(r"\d\.\d\d( \d\.\d\d)*", table["probe deadline"][1])


def test_no_colours_without_a_terminal(performance: Performance) -> None:
    """Output that goes to a file has no escape sequences."""
    assert "\x1b" not in performance.output


def test_spans_reach_a_tracing_backend(performance: Performance) -> None:
    """With `--otlp-endpoint` a tracing backend receives the span events, also those that are printed, all of them."""
    events = [event for span in performance.spans for event in span.events if event.name == STATE_CHANGE]
    names = [it.value.string_value for event in events for it in event.attributes if it.key == "grpc_breaker.name"]
    assert names.count(demo.GET_PRICE) == performance.output.count(f"span event {STATE_CHANGE}")
    assert set(names) == {demo.GET_PRICE, demo.GET_RECOMMENDATIONS}


STATES = ["closed", "open", "half_open", "open", "half_open", "closed"]
REACHED = {demo.GUARDED: 1, demo.BARE: 2}


@pytest.mark.parametrize(
    "states",
    [[], ["closed", "open"], ["closed", "open", "half_open", "closed"], ["closed", "open", "half_open", "open"]],
    ids=len,
)
def test_another_story_is_not_this_one(states: list[str]) -> None:
    """The demo fails if its breaker does not open, open again and close."""
    with pytest.raises(demo.StoryError, match="the span events show other changes of state"):
        demo.judge(states, REACHED, 0)


def test_a_busy_machine_is_no_other_story() -> None:
    """The demo does not fail if the breaker opens once more, before the outage or after it."""
    for once_more in (["closed", "open", "half_open", *STATES], [*STATES, "open"]):
        demo.judge(once_more, REACHED, 0)


def test_a_breaker_that_keeps_nothing_away_is_no_breaker() -> None:
    """The demo fails if as many calls reach the service with a breaker as without one."""
    demo.judge(STATES, REACHED, 0)
    with pytest.raises(demo.StoryError, match="kept no call"):
        demo.judge(STATES, {demo.GUARDED: 2, demo.BARE: 2}, 0)


def test_a_price_that_is_not_there_is_no_last_known_one() -> None:
    """The demo fails if the guarded checkout had no price for something."""
    with pytest.raises(demo.StoryError, match="the guarded checkout had no price, 3 times"):
        demo.judge(STATES, REACHED, 3)


def test_a_story_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a breaker the demo exits with 1 and says which change of state was missing."""
    without = [{key: it[key] for key in it if key != "circuitBreaker"} for it in demo.CONFIG["methodConfig"]]
    monkeypatch.setattr(demo, "CONFIG", {"methodConfig": without})
    monkeypatch.setattr(demo, "EVENT_PATIENCE", 0.0)
    assert demo.main(["--fast"]) == 1
    reason = "the breaker did not go from closed to open within 0 s"
    assert capsys.readouterr().err == f"\nThe demo failed: {reason}.\n"


def test_a_service_without_first_prices_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the first prices do not come the demo exits with 1 and says so."""
    monkeypatch.setattr(demo, "BASKET", (Item("yacht"),))
    assert demo.main(["--fast"]) == 1
    assert "The demo failed: the guarded checkout did not get the first prices" in capsys.readouterr().err


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
    """An event whose span ends early is printed after its predecessor, and none of another breaker; waits find later ones."""
    printer = StateChanges(Terminal(), "here")
    provider = TracerProvider()
    provider.add_span_processor(printer)
    tracer = provider.get_tracer(__name__)
    changes = [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    spans: list[Span] = []
    for sequence, (previous, state) in enumerate(changes, start=1):
        span = tracer.start_span(f"span {sequence}")
        attributes: dict[str, str | int] = {
            "grpc_breaker.name": "here",
            "grpc_breaker.sequence": sequence,
            "grpc_breaker.state.previous": previous,
            "grpc_breaker.state": state,
        }
        span.add_event(STATE_CHANGE, attributes)
        span.add_event(STATE_CHANGE, attributes | {"grpc_breaker.name": "elsewhere"})
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

    def slow() -> Receipt:
        enough.wait(10)
        return Receipt([])

    def quick() -> Receipt:
        if next(waiting) == 10:
            enough.set()
        return Receipt([])

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
