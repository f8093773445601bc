"""The parts around the breaker where no real server leads: odd details, odd errors, trouble in our own bookkeeping."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import descriptor_pb2

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    Fallback,
    LastGood,
    MethodPolicy,
    RetryPolicy,
    aio,
)
from grpc_breaker import _stack as rules
from grpc_breaker._core.last_good import LastGoodAnswers
from grpc_breaker._core.stack import Stack
from grpc_breaker.testing import FakeClock

METHOD = "/pkg.S/M"
RETRY = MethodPolicy(retry=RetryPolicy(retryable_status_codes=("UNAVAILABLE", "INTERNAL", "CANCELLED")))


class Error(grpc.RpcError):
    """An RPC's error of somebody's own making, with some of its facts."""

    def __init__(self, code: Any = grpc.StatusCode.UNAVAILABLE, details: Any = "ill", trailing: Any = ()) -> None:
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailing


class Facts(NamedTuple):
    """Call details as a named tuple."""

    method: str
    timeout: float | None
    metadata: Any


class Few(NamedTuple):
    """Call details that leave out nearly everything."""

    method: str


# ── Details ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("timeout", "attempt_timeout", "given", "first"),
    [
        (None, None, None, None),
        (None, None, 3.0, 3.0),
        (5.0, None, None, 5.0),
        (None, 4.0, None, 4.0),
        (5.0, 4.0, None, 4.0),
        (4.0, 5.0, None, 4.0),
        (4.0, 5.0, 3.0, 3.0),
        (5.0, 4.0, 7.0, 4.0),
        (5.0, None, -1.0, -1.0),
    ],
)
def test_time_of_a_first_attempt(
    timeout: float | None, attempt_timeout: float | None, given: float | None, first: float | None
) -> None:
    """The shortest of the times of the caller, the call and the attempt counts; what the caller gave is not replaced."""
    chosen = rules.first_timeout(MethodPolicy(timeout=timeout, attempt_timeout=attempt_timeout), given)
    assert chosen == first
    assert (chosen is given) == (first == given)


@pytest.mark.parametrize("kind", [grpc._interceptor._ClientCallDetails, grpc.aio.ClientCallDetails])
def test_details_of_grpcios(kind: Any) -> None:
    """Details of grpcio's own stay of their class, and differ in the timeout alone."""
    details = kind(*range(len(kind._fields)))
    changed = rules.with_timeout(details, 9.0)
    assert type(changed) is kind
    assert changed == details._replace(timeout=9.0)


def test_shortest_of_two_times() -> None:
    """`None` is the longest time."""
    assert [rules.shortest(*times) for times in ((None, None), (1.0, None), (None, 2.0), (3.0, 2.0))] == [
        None,
        1.0,
        2.0,
        2.0,
    ]


def test_details_that_are_a_named_tuple() -> None:
    """A named tuple stays one of its class."""
    changed = rules.changed(Facts(METHOD, None, None), timeout=2.0)
    assert changed == Facts(METHOD, 2.0, None)
    assert type(changed) is Facts


@pytest.mark.parametrize("details", [Few(METHOD), (METHOD,), SimpleNamespace(method=METHOD)])
def test_details_without_the_field(details: Any) -> None:
    """Details of other classes get the field beside what they have; what they leave out stays out."""
    changed = rules.changed(details, timeout=2.0)
    assert changed.timeout == 2.0
    assert getattr(changed, "method", METHOD) == METHOD
    assert not hasattr(changed, "metadata")
    assert not hasattr(changed, "_replace")
    assert copy.copy(changed).timeout == 2.0


def test_changes_of_changes() -> None:
    """What was changed before stays, unless it is changed again."""
    changed = rules.changed(rules.changed(SimpleNamespace(method=METHOD), timeout=2.0), metadata=(("a", "b"),))
    assert (changed.method, changed.timeout, changed.metadata) == (METHOD, 2.0, (("a", "b"),))


