"""What a server says of an error in its trailing metadata, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from grpc_breaker import BreakerPolicy, CircuitBreaker, EndedCall, Outcome
from grpc_breaker import _error_details as error_details
from grpc_breaker import _rpc as rpc
from grpc_breaker.testing import FakeClock

ABORTED = grpc.StatusCode.ABORTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(autouse=True)
def _imported_anew() -> Iterator[None]:
    """Each test imports the messages of the details by itself."""
    error_details._classes.cache_clear()
    yield
    error_details._classes.cache_clear()


def details(*messages: Any) -> list[tuple[str, Any]]:
    """Trailing metadata with details."""
    status = status_pb2.Status(code=10, message="no")
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)
        status.details.append(packed)
    return [("server", "echo"), ("grpc-status-details-bin", status.SerializeToString())]


def info(reason: str) -> Any:
    """The details that give a reason."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="example.com")


def retry_info(seconds: float) -> Any:
    """The details that say when to come back."""
    delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(1e9 * (seconds % 1)))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def pushback(said: Any) -> list[tuple[str, Any]]:
    """Trailing metadata that says when to come back."""
    return [("server", "echo"), ("grpc-retry-pushback-ms", said)]


MALFORMED = [("grpc-status-details-bin", b"\xff\xff")]
NOT_UNPACKED = [
    (
        "grpc-status-details-bin",
        status_pb2.Status(
            details=[
                any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff"),
                any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff"),
            ]
        ).SerializeToString(),
    )
]
ODD = [None, (), 7, [7], ["abc"], MALFORMED, NOT_UNPACKED]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("0", 0.0),
        ("1500", 1.5),
        ("-1", -1.0),
        ("soon", -1.0),
        ("1_0", -1.0),
        ("", -1.0),
        ("9" * 12, 999_999_999.999),
        ("9" * 13, -1.0),
        ("9" * 40, -1.0),
        (b"15", -1.0),
    ],
)
def test_pushback(said: Any, seconds: float) -> None:
    """A pushback is a number of milliseconds; whatever else stands there says not to come back."""
    assert error_details.pushback(pushback(said)) == seconds


@pytest.mark.parametrize("trailing", ODD)
def test_odd_metadata(trailing: Any) -> None:
    """Where nothing is said, or nothing that can be read, there is no pushback, no reason and no time."""
    assert error_details.pushback(trailing) is None
    assert error_details.error_reasons(trailing) == []
    assert error_details.period_asked_for(trailing) is None


def test_status_details_of_a_call() -> None:
    """A classifier reads the details of an error; a call without any, or with what cannot be read, has none."""
    reasons = []

    def classify(call: EndedCall) -> Outcome | None:
        if call.status_details is None:
            return None
        for packed in call.status_details.details:
            found = error_details_pb2.ErrorInfo()
            if packed.Unpack(found):
                reasons.append(found.reason)
        return Outcome.IGNORED

    breaker = CircuitBreaker("test", BreakerPolicy(classify=classify), clock=FakeClock())
    for trailing in (details(info("QUOTA"), retry_info(1)), (), MALFORMED):
        rpc.settle(breaker.admit(), ABORTED, "no", trailing)
    assert reasons == ["QUOTA"]
    assert breaker.tallies() == {("ignored", "ABORTED"): 1, ("success", "ABORTED"): 2}


def by_reason() -> CircuitBreaker:
    """A breaker with verdicts by reason and by status."""
    verdicts = {"reason:TENANT_QUOTA": Outcome.IGNORED, "reason:DOWN": Outcome.FAILURE, "ABORTED": Outcome.SUCCESS}
    return CircuitBreaker("test", BreakerPolicy(verdicts=verdicts), clock=FakeClock())


