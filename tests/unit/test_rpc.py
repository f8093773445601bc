"""What gRPC means to a breaker: the verdict on an ended call."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import Any

import grpc
import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, EndedCall, Outcome, Permit
from grpc_breaker import _rpc as rpc
from grpc_breaker._core.checks import STATUS_NAMES
from grpc_breaker.testing import FakeClock

DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED


def test_status_names_are_grpcs() -> None:
    """The names the core knows are those of `grpc.StatusCode`."""
    assert {code.name for code in grpc.StatusCode} == STATUS_NAMES


def test_every_status_has_a_verdict() -> None:
    """No status is forgotten."""
    assert set(rpc._VERDICTS) == set(grpc.StatusCode)


@pytest.mark.parametrize(
    ("code", "details", "elapsed", "timeout", "outcome"),
    [
        (DEADLINE, "", 1.0, None, Outcome.FAILURE),
        (DEADLINE, "", 0.0, 0.0, Outcome.IGNORED),
        (DEADLINE, "", 0.0, -1.0, Outcome.IGNORED),
        (DEADLINE, "", 0.0, float("inf"), Outcome.IGNORED),
        (DEADLINE, "", 0.0, float("nan"), Outcome.IGNORED),
        (DEADLINE, "", 0.0, 7.1e9, Outcome.IGNORED),
        (DEADLINE, "", 0.0, 7e9, Outcome.FAILURE),
        (DEADLINE, "", 0.5, 0.5, Outcome.IGNORED),
        (DEADLINE, "", 0.4, 0.5, Outcome.FAILURE),
        (DEADLINE, "", 1.0, 1.0, Outcome.FAILURE),
        (grpc.StatusCode.INTERNAL, "Exception serializing request!", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.INTERNAL, "Exception deserializing response!", 0.0, None, Outcome.FAILURE),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.UNKNOWN, "Exception iterating requests!", 0.0, None, Outcome.IGNORED),
        (
            grpc.StatusCode.UNAVAILABLE,
            "Getting metadata from plugin failed with error: no token",
            0,
            None,
            Outcome.IGNORED,
        ),
        (grpc.StatusCode.UNAVAILABLE, "Illegal metadata", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", 0.0, None, Outcome.FAILURE),
        (
            grpc.StatusCode.UNAUTHENTICATED,
            "Established channel does not have a sufficient security level to transfer call credential.",
            0,
            None,
            Outcome.IGNORED,
        ),
        (grpc.StatusCode.UNAUTHENTICATED, "no token", 0.0, None, Outcome.SUCCESS),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (9 vs. 4)",
            0,
            None,
            Outcome.IGNORED,
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "received metadata size exceeds hard limit (value length 200000 vs. 16384)",
            0,
            None,
            Outcome.IGNORED,
        ),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Stream removed (received metadata size exceeds hard limit (value length 200000 vs. 16384))",
            0,
            None,
            Outcome.FAILURE,
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", 0.0, None, Outcome.FAILURE),
        (grpc.StatusCode.CANCELLED, "", 0.0, None, Outcome.FAILURE),
        (grpc.StatusCode.CANCELLED, "Locally cancelled by application!", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.CANCELLED, "Cancelled upon garbage collection!", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.CANCELLED, "Channel closed!", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.CANCELLED, "CANCELLED", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.CANCELLED, "Stream removed (Channel closed!)", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.INVALID_ARGUMENT, "Failed to create secure client channel", 0.0, None, Outcome.IGNORED),
        (grpc.StatusCode.UNKNOWN, "Failed to create channel to 'x':the target", 0.0, None, Outcome.IGNORED),
        *(
            (code, f"Received http2 header with status: {status}", 0.0, None, outcome)
            for code, status, outcome in (
                (grpc.StatusCode.UNAUTHENTICATED, 401, Outcome.IGNORED),
                (grpc.StatusCode.PERMISSION_DENIED, 403, Outcome.IGNORED),
                (grpc.StatusCode.UNIMPLEMENTED, 404, Outcome.FAILURE),
                (grpc.StatusCode.UNKNOWN, 413, Outcome.IGNORED),
                (grpc.StatusCode.INTERNAL, 431, Outcome.IGNORED),
                (grpc.StatusCode.UNAVAILABLE, 503, Outcome.FAILURE),
            )
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", 0.0, None, Outcome.SUCCESS),
    ],
)
def test_verdict(code: grpc.StatusCode, details: str, elapsed: float, timeout: float | None, outcome: Outcome) -> None:
    """A deadline too short, and what was made on this side, say nothing about the server."""
    assert rpc.verdict(BreakerPolicy(minimum_deadline=1.0), code, details, elapsed, timeout) is outcome


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "max connection age"),
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.CANCELLED, "the proxy restarts"),
        (DEADLINE, "Deadline Exceeded"),
    ],
)
def test_how_streams_end_when_all_is_well(code: grpc.StatusCode, details: str) -> None:
    """A stream that was answered, and is cut after more than the window's seconds, was served; one that is cut sooner
    has failed. One without an answer has failed, too, but where it was lost with its connection.
    """
    clock = FakeClock()
    silent = "ignored" if details in {"max connection age", "Stream removed (Socket closed)"} else "failure"
    for seconds, answered, outcome in (
        (30.5, True, "success"),
        (30.0, True, "failure"),
        (30.5, False, silent),
        (30.0, False, "failure"),
    ):
        breaker = CircuitBreaker("watch", BreakerPolicy(window_seconds=30), clock=clock)
        permit = breaker.admit(timed=False)
        if answered:
            permit.answered()
        clock.advance(seconds)
        rpc.settle(permit, code, details, timeout=60)
        assert breaker.tallies() == {(outcome, code.name): 1}


@pytest.mark.parametrize(
    ("code", "details", "answered", "counted"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", True, 1),
        (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer", True, 1),
        (grpc.StatusCode.UNAVAILABLE, "GOAWAY received; Error code: 11; Debug Text: too_many_pings", True, 1),
        (grpc.StatusCode.UNAVAILABLE, "Cancelling all calls", True, 1),
        (grpc.StatusCode.UNAVAILABLE, "max connection age", True, 1),
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)", False, 1),
        (grpc.StatusCode.UNAVAILABLE, "the service is ill", True, 4),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", True, 4),
        (grpc.StatusCode.UNAVAILABLE, "keepalive watchdog timeout", True, 4),
        (grpc.StatusCode.UNKNOWN, "Socket closed, says the handler", True, 4),
        (DEADLINE, "Deadline Exceeded", True, 4),
    ],
)
def test_streams_that_end_together(code: grpc.StatusCode, details: str, answered: bool, counted: int) -> None:
    """Of the streams that are lost with one connection, one counts; of those that fail by themselves, each."""
    breaker = CircuitBreaker("watch", BreakerPolicy(consecutive_failures=1000), clock=(clock := FakeClock()))
    streams = [breaker.admit(timed=False) for _ in range(4)]
    for stream in streams:
        if answered:
            stream.answered()
    clock.advance(1)
    for stream in streams:
        rpc.settle(stream, code, details, timeout=60)
    assert breaker.tallies().get(("failure", code.name)) == counted
    assert sum(breaker.tallies().values()) == 4


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.INTERNAL, "index out of range"),
        (grpc.StatusCode.UNKNOWN, "handler: Socket closed"),
        (grpc.StatusCode.DATA_LOSS, ""),
    ],
)
@pytest.mark.parametrize("answered", [False, True])
def test_long_stream_that_the_server_fails(code: grpc.StatusCode, details: str, answered: bool) -> None:
    """What a server says of itself counts, however long the stream was."""
    breaker = CircuitBreaker("watch", clock=(clock := FakeClock()))
    permit = breaker.admit(timed=False)
    if answered:
        permit.answered()
    clock.advance(86_400)
    rpc.settle(permit, code, details)
    assert breaker.tallies() == {("failure", code.name): 1}


def test_long_call_of_one_answer_that_is_lost_with_its_connection() -> None:
    """A call of one answer that took long and was lost was not served."""
    breaker = CircuitBreaker("report", clock=(clock := FakeClock()))
    permit = breaker.admit()
    clock.advance(86_400)
    rpc.settle(permit, grpc.StatusCode.UNAVAILABLE, "Socket closed")
    assert breaker.tallies() == {("failure", "UNAVAILABLE"): 1}


def test_long_stream_whose_end_the_policy_calls_a_failure() -> None:
    """What a policy says of a status holds for such streams, too."""
    policy = BreakerPolicy(verdicts={"DEADLINE_EXCEEDED": Outcome.FAILURE})
    breaker = CircuitBreaker("watch", policy, clock=(clock := FakeClock()))
    permit = breaker.admit(timed=False)
    permit.answered()
    clock.advance(86_400)
    rpc.settle(permit, DEADLINE, "Deadline Exceeded", timeout=86_400)
    assert breaker.tallies() == {("failure", "DEADLINE_EXCEEDED"): 1}


def test_own_verdicts_come_first() -> None:
    """A policy's own verdict beats every rule; the other statuses keep theirs."""
    policy = BreakerPolicy(verdicts={"NOT_FOUND": Outcome.FAILURE, "DEADLINE_EXCEEDED": Outcome.SUCCESS})
    assert rpc.verdict(policy, grpc.StatusCode.NOT_FOUND, "", 0, None) is Outcome.FAILURE
    assert rpc.verdict(policy, DEADLINE, "", 0, 0) is Outcome.SUCCESS
    assert rpc.verdict(policy, grpc.StatusCode.INTERNAL, "", 0, None) is Outcome.FAILURE