def test_probe_whose_details_cannot_be_changed(caplog: pytest.LogCaptureFixture) -> None:
    """Where shortening a probe's deadline fails, it keeps its caller's; logged once."""
    breaker = CircuitBreaker("test", BreakerPolicy(consecutive_failures=1, probe_deadline=1), clock=FakeClock())

    class Odd(tuple[Any, ...]):
        __slots__ = ()
        _fields = ("timeout",)

        @property
        def _replace(self) -> Any:
            raise LookupError

    details = Odd()
    for _ in range(2):
        assert rules.for_probe(breaker.admit(), details) is details
    assert len(caplog.records) == 1


# ── Retries ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def attempts(deadline: float | None = None, details: Any = None) -> rules.Attempts:
    """The attempts of a call whose first one has failed."""
    return rules.Attempts(Stack("pkg.S/M", RETRY, random=lambda: 0.5), RETRY, details, 0.0, deadline)


@pytest.mark.parametrize(
    "error",
    [
        Error(),
        Error(grpc.StatusCode.INTERNAL, None),
        Error(grpc.StatusCode.CANCELLED, "by the server"),
        Error(trailing=None),
        Error(trailing=7),
    ],
)
def test_what_is_retried(error: Any) -> None:
    """An error with a status that is to be retried is, whatever else it says."""
    assert attempts().pause_after(error, 0.0) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "error",
    [
        Error(grpc.StatusCode.INTERNAL, "Exception serializing request!"),
        Error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"),
        Error(grpc.StatusCode.UNAVAILABLE, "Getting metadata from plugin failed with error: no"),
        Error(14),
        grpc.RpcError(),
        LookupError(),
    ],
)
def test_what_is_not_retried(error: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What was made on this side is not retried, nor what has no status; nothing is logged."""
    assert attempts().pause_after(error, 0.0) is None
    assert caplog.records == []


def test_trouble_with_a_retry(caplog: pytest.LogCaptureFixture) -> None:
    """An error that raises when it is asked is not retried; logged once."""

    class Broken(grpc.RpcError):
        def code(self) -> Any:
            raise LookupError

    for _ in range(2):
        assert attempts().pause_after(Broken(), 0.0) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("metadata", "sent"),
    [
        (None, (("grpc-previous-rpc-attempts", "1"),)),
        ([("a", "b")], (("a", "b"), ("grpc-previous-rpc-attempts", "1"))),
        (grpc.aio.Metadata(("a", "b")), grpc.aio.Metadata(("a", "b"), ("grpc-previous-rpc-attempts", "1"))),
        (grpc.aio.Metadata(), grpc.aio.Metadata(("grpc-previous-rpc-attempts", "1"))),
    ],
)
def test_metadata_of_a_later_attempt(metadata: Any, sent: Any) -> None:
    """A later attempt is sent with the caller's metadata, in asyncio of asyncio's class, and the number of those before."""
    trying = attempts(10.0, Facts(METHOD, 500, metadata))
    trying.pause_after(Error(), 0.0)
    assert trying.next(4.0) == (Facts(METHOD, 6.0, sent), 6.0)


def test_pause_that_outlasted_the_deadline() -> None:
    """A pause that was meant to end before the deadline and did not is followed by no attempt."""
    trying = attempts(10.0, Facts(METHOD, 10, None))
    assert trying.pause_after(Error(), 9.0) is not None
    assert trying.next(10.0) is None


# ── Fallbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "answered"),
    [
        (Error(), True),
        (Error(grpc.StatusCode.CANCELLED, "by the server"), True),
        (Error(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"), False),
        (Error(grpc.StatusCode.NOT_FOUND), False),
        (Error(14), False),
        (grpc.RpcError(), False),
        (LookupError(), False),
    ],
)
def test_what_a_fallback_answers(error: Any, answered: bool) -> None:
    """A fallback answers the statuses that it names, but neither an own cancellation nor what is no RPC's error."""
    fallback = Fallback(constant=b"", when=("UNAVAILABLE", "CANCELLED"))
    assert rules.may_answer(fallback, error) is answered


def kept_answer(answer: Any) -> rules.Remembered:
    """Keep an answer."""
    answers = LastGoodAnswers(LastGood(), FakeClock())
    kept = rules.remembered(answers, "pkg.S/M", SimpleNamespace(), b"request")
    assert kept is not None
    kept.keep(answer)
    return kept


def test_kept_answer_that_cannot_be_copied_again(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that was kept and cannot be copied any more leaves the caller the error; logged once."""

    class Once:
        copies = 0

        def __deepcopy__(self, memo: Any) -> Any:
            Once.copies += 1
            if Once.copies > 1:
                raise LookupError
            return self

    kept = kept_answer(Once())
    for _ in range(2):
        assert rules.last_good(kept) is None
    assert len(caplog.records) == 1


def test_answer_that_its_caller_has_already() -> None:
    """What is taken of an answer once its caller has it, and may have changed it, is thrown away."""
    kept = kept_answer(b"good")
    kept.keep(b"changed", {"given": True})
    found = kept.find()
    assert found is not None
    assert found.message == b"good"


def test_nothing_is_no_answer() -> None:
    """`None`, which grpcio makes of an answer that cannot be read, is not kept."""
    assert kept_answer(None).find() is None


def test_metadata_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """Where the metadata of a call cannot be read, its answer is not kept; logged once."""
    answers = LastGoodAnswers(LastGood(), FakeClock())
    for _ in range(2):
        assert rules.remembered(answers, "pkg.S/M", SimpleNamespace(metadata=7), b"request") is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("names", "metadata", "credentials", "kept"),
    [
        (("authorization",), (), True, False),
        (("authorization", "locale"), (("locale", "en"),), True, False),
        (("authorization",), (("authorization", "Alice"),), True, True),
        (("tenant",), (), True, False),
        (("tenant",), (("tenant", "a"),), True, True),
        (("tenant",), (("authorization", "Alice"),), False, False),
        (("tenant",), (("authorization", "Alice"), ("tenant", "a")), False, True),
        (("tenant",), (("trace", "1"),), False, True),
    ],
)
def test_credentials_that_the_key_would_not_hold(names: Any, metadata: Any, credentials: bool, kept: bool) -> None:
    """Named metadata that a call lacks, or that its call credentials add later, tells no users apart."""
    answers = LastGoodAnswers(LastGood(key_metadata=names), FakeClock())
    details = SimpleNamespace(metadata=metadata, credentials=object() if credentials else None)
    assert (rules.remembered(answers, "pkg.S/M", details, b"") is not None) == kept


def test_message_that_lacks_what_it_must_have(caplog: pytest.LogCaptureFixture) -> None:
    """A request without a field that its message requires does not serialise: logged once, and no call breaks."""
    answers = LastGoodAnswers(LastGood(), FakeClock())
    request = descriptor_pb2.UninterpretedOption.NamePart(name_part="its is_extension is missing")
    for _ in range(2):
        assert rules.remembered(answers, "pkg.S/M", SimpleNamespace(), request) is None
    assert ["does not serialise" in record.message for record in caplog.records] == [True]


def test_answer_that_lacks_what_it_must_have() -> None:
    """An answer without a field that its message requires is kept and given as it was."""
    answer = descriptor_pb2.UninterpretedOption.NamePart(name_part="its is_extension is missing")
    found = kept_answer(answer).find()
    assert found is not None
    assert found.message == answer
    assert found.message is not answer


# ── Adapters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def intercepted(policy: MethodPolicy, call: Any, kind: str = "unary_unary") -> Any:
    """Make one call: the continuation returns `call`."""
    interceptor = CircuitBreakerInterceptor(BreakerRegistry(default=policy), telemetry=False)
    details = SimpleNamespace(method=METHOD, timeout=None, metadata=None)
    return getattr(interceptor, f"intercept_{kind}")(lambda details, request: call, details, b"")


CONSTANT = MethodPolicy(fallback=Fallback(constant=b"constant"))


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
def test_object_that_is_no_call(kind: str) -> None:
    """What is no call of any kind, as an asyncio channel makes it, is handed on as it is."""
    call = SimpleNamespace(done=lambda: True, code=lambda: None, exception=lambda: None)
    call.details = call.trailing_metadata = lambda: ""
    assert intercepted(CONSTANT, call, kind) is call


@pytest.mark.parametrize("asked", [True, False], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary", "unary_stream", "stream_stream"])
def test_details_that_raise(kind: str, asked: bool) -> None:
    """What details raise when they are changed, and metadata when it is read, reaches the caller; nothing is held."""

    class Odd(SimpleNamespace):
        _fields = ("timeout",)

        def _replace(self, **changes: Any) -> Any:
            raise LookupError

    def broken() -> Iterator[tuple[str, str]]:
        raise LookupError
        yield

    def clock() -> float:
        if broken_clock:
            raise OSError
        return 0.0

    broken_clock: list[bool] = []
    breakers = BreakerRegistry(default=MethodPolicy(timeout=1, retry=RetryPolicy()), clock=clock)
    assert breakers.breaker_for(METHOD) is not None
    broken_clock += [] if asked else [True]
    ours = [CircuitBreakerInterceptor(breakers, telemetry=False), *aio.interceptors(breakers, telemetry=False)]
    for interceptor in ours:
        intercept = getattr(interceptor, f"intercept_{kind}", None)
        if intercept is not None:
            details = [Odd(method=METHOD, timeout=None, metadata=None)]
            if kind == "unary_unary":
                details.append(SimpleNamespace(method=METHOD, timeout=None, metadata=broken()))
            for it in details:
                with pytest.raises(LookupError):
                    call = intercept(lambda details, request: None, it, b"")
                    asyncio.run(call)
    broken_clock.clear()
    assert breakers[METHOD].in_flight == 0


def test_trouble_while_an_answer_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """Trouble where a future's answer is kept is logged once, and the future is as it was."""

    class Broken(grpc.Future, grpc.Call):  # type: ignore[misc]
        asked = 0

        def code(self) -> Any:
            Broken.asked += 1
            if Broken.asked % 2 == 0:
                raise LookupError("the second time")
            return grpc.StatusCode.OK

        def done(self) -> bool:
            return True

        def exception(self, timeout: Any = None) -> Any:
            return None

        def result(self, timeout: Any = None) -> Any:
            return b"answer"

        def add_callback(self, callback: Any) -> bool:
            return False

        details = trailing_metadata = initial_metadata = lambda self: ""
        is_active = time_remaining = cancel = cancelled = running = traceback = lambda self: None

        def add_done_callback(self, callback: Any) -> None: ...

    policy = MethodPolicy(fallback=Fallback(last_good=LastGood()))
    for _ in range(2):
        assert intercepted(policy, Broken()).result() == b"answer"
    assert ["keeping the answer of a call failed" in record.message for record in caplog.records] == [True]


def test_future_that_cannot_be_held_weakly(caplog: pytest.LogCaptureFixture) -> None:
    """The answer of a future of another interceptor's class that cannot be held weakly is not kept: logged once."""

    class Slotted:
        __slots__ = ()

        def done(self) -> bool:
            return True

        def code(self) -> Any:
            return grpc.StatusCode.OK

        def exception(self, timeout: Any = None) -> Any:
            return None

        def result(self, timeout: Any = None) -> Any:
            return b"answer"

        def add_done_callback(self, callback: Any) -> None: ...

        def add_callback(self, callback: Any) -> bool:
            return False

    policy = MethodPolicy(fallback=Fallback(last_good=LastGood()))
    for _ in range(2):
        assert intercepted(policy, Slotted()).result() == b"answer"
    assert ["its answer is not kept" in record.message for record in caplog.records] == [True]
