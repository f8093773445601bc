"""Events as data: copied, pickled and written to a log, also after telemetry has put a trace context on their calls."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import pickle
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider

from grpc_breaker import BreakerPolicy, BreakerRegistry, StateChange
from grpc_breaker.telemetry import BreakerTelemetry
from grpc_breaker.testing import EventRecorder

METHOD = "pkg.S/M"


def change_in_a_span() -> tuple[StateChange, trace.Span]:
    """A change caused by a call inside a recording span, whose context was captured as the interceptors do."""
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))
    BreakerTelemetry().attach(breakers)
    events = EventRecorder(breakers)
    with TracerProvider().get_tracer("test").start_as_current_span("call") as span:
        breakers[METHOD].admit(METHOD, context.get_current()).failure("UNAVAILABLE", "gone")
    (change,) = events.changes
    return change, span


def test_event_keeps_the_context_of_its_call() -> None:
    """A listener of a change finds the trace context of the call that caused it."""
    change, span = change_in_a_span()
    assert isinstance(change.context, context.Context)
    assert trace.get_current_span(change.context) is span


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        *(lambda it, n=n: pickle.loads(pickle.dumps(it, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
)
def test_event_can_be_copied(copied: Any) -> None:
    """A change that was caused inside a recording span can be copied and pickled, with all its facts."""
    change, _ = change_in_a_span()
    again = copied(change)
    assert again == change
    assert (again.last_failures, again.reason, hash(again)) == (change.last_failures, change.reason, hash(change))


def test_event_is_a_dictionary_of_plain_data() -> None:
    """`dataclasses.asdict` of a change that was caused inside a recording span is ready for JSON."""
    change, _ = change_in_a_span()
    plain = json.loads(json.dumps(dataclasses.asdict(change)))
    assert (plain["method"], plain["state"], plain["last_failures"]) == (
        METHOD,
        "open",
        [{"status": "UNAVAILABLE", "details": "gone"}],
    )


RAW = "\n\r\x1b[31m\0\x85\u2028"


@pytest.mark.parametrize("raw", [*RAW, RAW])
def test_log_record_is_one_line_of_printable_text(raw: str, caplog: pytest.LogCaptureFixture) -> None:
    """No control character of a method's name, or of what a server sent as details, is written to the log."""
    caplog.set_level(logging.INFO, "grpc_breaker")
    breakers = BreakerRegistry(default=BreakerPolicy(consecutive_failures=1))
    BreakerTelemetry().attach(breakers)
    breaker = breakers.breaker_for(f"/pkg.S/{raw}M")
    assert breaker is not None
    breaker.admit(f"pkg.S/{raw}M").failure("UNAVAILABLE", f"gone{raw}away")
    breaker.reset()
    breaker.force_open()
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert record.getMessage().isprintable()
        said = [value for name, value in vars(record).items() if name.startswith(("grpc_breaker.", "rpc."))]
        words = [
            it for value in said for it in (value if isinstance(value, tuple) else (value,)) if isinstance(it, str)
        ]
        assert words
        assert all(it.isprintable() for it in words)