@pytest.mark.parametrize(
    ("code", "details", "at_once", "one_by_one"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", 1, 1),
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (GOAWAY received; Error code: 0)", 1, 1),
        (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer", 1, 1),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", 1, 1),
        (grpc.StatusCode.UNAVAILABLE, "the service is ill", 1, 3),
        (grpc.StatusCode.CANCELLED, "going away", 1, 3),
        (grpc.StatusCode.INTERNAL, "index out of range", 3, 3),
        (DEADLINE, "Deadline Exceeded", 3, 3),
        (grpc.StatusCode.CANCELLED, "Stream removed (retry perAttemptRecvTimeout exceeded)", 3, 3),
    ],
)
def test_what_one_incident_may_be(code: grpc.StatusCode, details: str, at_once: int, one_by_one: int) -> None:
    """Calls in flight at once that may have one cause are one failure in a row, and so are those that come while a lost
    connection is made again; calls that fail one after the other are so many.
    """
    clock = FakeClock()
    breaker = CircuitBreaker("test", BreakerPolicy(consecutive_failures=5), clock=clock)
    permits = [breaker.admit() for _ in range(3)]
    clock.advance(0.1)
    for permit in permits:
        rpc.settle(permit, code, details)
    assert breaker.snapshot()["window"]["consecutive_failures"] == at_once
    breaker.reset()
    for _ in range(3):
        permit = breaker.admit()
        clock.advance(0.05)
        rpc.settle(permit, code, details)
    assert breaker.snapshot()["window"]["consecutive_failures"] == one_by_one