@pytest.mark.parametrize(
    ("trailing", "outcome"),
    [
        (details(info("TENANT_QUOTA")), "ignored"),
        (details(info("DOWN")), "failure"),
        (details(retry_info(1), info("UNKNOWN"), info("DOWN")), "failure"),
        (details(info("UNKNOWN")), "success"),
        ((), "success"),
        *((odd, "success") for odd in ODD),
    ],
)
def test_verdict_by_reason(trailing: Any, outcome: str) -> None:
    """The reason of an error beats its status; where it is not named, or cannot be read, the status counts."""
    breaker = by_reason()
    rpc.settle(breaker.admit(), ABORTED, "no", trailing)
    assert breaker.tallies() == {(outcome, "ABORTED"): 1}


def test_reasons_are_read_only_where_they_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no verdict is by reason, the details of an error are not read."""
    monkeypatch.setitem(sys.modules, "google.rpc.error_details_pb2", None)
    asked = []
    monkeypatch.setattr(rpc, "error_reasons", asked.append)
    breaker = CircuitBreaker("test", BreakerPolicy(verdicts={"ABORTED": Outcome.FAILURE}), clock=FakeClock())
    rpc.settle(breaker.admit(), ABORTED, "no", details(info("DOWN")))
    assert (asked, breaker.tallies()) == ([], {("failure", "ABORTED"): 1})


@pytest.mark.parametrize("error", [ImportError, TypeError])
def test_messages_that_are_not_installed(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the messages are not installed there are no details; where they cannot be imported, that is logged once."""

    class Failing(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise error

    module = None if error is ImportError else Failing("error_details_pb2")
    monkeypatch.setitem(sys.modules, "google.rpc.error_details_pb2", module)
    breaker = by_reason()
    for _ in range(2):
        rpc.settle(breaker.admit(), ABORTED, "no", details(info("DOWN")))
        assert error_details.status_details(details(info("DOWN"))) is None
        assert error_details.period_asked_for(details(retry_info(5))) is None
        assert error_details.error_reasons(details(info("DOWN"))) == []
        error_details._classes.cache_clear()
    assert breaker.tallies() == {("success", "ABORTED"): 2}
    assert len(caplog.records) == (error is TypeError)


@pytest.mark.parametrize(
    ("trailing", "seconds"),
    [
        (pushback("30000"), 30.0),
        ([*details(retry_info(50)), *pushback("30000")], 30.0),
        (details(info("DOWN"), retry_info(20.5)), 20.5),
        (details(retry_info(0), retry_info(20)), 20.0),
        (details(info("DOWN")), 1.0),
        (details(retry_info(0.25)), 1.0),
        (pushback("-1"), 1.0),
        (pushback("0"), 1.0),
        (details(retry_info(500)), 60.0),
        *((odd, 1.0) for odd in ODD),
    ],
)
def test_pushback_as_open_period(trailing: Any, seconds: float) -> None:
    """A breaker stays open for as long as the call that opened it was told to stay away, if that is longer than it would."""
    policy = BreakerPolicy(consecutive_failures=1, reset_timeout_jitter=0)
    breaker = CircuitBreaker("test", policy, clock=FakeClock())
    rpc.settle(breaker.admit(), UNAVAILABLE, "ill", trailing)
    assert breaker.retry_after == pytest.approx(seconds)


def test_pushback_of_a_call_that_opens_nothing() -> None:
    """What other calls were told does not matter: an answer, and a failure that leaves the breaker closed."""
    policy = BreakerPolicy(consecutive_failures=2, reset_timeout_jitter=0)
    breaker = CircuitBreaker("test", policy, clock=FakeClock())
    rpc.settle(breaker.admit(), UNAVAILABLE, "ill", pushback("30000"))
    rpc.settle(breaker.admit(), UNAVAILABLE, "ill")
    assert breaker.retry_after == pytest.approx(1.0)


def test_details_of_a_call_that_a_test_makes() -> None:
    """A classifier can be tested with calls made by hand: their details are read, too."""
    call = EndedCall(
        method="pkg.S/M",
        code=ABORTED,
        details="no",
        trailing_metadata=tuple(details(info("DOWN"))),
        elapsed=0.0,
        timeout=None,
        error=None,
    )
    assert call.status_details.message == "no"