@pytest.mark.parametrize(
    ("details", "counted"),
    [
        ("Stream removed (GOAWAY received; Error code: 0; Debug Text: bye)", 1),
        ("GOAWAY received; Error code: 0; Debug Text: ", 1),  # of older versions
        ("Stream removed (GOAWAY received; Error code: 11; Debug Text: bye)", 3),
        ("Stream removed (Socket closed (GOAWAY received; Error code: 0; Debug Text: bye))", 3),
        ("failed to connect to all addresses; last error: GOAWAY received; Error code: 0;", 3),
        ("Socket closed", 3),
    ],
)
def test_calls_that_a_server_never_took(details: str, counted: int) -> None:
    """Of the calls beyond the last that a server took before it ended a connection in good order, only the first counts
    in the window; where it was ill, or may have begun with the call, each does.
    """
    for words in (details, rpc.telling_words("UNAVAILABLE", details)):  # and the same in a record that is replayed
        clock = FakeClock()
        breaker = CircuitBreaker("test", clock=clock)
        permits = [breaker.admit() for _ in range(3)]
        clock.advance(0.1)
        for permit in permits:
            rpc.settle(permit, grpc.StatusCode.UNAVAILABLE, words)
        assert breaker.snapshot()["window"] == {
            "calls": counted,
            "failures": counted,
            "slow": 0,
            "consecutive_failures": 1,
        }


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ("Socket closed", [1, 2, 4, 8, 16]),
        *(
            (details, [1, 2, 4, 4, 4])
            for details in (
                "failed to connect to all addresses; last error: refused",
                "connections to all backends failing; last error: refused",
                "DNS resolution failed for nowhere",
                "errors resolving nowhere",
                "empty address list: ",
            )
        ),
    ],
)
def test_probes_that_reach_no_server(details: str, seconds: list[float]) -> None:
    """While probes fail on a channel without a connection, the open period stops to grow at four seconds."""
    clock = FakeClock()
    breaker = CircuitBreaker("test", BreakerPolicy(consecutive_failures=1, reset_timeout_jitter=0), clock=clock)
    breaker.admit().failure()
    waits = []
    for _ in seconds:
        waits.append(breaker.retry_after)
        clock.advance(breaker.retry_after)
        rpc.settle(breaker.admit(), grpc.StatusCode.UNAVAILABLE, details)
    assert waits == pytest.approx(seconds)


def permit_of(policy: BreakerPolicy | None = None) -> tuple[CircuitBreaker, Permit]:
    """A breaker and one call."""
    breaker = CircuitBreaker("test", policy, clock=FakeClock())
    return breaker, breaker.admit("pkg.Service/Method")


def counted(breaker: CircuitBreaker) -> dict[tuple[str, str], int]:
    """What was counted."""
    return breaker.tallies()


def test_classifier_sees_the_whole_call() -> None:
    """A classifier is given method, code, details, metadata, times and error, and what it returns counts."""
    seen: list[EndedCall] = []

    def classify(call: EndedCall) -> Outcome:
        seen.append(call)
        return Outcome.FAILURE

    breaker, permit = permit_of(BreakerPolicy(classify=classify))
    error = ValueError()
    rpc.settle(permit, grpc.StatusCode.ABORTED, b"fine\xff", [("k", "v")], 2.0, error)
    assert seen == [
        EndedCall(
            method="pkg.Service/Method",
            code=grpc.StatusCode.ABORTED,
            details="fine\ufffd",
            trailing_metadata=(("k", "v"),),
            elapsed=0.0,
            timeout=2.0,
            error=error,
        )
    ]
    assert counted(breaker) == {("failure", "ABORTED"): 1}


@pytest.mark.parametrize(("returned", "outcome"), [(None, "success"), (Outcome.IGNORED, "ignored"), ("bad", "failure")])
def test_what_a_classifier_returns(returned: Any, outcome: str, caplog: pytest.LogCaptureFixture) -> None:
    """`None` keeps the default verdict; what is no outcome is a failure, said once in the log."""
    breaker, permit = permit_of(BreakerPolicy(classify=lambda call: returned))
    rpc.settle(permit, grpc.StatusCode.NOT_FOUND)
    assert counted(breaker) == {(outcome, "NOT_FOUND"): 1}
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (returned == "bad")
    if returned == "bad":
        assert "<lambda>:" in said[0]
        assert said[0].endswith("ed str, not an Outcome or None; the call counts as a failure (logged once)")
        assert caplog.records[0].exc_info in {None, False}


def test_classifier_that_raises_is_a_failure_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A classifier that raises makes the call a failure and is logged once, with its place."""

    def broken(call: EndedCall) -> Outcome:
        raise LookupError(call.method)

    breaker, permit = permit_of(BreakerPolicy(classify=broken))
    rpc.settle(permit, grpc.StatusCode.OK)
    rpc.settle(breaker.admit(), grpc.StatusCode.OK)
    assert counted(breaker) == {("failure", "OK"): 2}
    assert len(caplog.records) == 1
    assert "broken:" in caplog.text


def test_code_that_is_no_code_is_ignored() -> None:
    """A call whose status is no status says nothing."""
    breaker, permit = permit_of()
    rpc.settle(permit, 14)
    assert counted(breaker) == {("ignored", ""): 1}


class Unprintable:
    """Metadata or details of somebody's own."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_trouble_while_judging_gives_the_permit_back(caplog: pytest.LogCaptureFixture) -> None:
    """A call that cannot be judged is ignored, and the trouble logged once."""
    breaker, permit = permit_of()
    rpc.settle(permit, grpc.StatusCode.INTERNAL, Unprintable())
    assert counted(breaker) == {("ignored", ""): 1}
    assert "judging an ended call failed" in caplog.text


class Stop(BaseException):
    """What is no `Exception`, as Ctrl-C is none."""


def test_classifier_that_is_interrupted() -> None:
    """What interrupts a classifier goes on to the caller, and the permit comes back."""

    def interrupted(call: EndedCall) -> Outcome:
        raise Stop

    breaker, permit = permit_of(BreakerPolicy(classify=interrupted))
    with pytest.raises(Stop):
        rpc.settle(permit, grpc.StatusCode.OK)
    assert counted(breaker) == {("ignored", ""): 1}


class Failed(grpc.RpcError):
    """An RPC error with a status."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "gone"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Failed(), {("failure", "UNAVAILABLE"): 1}),
        (grpc.RpcError(), {("ignored", ""): 1}),
        (ValueError(), {("ignored", ""): 1}),
        (KeyboardInterrupt(), {("ignored", ""): 1}),
    ],
)
def test_what_was_raised(error: BaseException, expected: dict[tuple[str, str], int]) -> None:
    """A raised RPC error counts by its status; everything else was made on this side."""
    breaker, permit = permit_of()
    rpc.settle_raised(permit, error, None)
    assert counted(breaker) == expected


def test_classifier_sees_the_metadata_of_what_was_raised() -> None:
    """An RPC error that was raised shows a classifier its trailing metadata."""
    seen: list[EndedCall] = []
    _, permit = permit_of(BreakerPolicy(classify=seen.append))  # type: ignore[arg-type]

    class FailedWithMetadata(Failed):
        def trailing_metadata(self) -> Any:
            return [("k", "v")]

    rpc.settle_raised(permit, FailedWithMetadata(), None)
    assert [call.trailing_metadata for call in seen] == [(("k", "v"),)]


def test_giving_back_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Trouble while giving a permit back is logged, not raised."""
    rpc.give_back(None)  # type: ignore[arg-type]
    assert "giving a permit back failed" in caplog.text


def test_asking_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A call whose details have no method goes on unguarded."""
    assert rpc.Guard(BreakerRegistry()).admit(object(), True) is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize(
    ("timeout", "expected"), [(1, 1), (0.5, 0.5), (Fraction(1, 4), 0.25), (None, None), ("soon", None)]
)
def test_timeout_of_odd_details(timeout: Any, expected: float | None) -> None:
    """A timeout that is no number is none; so are details without one."""

    class Details:
        pass

    details = Details()
    assert rpc.timeout_of(details) is None
    details.timeout = timeout  # type: ignore[attr-defined]
    assert rpc.timeout_of(details) == expected


def test_timeout_that_raises() -> None:
    """Details of another interceptor that raise when asked have no timeout: asking must not cost the call."""

    class Details:
        @property
        def timeout(self) -> float:
            raise RuntimeError

    assert rpc.timeout_of(Details()) is None


@pytest.mark.parametrize(
    ("timeout", "lease"),
    [(1, 6.0), (0.5, 5.5), (0, 5.0), (-1.0, None), (float("nan"), None), (1e300, None), ("soon", None), (None, None)],
)
def test_lease_of_a_call(timeout: Any, lease: float | None) -> None:
    """A call's permit is out until five seconds after its deadline at the latest, if it has one that may yet pass."""
    clock = FakeClock()
    breakers = BreakerRegistry(clock=clock)
    details = type("Details", (), {"method": "/pkg.S/M", "timeout": timeout})()
    assert isinstance(rpc.Guard(breakers).admit(details, True), Permit)
    clock.advance((1e9 if lease is None else lease) - 0.1)
    assert breakers["pkg.S/M"].in_flight == 1
    clock.advance(0.2)
    assert breakers["pkg.S/M"].in_flight == (lease is None)


def test_odd_timeout_costs_no_guard() -> None:
    """A call whose details raise when they are asked for a timeout is guarded all the same."""

    class Details:
        method = "/pkg.S/M"

        @property
        def timeout(self) -> float:
            raise RuntimeError

    breakers = BreakerRegistry()
    assert isinstance(rpc.Guard(breakers).admit(Details(), True), Permit)


@pytest.mark.parametrize("wrong", [BreakerPolicy(), {}, "registry"])
def test_registry_of_the_wrong_kind(wrong: Any) -> None:
    """An interceptor made with something else than a registry is an error at once."""
    with pytest.raises(TypeError, match="breakers must be a BreakerRegistry or None, got"):
        rpc.check_registry(wrong)
