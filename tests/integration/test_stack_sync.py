"""The parts around the breaker, on real servers and channels of `grpc`: deadlines, retries, fallbacks."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    BulkheadFullError,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    CircuitOpenError,
    Fallback,
    LastGood,
    MethodPolicy,
    RetryPolicy,
    RetryThrottling,
    State,
)
from grpc_breaker.testing import FakeClock
from tests.integration.endings_table import await_settled
from tests.support.programmed import ProgrammedServer, answers, fails, in_turn
from tests.support.server import FAR, METHODS, PATIENCE, Server

UU, US, SU, SS = METHODS.values()
RETRY = RetryPolicy(max_attempts=3, initial_backoff=0.01, max_backoff=0.01)
NEVER_OPENS = BreakerPolicy(consecutive_failures=1000)


@pytest.fixture(autouse=True)
def _afresh(nothing_logged_yet: None) -> None:
    """What is logged once is logged once in each test."""


@pytest.fixture
def served() -> Iterator[ProgrammedServer]:
    """A server that does what a test says."""
    with ProgrammedServer() as running:
        yield running


class Client:
    """A channel with our interceptor, and the breakers of its methods."""

    def __init__(self, target: str, policy: MethodPolicy, inside: tuple[Any, ...] = (), **registry: Any) -> None:
        self.breakers = BreakerRegistry(default=policy, **registry)
        options = [("grpc.enable_retries", 0)]  # else grpcio takes out what says how many attempts there were
        self.channel = grpc.insecure_channel(target, options=options)
        ours = CircuitBreakerInterceptor(self.breakers, telemetry=False)
        intercepted = grpc.intercept_channel(self.channel, ours, *inside)
        self.uu = intercepted.unary_unary(UU)
        self.us = intercepted.unary_stream(US)
        self.su = intercepted.stream_unary(SU)
        self.ss = intercepted.stream_stream(SS)
        self.intercepted = intercepted

    def breaker(self, method: str = UU) -> CircuitBreaker:
        """The breaker of a method."""
        return self.breakers[method]

    def totals(self, method: str = UU) -> dict[str, int]:
        """How its calls ended, without the zeros."""
        return {name: calls for name, calls in self.breaker(method).snapshot()["totals"].items() if calls}

    def counted(self, method: str = UU) -> tuple[int, dict[str, int]]:
        """Its retries, and the answers of its fallback."""
        snapshot = self.breaker(method).snapshot()
        return snapshot["retries"], snapshot["fallbacks"]

    def call(self, kind: str, request: bytes = b"request", **keywords: Any) -> Any:
        """Make a call of a kind, and wait for its end; returns its answer or answers."""
        method = getattr(self, kind)
        made = method(iter([request]) if kind.startswith("s") else request, **keywords)
        return list(made) if kind.endswith("s") else made


@contextmanager
def client(target: str, policy: MethodPolicy, inside: tuple[Any, ...] = (), **registry: Any) -> Iterator[Client]:
    """A client whose calls have all ended and given everything back in the end."""
    made = Client(target, policy, inside, **registry)
    with made.channel:
        yield made
        for breaker in made.breakers:
            await_settled(breaker)


def failure(call: Callable[[], object]) -> Any:
    """The error that a call raises."""
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors that were logged, without their tracebacks."""
    return [record.message for record in caplog.records if record.levelname == "ERROR"]


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_timeout_reaches_the_server(kind: str, served: ProgrammedServer) -> None:
    """A call of any kind has the deadline of its policy, at the server, too; a caller's own counts where it is shorter."""
    served.act = in_turn(answers) if kind[1] == "u" else lambda *call: iter([b"answer"])
    with client(served.target, MethodPolicy(timeout=100)) as made:
        for timeout in (None, 1000, 10):
            made.call(kind, timeout=timeout)
    first, second, third = served.calls
    assert [first.had_at_most(100), second.had_at_most(100), third.had_at_most(10)] == [True] * 3
    assert not any(came.had_at_most(50) for came in (first, second))


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_timeout_ends_a_call(kind: str, server: Server) -> None:
    """A call without a deadline of its own ends at the one of its policy, and counts as a failure."""
    with client(server.target, MethodPolicy(timeout=0.05)) as made:
        assert failure(lambda: made.call(kind, b"hang")).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await_settled(made.breaker(METHODS[kind]))
        assert made.totals(METHODS[kind]) == {"failure": 1}


def test_future_has_the_deadline_too(server: Server) -> None:
    """So does a future."""
    with client(server.target, MethodPolicy(timeout=0.05)) as made:
        future = made.uu.future(b"hang")
        assert failure(future.result).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_attempt_timeout_is_each_attempts_own(served: ProgrammedServer) -> None:
    """Each attempt has the time of an attempt, and never more than is left of the whole."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(breaker=NEVER_OPENS, timeout=100, attempt_timeout=20, retry=RETRY)) as made:
        failure(lambda: made.call("uu"))
        assert all(came.had_at_most(20) for came in served.calls)
        failure(lambda: made.call("uu", timeout=15))
        assert all(came.had_at_most(15) for came in served.calls[3:])
    assert len(served.calls) == 6


@pytest.mark.parametrize("kind", ["us", "su", "ss"])
def test_attempt_timeout_of_calls_with_one_attempt(kind: str, served: ProgrammedServer) -> None:
    """A call that is made once has the shorter of the two times."""
    served.act = in_turn(answers) if kind[1] == "u" else lambda *call: iter([b"answer"])
    with client(served.target, MethodPolicy(timeout=100, attempt_timeout=20)) as made:
        made.call(kind)
    assert served.calls[0].had_at_most(20)


def half_open(made: Client, method: str) -> None:
    """Have the breaker of a method wait for a probe."""
    breaker = made.breaker(method)
    breaker.admit().failure()
    assert breaker.state is State.OPEN
    assert made.breakers.wait_until_admitted(method, PATIENCE)


PROBING = BreakerPolicy(
    consecutive_failures=1, reset_timeout=0.01, reset_timeout_jitter=0, half_open_max_calls=1, probe_deadline=7
)


@pytest.mark.parametrize("parts", [{}, {"timeout": 100.0}])
def test_probe_deadline(parts: dict[str, Any], served: ProgrammedServer) -> None:
    """A probe has no more time than the policy gives it, whatever other parts there are; other calls have theirs."""
    with client(served.target, MethodPolicy(breaker=PROBING, **parts)) as made:
        made.call("uu", timeout=50)
        half_open(made, UU)
        made.call("uu", timeout=50)
        half_open(made, UU)
        made.call("uu")
        half_open(made, UU)
        made.call("uu", timeout=3)
    assert [came.had_at_most(7) for came in served.calls] == [False, True, True, True]
    assert [came.had_at_most(3) for came in served.calls] == [False, False, False, True]


def test_probe_of_a_trial(served: ProgrammedServer) -> None:
    """Where nothing is enforced, a probe has the time that its caller gave it: a trial changes no call."""
    policy = replace(PROBING, enforcement_percentage=0)
    with client(served.target, MethodPolicy(breaker=policy)) as made:
        made.breaker(UU).admit().failure()
        while made.breaker(UU).state is not State.CLOSED:  # by a probe, once the open period is over
            made.call("uu", timeout=50)
    assert not any(came.had_at_most(7) for came in served.calls)


def test_probe_that_outlasts_its_deadline(server: Server) -> None:
    """A probe that is not answered in the time that a probe has is a failure: the breaker opens again."""
    policy = BreakerPolicy(
        consecutive_failures=1, reset_timeout=0.01, reset_timeout_jitter=0, half_open_max_calls=1, probe_deadline=0.05
    )
    with client(server.target, MethodPolicy(breaker=policy)) as made:
        half_open(made, UU)
        assert failure(lambda: made.call("uu", b"hang", timeout=FAR)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert made.breaker().changes[-1].reason == "probe_failed"


@pytest.mark.parametrize("kind", ["us", "ss", "su"])
def test_probe_deadline_is_not_for_streams(kind: str, served: ProgrammedServer) -> None:
    """A stream that is a probe keeps its caller's deadline: its length is its own."""
    served.act = in_turn(answers) if kind[1] == "u" else lambda *call: iter([b"answer"])
    with client(served.target, MethodPolicy(breaker=PROBING)) as made:
        half_open(made, METHODS[kind])
        made.call(kind, timeout=50)
    assert not served.calls[0].had_at_most(7)


# ── Retries ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_attempts_until_one_succeeds(served: ProgrammedServer) -> None:
    """A call is tried again while it fails; each attempt asks the breaker, and says how many there were before it."""
    served.act = in_turn(fails("UNAVAILABLE"), fails("UNAVAILABLE"), answers)
    with client(served.target, MethodPolicy(retry=RETRY)) as made:
        answer, call = made.uu.with_call(b"request", metadata=[("mine", "too")])
        assert (answer, call.code()) == (b"answer", grpc.StatusCode.OK)
        assert made.totals() == {"failure": 2, "success": 1}
        assert made.counted() == (2, {})
    assert [came.metadata.get("grpc-previous-rpc-attempts") for came in served.calls] == [None, "1", "2"]
    assert {came.metadata["mine"] for came in served.calls} == {"too"}
    assert {came.request for came in served.calls} == {b"request"}


def test_attempts_are_bounded(served: ProgrammedServer) -> None:
    """A call that fails each time is made `max_attempts` times; its caller sees the last error."""
    served.act = in_turn(fails("UNAVAILABLE", "first"), fails("UNAVAILABLE", "second"), fails("UNAVAILABLE", "third"))
    with client(served.target, MethodPolicy(retry=RETRY)) as made:
        assert failure(lambda: made.call("uu")).details() == "third"
        assert made.totals() == {"failure": 3}
    assert len(served.calls) == 3


def test_other_errors_are_not_retried(served: ProgrammedServer) -> None:
    """A status that is not to be retried ends the call."""
    served.act = fails("NOT_FOUND")
    with client(served.target, MethodPolicy(retry=RETRY)) as made:
        assert failure(lambda: made.call("uu")).code() is grpc.StatusCode.NOT_FOUND
    assert len(served.calls) == 1


def test_what_was_made_here_is_not_retried(served: ProgrammedServer) -> None:
    """A request that cannot be serialised fails once, whatever statuses are retried."""
    asked = []

    def broken(request: Any) -> bytes:
        asked.append(request)
        raise ValueError("not a message")

    retry = RetryPolicy(initial_backoff=0.01, retryable_status_codes=("INTERNAL",))
    with client(served.target, MethodPolicy(retry=retry)) as made:
        call = made.intercepted.unary_unary(UU, request_serializer=broken)
        assert failure(lambda: call("request")).code() is grpc.StatusCode.INTERNAL
    assert (asked, served.calls) == (["request"], [])


def test_error_of_an_interceptor_is_not_retried(served: ProgrammedServer) -> None:
    """What an interceptor inside ours raises reaches the caller, once."""
    raised = []

    class Broken(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            raised.append(1)
            raise LookupError

    retry = RetryPolicy(initial_backoff=0.01, retryable_status_codes=("INTERNAL",))
    policy = MethodPolicy(retry=retry, fallback=Fallback(constant=b"", when=("INTERNAL",)))
    with client(served.target, policy, (Broken(),)) as made:
        with pytest.raises(LookupError):
            made.call("uu")
        with pytest.raises(LookupError):
            made.uu.future(b"").result()
        assert made.totals() == {"ignored": 2}
    assert len(raised) == 2


def test_breaker_that_opens_ends_the_retries(served: ProgrammedServer) -> None:
    """A refused attempt ends the retries: the server is asked no more, and the caller sees its last error."""
    served.act = in_turn(fails("UNAVAILABLE", "first"), fails("UNAVAILABLE", "second"))
    retry = RetryPolicy(max_attempts=5, initial_backoff=0.01)
    with client(served.target, MethodPolicy(breaker=BreakerPolicy(consecutive_failures=2), retry=retry)) as made:
        error = failure(lambda: made.call("uu"))
        assert (error.details(), isinstance(error, CircuitOpenError)) == ("second", False)
        assert made.totals() == {"failure": 2, "rejected": 1}
        assert made.counted() == (1, {})
        assert isinstance(failure(lambda: made.call("uu")), CircuitOpenError)
        assert made.totals() == {"failure": 2, "rejected": 2}
    assert len(served.calls) == 2


def test_retries_stop_when_most_calls_fail(served: ProgrammedServer) -> None:
    """Throttled retries stop while no more than half of the tokens are there, and go on after successes."""
    served.act = fails("UNAVAILABLE")
    policy = MethodPolicy(breaker=NEVER_OPENS, retry=RETRY)
    with client(served.target, policy, retry_throttling=RetryThrottling(max_tokens=4, token_ratio=1)) as made:
        failure(lambda: made.call("uu"))
        assert len(served.calls) == 2  # two tokens are gone
        failure(lambda: made.call("uu"))
        assert len(served.calls) == 3
        served.act = answers
        for _ in range(3):
            made.call("uu")
        served.act = fails("UNAVAILABLE")
        failure(lambda: made.call("uu"))
        assert len(served.calls) == 8


@pytest.mark.parametrize("said", ["-1", "soon", "100000000"])
def test_pushback_that_ends_the_retries(said: str, served: ProgrammedServer) -> None:
    """A server that says not to come back, or so late that the deadline is over, is not asked again."""
    served.act = fails("UNAVAILABLE", grpc_retry_pushback_ms=said)
    with client(served.target, MethodPolicy(retry=RETRY)) as made:
        assert failure(lambda: made.call("uu", timeout=FAR)).details() == "ill"
    assert len(served.calls) == 1


def test_pushback_is_the_pause(served: ProgrammedServer) -> None:
    """A server may say to come back at once, whatever the back-off."""
    served.act = in_turn(fails("UNAVAILABLE", grpc_retry_pushback_ms="0"), answers)
    policy = MethodPolicy(retry=RetryPolicy(initial_backoff=FAR, max_backoff=FAR))
    with client(served.target, policy) as made:
        assert made.call("uu") == b"answer"


def test_backoff_beyond_the_deadline(served: ProgrammedServer) -> None:
    """A call whose next attempt would come after its deadline fails at once."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(retry=RetryPolicy(initial_backoff=FAR, max_backoff=FAR))) as made:
        assert failure(lambda: made.call("uu", timeout=PATIENCE)).details() == "ill"
    assert len(served.calls) == 1


def test_pause_that_outlasts_the_deadline(served: ProgrammedServer) -> None:
    """A pause that takes longer than it should, so that the deadline is over, is followed by no attempt."""

    def slow() -> float:
        if served.calls:
            time.sleep(0.2)
        return 0.5

    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(timeout=0.2, retry=RETRY), random=slow) as made:
        assert failure(lambda: made.call("uu")).details() == "ill"
    assert len(served.calls) == 1


class WaitsForTheEnd(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor inside ours that returns a future when it has ended."""

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = continuation(client_call_details, request)
        call.exception()
        assert call.done()
        return call


@pytest.mark.parametrize("inside", [(), (WaitsForTheEnd(),)], ids=["runs", "has ended"])
def test_future_is_not_retried(inside: tuple[Any, ...], served: ProgrammedServer) -> None:
    """A future is made once, whether it still runs when we see it or has ended: its caller does not wait for us."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(retry=RETRY), inside) as made:
        assert failure(made.uu.future(b"").result).details() == "ill"
        failure(lambda: made.call("uu"))
    assert len(served.calls) == 4


@pytest.mark.parametrize("kind", ["us", "su", "ss"])
def test_streams_are_not_retried(kind: str, served: ProgrammedServer) -> None:
    """A call that streams is made once."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(retry=RETRY)) as made:
        failure(lambda: made.call(kind))
    assert len(served.calls) == 1


def test_metadata_that_can_be_read_once(served: ProgrammedServer) -> None:
    """Metadata from a generator is sent with every attempt."""
    served.act = in_turn(fails("UNAVAILABLE"), answers)
    with client(served.target, MethodPolicy(retry=RETRY)) as made:
        made.call("uu", metadata=(pair for pair in [("mine", "too")]))
    assert [came.metadata["mine"] for came in served.calls] == ["too", "too"]


class Bare(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor around ours that hands on bare details."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(SimpleNamespace(method=client_call_details.method, **self.fields), request)


@pytest.mark.parametrize("fields", [{}, {"timeout": 200}, {"metadata": (("mine", "other"),)}])
def test_bare_details(fields: dict[str, Any], served: ProgrammedServer) -> None:
    """What another interceptor's details leave out stays the caller's, and what they say counts, in each attempt."""
    served.act = in_turn(fails("UNAVAILABLE"), answers)
    made = Client(served.target, MethodPolicy(timeout=100, retry=RETRY))
    with made.channel:
        outside = grpc.intercept_channel(made.intercepted, Bare(**fields)).unary_unary(UU)
        outside(b"", metadata=(("mine", "too"),), timeout=500)
    assert all(came.had_at_most(100) for came in served.calls)
    assert served.calls[0].metadata["mine"] == ("other" if "metadata" in fields else "too")


def test_interrupt_during_a_pause(served: ProgrammedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a signal handler raises during a pause reaches the caller; no permit is held meanwhile."""

    class AlarmError(Exception):
        pass

    def ring(number: int, frame: Any) -> None:
        raise AlarmError

    served.act = fails("UNAVAILABLE")
    held = []
    before = signal.signal(signal.SIGUSR1, ring)
    with client(served.target, MethodPolicy(retry=RETRY)) as made:

        def interrupted(seconds: float) -> None:
            held.append(made.breaker().in_flight)
            signal.raise_signal(signal.SIGUSR1)

        try:
            with monkeypatch.context() as patched, pytest.raises(AlarmError):
                patched.setattr(time, "sleep", interrupted)
                made.call("uu")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert made.totals() == {"failure": 1}
    assert (held, len(served.calls)) == ([0], 1)


def await_totals(made: Client, expected: dict[str, int]) -> None:
    """Wait until so many calls have ended so."""
    until = time.monotonic() + PATIENCE
    while made.totals() != expected:
        assert time.monotonic() < until
        time.sleep(0.001)


# ── Fallbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(request: Any, error: Any) -> bytes:
    """A fallback that says what it was asked."""
    return b"%s after %s" % (request, error.code().name.encode())


def through_future(method: Any) -> tuple[bytes, Any]:
    """Make a call as a future, and wait for its answer."""
    future = method.future(b"request")
    return future.result(), future


IDIOMS: dict[str, Callable[[Any], tuple[bytes, Any]]] = {
    "with_call": lambda method: method.with_call(b"request"),
    "future": through_future,
}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_function_answers(idiom: str, served: ProgrammedServer) -> None:
    """A function answers a call that failed, in every idiom; the call is a good one that says so, the breaker sees the failure."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(function=asked))) as made:
        assert made.call("uu", b"request") == b"request after UNAVAILABLE"
        answer, call = IDIOMS[idiom](made.uu)
        assert answer == b"request after UNAVAILABLE"
        assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
        assert [tuple(pair) for pair in call.trailing_metadata()] == [("grpc-breaker-fallback", "function")]
        assert call.trailing_metadata()[0].key == "grpc-breaker-fallback"
        assert call.initial_metadata() == ()
        assert (call.done(), call.running(), call.cancelled(), call.is_active()) == (True, False, False, False)
        assert (call.result(), call.result(1), call.exception(), call.traceback()) == (answer, answer, None, None)
        assert (call.cancel(), call.add_callback(lambda: None), call.time_remaining()) == (False, False, None)
        ended: list[Any] = []
        call.add_done_callback(ended.append)
        assert ended == [call]
        assert repr(call)
        await_settled(made.breaker())
        assert made.totals() == {"failure": 2}
        assert made.counted() == (0, {"function": 2})


@pytest.mark.parametrize("idiom", IDIOMS)
def test_refusal_is_answered(idiom: str, served: ProgrammedServer) -> None:
    """A call that was refused is answered, too, in every idiom."""
    with client(served.target, MethodPolicy(fallback=Fallback(function=asked))) as made:
        made.breaker().force_open()
        answer, call = IDIOMS[idiom](made.uu)
        assert (answer, call.code()) == (b"request after UNAVAILABLE", grpc.StatusCode.OK)
        assert (call.details(), call.initial_metadata(), call.exception()) == ("", (), None)
        assert call.traceback() is None
        assert (call.done(), call.cancelled(), call.is_active()) == (True, False, False)
        assert call.time_remaining() is None
        assert (made.totals(), made.counted()) == ({"rejected": 1}, (0, {"function": 1}))
    assert served.calls == []


def test_done_callback_of_an_answered_refusal(served: ProgrammedServer) -> None:
    """A callback of a refused future that is answered is called with it, and not inside the call that adds it."""
    with client(served.target, MethodPolicy(fallback=Fallback(constant=b"constant"))) as made:
        made.breaker().force_open()
        over, seen = threading.Event(), list[Any]()
        future = made.uu.future(b"")

        def called(ended: Any) -> None:
            seen.append((ended is future, ended.result(), threading.get_ident()))
            over.set()

        future.add_done_callback(called)
        assert over.wait(PATIENCE)
        assert seen[0][:2] == (True, b"constant")
        assert seen[0][2] != threading.get_ident()


def test_refusal_by_a_limit_is_answered(server: Server) -> None:
    """The word "refused" stands for every refusal: a full bulkhead is answered as an open breaker is."""
    server.journal.release.clear()
    policy = MethodPolicy(max_concurrent_calls=1, fallback=Fallback(constant=b"constant", when=("refused",)))
    with client(server.target, policy) as made:
        first = made.uu.future(b"held")
        assert made.call("uu", b"ok") == b"constant"
        server.journal.release.set()
        assert first.result() == b"answer"
        assert made.totals() == {"success": 1, "rejected": 1}


def test_constant_answers_also_if_it_is_nothing(served: ProgrammedServer) -> None:
    """A constant may be any object, `None` included, and says what it is."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(constant=None))) as made:
        answer, call = made.uu.with_call(b"")
        assert answer is None
        assert call.trailing_metadata() == (("grpc-breaker-fallback", "constant"),)


def test_when_decides(served: ProgrammedServer) -> None:
    """Only errors that the policy names are answered: a refusal by "refused" alone, whatever status it shows."""
    served.act = fails("INTERNAL")
    policy = MethodPolicy(fallback=Fallback(constant=b"", when=("UNAVAILABLE",)))
    with client(served.target, policy) as made:
        assert failure(lambda: made.call("uu")).code() is grpc.StatusCode.INTERNAL
        assert failure(made.uu.future(b"").result).code() is grpc.StatusCode.INTERNAL
        made.breaker().force_open()
        assert isinstance(failure(lambda: made.call("uu")), CircuitOpenError)
        assert isinstance(failure(made.uu.future(b"").result), CircuitOpenError)
        served.act = fails("UNAVAILABLE")
        made.breaker().reset()
        assert made.call("uu") == b""


def test_answer_after_the_retries(served: ProgrammedServer) -> None:
    """The fallback is around the retries: it answers when they are over, and what it answers is not retried."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(retry=RETRY, fallback=Fallback(function=asked))) as made:
        assert made.call("uu") == b"request after UNAVAILABLE"
        assert made.counted() == (2, {"function": 1})
    assert len(served.calls) == 3


@pytest.mark.parametrize("idiom", ["call", "future"])
def test_function_that_raises(idiom: str, served: ProgrammedServer, caplog: pytest.LogCaptureFixture) -> None:
    """A function that raises leaves the caller the original error, and is logged once."""

    def broken(request: Any, error: Any) -> bytes:
        raise LookupError("a bug of the client")

    served.act = fails("UNAVAILABLE")
    policy = MethodPolicy(fallback=Fallback(function=broken, constant=b"constant"))
    with client(served.target, policy) as made:
        for _ in range(2):
            call = (lambda: made.call("uu")) if idiom == "call" else made.uu.future(b"").result
            error = failure(call)
            assert (error.details(), error.code()) == ("ill", grpc.StatusCode.UNAVAILABLE)
        assert made.counted() == (0, {})
    (message,) = logged(caplog)
    assert "broken" in message
    assert "LookupError: a bug of the client" in caplog.text


def test_function_that_has_to_be_awaited(served: ProgrammedServer, caplog: pytest.LogCaptureFixture) -> None:
    """What only asyncio can await answers nothing here: the original error, logged once."""

    async def asynchronous(request: Any, error: Any) -> bytes:
        return b""

    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(function=asynchronous))) as made:
        for _ in range(2):
            assert failure(lambda: made.call("uu")).details() == "ill"
    assert ["asyncio channels" in message for message in logged(caplog)] == [True]


def test_function_that_returns_something_else_to_be_awaited(served: ProgrammedServer) -> None:
    """The same of an object that is no coroutine."""

    class Awaitable:
        def __await__(self) -> Iterator[None]:
            yield

    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(function=lambda request, error: Awaitable()))) as made:
        assert failure(lambda: made.call("uu")).details() == "ill"


def test_function_without_an_answer(served: ProgrammedServer) -> None:
    """A function that returns `None` has no answer: the constant answers, or the caller gets the error."""
    served.act = fails("UNAVAILABLE")
    nothing = Fallback(function=lambda request, error: None)
    with client(served.target, MethodPolicy(fallback=nothing)) as made:
        assert failure(lambda: made.call("uu")).details() == "ill"
    both = Fallback(function=lambda request, error: None, constant=b"constant")
    with client(served.target, MethodPolicy(fallback=both)) as made:
        assert made.call("uu") == b"constant"


def test_interrupted_function(served: ProgrammedServer) -> None:
    """Ctrl-C in a function reaches the caller."""

    def interrupted(request: Any, error: Any) -> bytes:
        raise KeyboardInterrupt

    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(function=interrupted))) as made:
        with pytest.raises(KeyboardInterrupt):
            made.call("uu")
        future = made.uu.future(b"")
        with pytest.raises(KeyboardInterrupt):
            future.result()


def test_request_stream_is_answered(served: ProgrammedServer) -> None:
    """A call of many requests and one answer is answered when it fails, and when it is refused; blocking and as a future."""
    served.act = fails("UNAVAILABLE")
    function = lambda requests, error: error.code().name.encode()  # noqa: E731
    with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
        assert made.call("su") == b"UNAVAILABLE"
        assert made.su.future(iter([b"request"])).result() == b"UNAVAILABLE"
        made.breaker(SU).force_open()
        assert made.call("su") == b"UNAVAILABLE"
        assert made.su.future(iter([b"request"])).result() == b"UNAVAILABLE"
        served.act = answers
        made.breaker(SU).reset()
        assert made.call("su") == b"answer"
        assert made.counted(SU) == (0, {"function": 4})


# ── Futures ───────────────────────────────────────────────────────────────────────────────────────────────────────────


FALLBACK = MethodPolicy(fallback=Fallback(constant=b"constant"))


def test_future_while_it_runs(server: Server) -> None:
    """A future with a fallback runs as any other: it can be waited for in vain, asked, and be answered by the server."""
    server.journal.release.clear()
    with client(server.target, FALLBACK) as made:
        future = made.uu.future(b"held", timeout=FAR)
        assert (future.done(), future.running(), future.cancelled(), future.is_active()) == (False, True, False, True)
        assert future.time_remaining() > 0
        for wait in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureTimeoutError):
                wait(0)
        over = threading.Event()
        assert future.add_callback(over.set)
        server.journal.release.set()
        assert (future.result(), future.code(), future.exception()) == (b"answer", grpc.StatusCode.OK, None)
        assert (future.traceback(), future.details(), future.trailing_metadata()) == (None, "", ())
        assert over.wait(PATIENCE)
        assert future.debug_error_string() is not None
        with pytest.raises(AttributeError):
            _ = future._no_such_field


def test_future_whose_error_is_not_answered(served: ProgrammedServer) -> None:
    """A future whose error the policy does not name shows it in every way."""
    served.act = fails("NOT_FOUND", server="echo")
    with client(served.target, FALLBACK) as made:
        future = made.uu.future(b"")
        error = failure(future.result)
        assert (future.code(), future.details(), future.exception()) == (grpc.StatusCode.NOT_FOUND, "ill", error)
        assert future.traceback() is not None
        assert ("server", "echo") in [tuple(pair) for pair in future.trailing_metadata()]


def test_cancelling_a_future(server: Server) -> None:
    """Cancelling passes through: the call ends at the server, and is never answered, whatever the policy names."""
    policy = MethodPolicy(fallback=Fallback(constant=b"", when=("CANCELLED",)))
    with client(server.target, policy) as made:
        entry = server.journal["cancelled future"]
        future = made.uu.future(b"hang", metadata=[("call-key", "cancelled future")])
        assert entry.began.wait(PATIENCE)
        assert future.cancel()
        for ask in (future.result, future.exception, future.traceback):
            with pytest.raises(grpc.FutureCancelledError):
                ask()
        assert (future.cancelled(), future.code()) == (True, grpc.StatusCode.CANCELLED)
        assert future.details() == "Locally cancelled by application!"
        assert entry.cancelled.wait(PATIENCE)
        await_settled(made.breaker())
        assert made.totals() == {"ignored": 1}


@pytest.mark.parametrize("fallback", [Fallback(constant=b""), Fallback(last_good=LastGood())])
def test_dropping_a_future(fallback: Fallback, server: Server) -> None:
    """Who drops a future drops the call: grpcio cancels it at the server, and its permit comes back."""
    with client(server.target, MethodPolicy(fallback=fallback)) as made:
        key = f"dropped {fallback.has_constant}"
        entry = server.journal[key]
        future = made.uu.future(b"hang", metadata=[("call-key", key)])
        assert entry.began.wait(PATIENCE)
        del future
        gc.collect()
        assert entry.cancelled.wait(PATIENCE)
        await_settled(made.breaker())
        assert made.totals() == {"ignored": 1}


def test_function_runs_on_the_thread_that_asks(served: ProgrammedServer) -> None:
    """What a fallback's function does happens on the thread that asks for the answer, once, and not on the channel's."""
    threads = []

    def function(request: Any, error: Any) -> bytes:
        threads.append(threading.get_ident())
        return b"answer"

    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
        future = made.uu.future(b"")
        over = threading.Event()
        future.add_done_callback(lambda ended: over.set())
        assert over.wait(PATIENCE)
        assert threads == []
        assert (future.code(), future.result(), future.result()) == (grpc.StatusCode.OK, b"answer", b"answer")
    assert threads == [threading.get_ident()]


@pytest.mark.parametrize("kind", ["uu", "su"])
def test_function_of_a_future_inside_another_breaker(kind: str, server: Server) -> None:
    """Another registry's breaker around it sees the call fail, and has no function run on the channel's thread."""
    threads: list[int] = []
    script = b"held;error UNAVAILABLE ill"
    server.journal.release.clear()

    def function(request: Any, error: Any) -> bytes:
        threads.append(threading.get_ident())
        return b"answer"

    around = BreakerRegistry()
    with client(server.target, MethodPolicy(fallback=Fallback(function=function))) as made:
        channel = grpc.intercept_channel(made.intercepted, CircuitBreakerInterceptor(around, telemetry=False))
        if kind == "uu":
            future = channel.unary_unary(UU).future(script)
        else:
            future = channel.stream_unary(SU).future(iter([script]))
        breaker = around[METHODS[kind]]
        server.journal.release.set()
        await_settled(breaker)
        assert breaker.tallies() == {("failure", "UNAVAILABLE"): 1}
        assert threads == []
        assert future.result() == b"answer"
    assert threads == [threading.get_ident()]


# ── Last good answers ─────────────────────────────────────────────────────────────────────────────────────────────────


LAST_GOOD = Fallback(last_good=LastGood())


def echo(request: bytes, context: Any, number: int) -> bytes:
    """Answers with the request and the number of the call."""
    return b"%s %d" % (request, number)


@pytest.mark.parametrize("idiom", ["call", "future"])
def test_last_good_answer(idiom: str, served: ProgrammedServer) -> None:
    """The last answer to the same request is given again, also when it is refused, and marked; other requests have none."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        for request in (b"a", b"a", b"b"):
            if idiom == "call":
                made.call("uu", request)
            else:
                made.uu.future(request).result()
        served.act = fails("UNAVAILABLE")
        answer, call = made.uu.with_call(b"a")
        assert (answer, call.trailing_metadata()) == (b"a 2", (("grpc-breaker-fallback", "last-good"),))
        assert made.uu.future(b"b").result() == b"b 3"
        assert failure(lambda: made.call("uu", b"c")).details() == "ill"
        made.breaker().force_open()
        assert made.call("uu", b"a") == b"a 2"
        assert isinstance(failure(lambda: made.call("uu", b"c")), CircuitOpenError)


def test_answer_that_nobody_has_asked_for(served: ProgrammedServer) -> None:
    """The answer of a future is kept when the future is done, whether or not somebody asks for it."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        future, over = made.uu.future(b"a"), threading.Event()
        future.add_done_callback(lambda ended: over.set())
        assert over.wait(PATIENCE)
        served.act = fails("UNAVAILABLE")
        assert made.call("uu", b"a") == b"a 1"


def test_future_that_has_ended_is_kept(served: ProgrammedServer) -> None:
    """So is the answer of a future that had ended before we saw it."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=LAST_GOOD), (WaitsForTheEnd(),)) as made:
        made.uu.future(b"a").result()
        served.act = fails("UNAVAILABLE")
        assert made.uu.future(b"a").result() == b"a 1"


def test_future_whose_errors_have_no_answer(served: ProgrammedServer) -> None:
    """Where only refusals are answered, and no last good answers are kept, a future is grpcio's own object."""
    with client(served.target, MethodPolicy(fallback=Fallback(constant=b"", when=("refused",)))) as made:
        assert made.uu.future(b"a").result() == b"answer"
        served.act = fails("UNAVAILABLE")
        future = made.uu.future(b"a")
        assert future.exception() is future


def test_answer_that_its_caller_changes_at_once(served: ProgrammedServer) -> None:
    """The answer of a future is kept before its caller has it: what the caller does to it comes too late, always."""
    served.act = lambda request, context, number: StringValue(value="good").SerializeToString()
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        method = made.intercepted.unary_unary(UU, response_deserializer=StringValue.FromString)
        for number in range(100):
            method.future(b"%d" % number).result().value = "changed by its caller"
        made.breaker().force_open()
        assert {method(b"%d" % number).value for number in range(100)} == {"good"}


def test_future_that_failed_or_was_dropped_is_not_kept(server: Server) -> None:
    """A future that fails, and one that nobody holds when it ends, leave no last good answer behind."""
    with client(server.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        assert failure(made.uu.future(b"error UNAVAILABLE ill").result).details() == "ill"
        future = made.uu.future(b"hang")
        del future
        await_settled(made.breaker())
        assert failure(lambda: made.call("uu", b"error UNAVAILABLE ill")).details() == "ill"


def test_last_good_before_function_and_constant(served: ProgrammedServer) -> None:
    """The sources are tried in turn: the last good answer, the function."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=Fallback(last_good=LastGood(), function=asked))) as made:
        made.call("uu", b"a")
        served.act = fails("UNAVAILABLE")
        assert made.call("uu", b"a") == b"a 1"
        assert made.call("uu", b"b") == b"b after UNAVAILABLE"
        assert made.counted() == (0, {"last-good": 1, "function": 1})


def test_callers_get_messages_of_their_own(served: ProgrammedServer) -> None:
    """What a caller does to an answer changes neither what is kept nor what others get."""
    served.act = lambda request, context, number: StringValue(value=f"number {number}").SerializeToString()
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        method = made.intercepted.unary_unary(
            UU, request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString
        )
        request = StringValue(value="request")
        first = method(request)
        first.value = "changed by its caller"
        served.act = fails("UNAVAILABLE")
        second = method(StringValue(value="request"))
        assert second == StringValue(value="number 1")
        second.value = "changed, too"
        assert method(request) == StringValue(value="number 1")


def test_answers_of_other_classes_are_copied(served: ProgrammedServer) -> None:
    """An answer of any class is kept and given as a copy."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        method = made.intercepted.unary_unary(UU, response_deserializer=lambda data: {"data": [data]})
        method(b"a")["data"].clear()
        served.act = fails("UNAVAILABLE")
        method(b"a")["data"].clear()
        assert method(b"a") == {"data": [b"a 1"]}


@pytest.mark.parametrize(
    ("keywords", "kept"),
    [
        ({"metadata": [("trace", "1")]}, True),
        ({"metadata": [("authorization", "Bearer of Alice")]}, False),
        ({"metadata": (pair for pair in [("authorization", "Bearer of Alice")])}, False),
        ({"metadata": [("trace", "1"), ("cookie", "alice")]}, False),
        ({"metadata": [(b"authorization", b"Bearer of Alice")]}, False),
    ],
)
def test_answers_for_one_user(
    keywords: dict[str, Any], kept: bool, served: ProgrammedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without metadata that tells users apart, calls with credentials are neither kept nor answered: logged once."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        made.call("uu", b"a", **keywords)
        served.act = fails("UNAVAILABLE")
        for metadata in ([("authorization", "Bearer of Bob")], None):
            try:
                answer = made.call("uu", b"a", metadata=metadata)
            except grpc.RpcError:
                answer = None
            assert answer == (b"a 1" if kept and metadata is None else None)
    assert ["key_metadata" in message for message in logged(caplog)] == [True]


def test_call_credentials_are_a_users_own(caplog: pytest.LogCaptureFixture) -> None:
    """Calls with credentials of their own are not kept, either."""
    with client("localhost:1", MethodPolicy(fallback=Fallback(last_good=LastGood(), constant=b""))) as made:
        made.uu(b"a", credentials=grpc.access_token_call_credentials("Alice"))
    assert "not kept for calls with credentials of their own" in caplog.text


def test_metadata_that_tells_users_apart(served: ProgrammedServer) -> None:
    """Where the policy names metadata, each of its values has answers of its own, and calls with credentials are kept."""
    served.act = echo
    fallback = Fallback(last_good=LastGood(key_metadata=("authorization", "tenant")))
    with client(served.target, MethodPolicy(breaker=NEVER_OPENS, fallback=fallback)) as made:
        users = [
            [("authorization", "Alice")],
            [("authorization", "Bob")],
            [("tenant", "Alice")],
            [("tenant", "x"), ("authorization", "Alice")],
            None,
        ]
        for user in users:
            made.call("uu", b"a", metadata=user)
        served.act = fails("UNAVAILABLE")
        answers_again = [made.call("uu", b"a", metadata=user) for user in users]
        assert answers_again == [b"a 1", b"a 2", b"a 3", b"a 4", b"a 5"]
        other_order = [("authorization", "Alice"), ("trace", "1"), ("tenant", "x")]
        assert made.call("uu", b"a", metadata=other_order) == b"a 4"
        assert failure(lambda: made.call("uu", b"a", metadata=[("tenant", "Bob")])).details() == "ill"


def test_metadata_whose_keys_are_bytes(served: ProgrammedServer) -> None:
    """Keys that are bytes, which grpcio takes, tell users apart as well as text does."""
    served.act = echo
    fallback = Fallback(last_good=LastGood(key_metadata=("tenant",)))
    with client(served.target, MethodPolicy(fallback=fallback)) as made:
        made.call("uu", b"a", metadata=[(b"tenant", "Alice")])
        served.act = fails("UNAVAILABLE")
        assert failure(lambda: made.call("uu", b"a", metadata=[(b"tenant", "Bob")])).details() == "ill"
        assert made.call("uu", b"a", metadata=[("tenant", "Alice")]) == b"a 1"


def test_request_that_does_not_serialise(served: ProgrammedServer, caplog: pytest.LogCaptureFixture) -> None:
    """Answers to requests that are no messages are not kept; logged once, and the calls go on."""
    served.act = echo
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        method = made.intercepted.unary_unary(UU, request_serializer=str.encode)
        assert method("a") == b"a 1"
        served.act = fails("UNAVAILABLE")
        assert failure(lambda: method("a")).details() == "ill"
    assert ["does not serialise" in message for message in logged(caplog)] == [True]


def test_answer_that_cannot_be_copied(served: ProgrammedServer, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that cannot be copied is not kept; logged once, and the calls go on."""
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        method = made.intercepted.unary_unary(UU, response_deserializer=lambda data: threading.Lock())
        for _ in range(2):
            assert method(b"a")
    assert ["cannot be kept" in message for message in logged(caplog)] == [True]


def test_answers_of_streams_are_not_kept(served: ProgrammedServer) -> None:
    """Calls that stream have no last good answer: who knows whether their requests were the same."""
    with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
        assert made.call("su") == b"answer"
        made.breaker(SU).force_open()
        assert isinstance(failure(lambda: made.call("su")), CircuitOpenError)


# ── Response streams ──────────────────────────────────────────────────────────────────────────────────────────────────


def refused_stream(fallback: Fallback, kind: str = "us") -> Any:
    """A response stream that is refused."""
    made = Client("localhost:1", MethodPolicy(fallback=fallback))
    with made.channel:
        made.breaker(METHODS[kind]).force_open()
        method = getattr(made, kind)
        call = method(iter([b"request"]) if kind == "ss" else b"request")
        call.made = made
        return call


@pytest.mark.parametrize("kind", ["us", "ss"])
@pytest.mark.parametrize(
    ("fallback", "source"),
    [
        (Fallback(constant=[b"1", b"2"]), "constant"),
        (Fallback(function=lambda request, error: iter([b"1", b"2"])), "function"),
    ],
)
def test_refused_stream_is_answered(fallback: Fallback, source: str, kind: str) -> None:
    """A response stream that is refused gives the messages of its fallback, and says so."""
    call = refused_stream(fallback, kind)
    assert call.code() is grpc.StatusCode.OK
    assert list(call) == [b"1", b"2"]
    assert (call.details(), call.initial_metadata()) == ("", ())
    assert [tuple(pair) for pair in call.trailing_metadata()] == [("grpc-breaker-fallback", source)]
    assert (call.cancel(), call.is_active(), call.time_remaining(), call.done()) == (False, False, None, True)
    assert call.add_callback(lambda: None) is False
    assert repr(call)
    with pytest.raises(StopIteration):
        call.next()
    assert call.made.counted(METHODS[kind]) == (0, {source: 1})
    with pytest.raises(AttributeError):
        _ = call._no_such_field


def test_stream_that_fails_is_not_answered(served: ProgrammedServer) -> None:
    """A response stream that the server ends with an error ends with it: it may have answered before."""
    served.act = fails("UNAVAILABLE")
    with client(served.target, MethodPolicy(fallback=Fallback(constant=[b"1"]))) as made:
        assert failure(lambda: made.call("us")).details() == "ill"
        assert failure(lambda: made.call("ss")).details() == "ill"


def test_refused_stream_that_the_policy_does_not_name() -> None:
    """A refusal that the policy does not name is not answered."""
    call = refused_stream(Fallback(constant=[b"1"], when=("UNAVAILABLE",)))
    assert isinstance(failure(lambda: list(call)), CircuitOpenError)


@pytest.mark.parametrize(
    ("fallback", "why"),
    [
        (Fallback(constant=b"12"), "not an iterable of messages"),
        (Fallback(constant=StringValue()), "not an iterable of messages"),
        (Fallback(constant=iter([b"1"])), "gives its messages only once"),
        (Fallback(function=lambda request, error: 1), "not an iterable of messages"),
        (Fallback(function=lambda request, error: {}[1]), "raised"),
        (Fallback(function=lambda request, error: None), ""),
        (Fallback(last_good=LastGood()), ""),
    ],
)
def test_stream_fallback_without_messages(fallback: Fallback, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no iterable of messages leaves the caller the refusal, in every way of asking; logged once."""
    for _ in range(2):
        call = refused_stream(fallback)
        assert (call.code(), call.trailing_metadata()) == (grpc.StatusCode.UNAVAILABLE, ())
        assert "circuit breaker forced_open" in call.details()
        assert isinstance(failure(lambda call=call: next(call)), CircuitOpenError)
        assert call.made.counted(US) == (0, {})
    assert [why in message for message in logged(caplog)] == [True] * bool(why)


def test_messages_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """A generator that raises ends the stream with the refusal, after what it has given; logged once."""

    def messages(request: Any, error: Any) -> Iterator[bytes]:
        def generate() -> Iterator[bytes]:
            yield b"1"
            raise LookupError("a bug of the client")

        return generate()

    call = refused_stream(Fallback(function=messages))
    assert next(call) == b"1"
    assert isinstance(failure(lambda: next(call)), CircuitOpenError)
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert len(logged(caplog)) == 1
    assert "LookupError: a bug of the client" in caplog.text


# ── All together ──────────────────────────────────────────────────────────────────────────────────────────────────────


EVERYTHING = MethodPolicy(
    breaker=BreakerPolicy(consecutive_failures=1000, probe_deadline=FAR, hung_after=FAR, ramp=1.0),
    timeout=FAR,
    attempt_timeout=FAR,
    retry=RETRY,
    max_concurrent_calls=100,
    fallback=Fallback(last_good=LastGood(), function=lambda request, error: None, constant=b"constant"),
)


@pytest.mark.parametrize("kind", ["uu", "su"])
@pytest.mark.parametrize("script", ["ok", "error UNAVAILABLE ill", "error NOT_FOUND no", "raise"])
def test_everything_is_given_back(kind: str, script: str, server: Server) -> None:
    """With all parts, whatever the end of a call, blocking or a future, nothing stays in flight, and the answer is right."""
    expected = {"ok": b"answer", "error UNAVAILABLE ill": b"constant"}.get(script)
    with client(server.target, EVERYTHING) as made:
        requests = (lambda: iter([script.encode()])) if kind == "su" else script.encode
        for make in (lambda: getattr(made, kind)(requests()), lambda: getattr(made, kind).future(requests()).result()):
            try:
                seen = make()
            except grpc.RpcError:
                seen = None
            assert seen == expected
        await_settled(made.breaker(METHODS[kind]))
        assert made.breaker(METHODS[kind]).in_flight == 0


def test_bulkhead_holds_nothing_during_a_pause(served: ProgrammedServer) -> None:
    """A call that pauses between attempts leaves its place in the bulkhead to others."""
    served.act = in_turn(fails("UNAVAILABLE"), answers)
    policy = MethodPolicy(max_concurrent_calls=1, retry=RetryPolicy(initial_backoff=FAR, max_backoff=FAR))
    with client(served.target, policy) as made:
        over = threading.Event()

        def pausing() -> None:
            with suppress(ValueError):  # its channel is closed when the pause is over, long after this test
                failure(lambda: made.call("uu", timeout=2 * FAR, metadata=[("who", "first")]))
            over.set()

        threading.Thread(target=pausing, daemon=True).start()
        await_totals(made, {"failure": 1})
        assert made.call("uu") == b"answer"
        assert not over.is_set()


def test_refusal_names_its_limit(server: Server) -> None:
    """Without a fallback a refusal by a limit is shown as it is, with retries, too: it is never retried."""
    server.journal.release.clear()
    with client(server.target, MethodPolicy(max_concurrent_calls=1, retry=RETRY)) as made:
        first = made.uu.future(b"held")
        assert isinstance(failure(lambda: made.call("uu", b"ok")), BulkheadFullError)
        server.journal.release.set()
        assert first.result() == b"answer"
        assert made.counted() == (0, {})


def test_probe_of_an_interceptor_that_is_there_twice(served: ProgrammedServer) -> None:
    """A probe passes the same interceptor twice with one permit, where the method has parts, too."""
    served.act = in_turn(fails("UNAVAILABLE"), answers)
    clock = FakeClock()
    policy = MethodPolicy(breaker=BreakerPolicy(consecutive_failures=1, half_open_max_calls=1), timeout=PATIENCE)
    breakers = BreakerRegistry(default=policy, clock=clock)
    ours = CircuitBreakerInterceptor(breakers, telemetry=False)
    with grpc.insecure_channel(served.target) as bare:
        method = grpc.intercept_channel(bare, ours, ours).unary_unary(UU)
        failure(lambda: method(b"request"))
        clock.advance(2)
        assert method(b"request") == b"answer"
    assert (breakers[UU].state, breakers[UU].in_flight) == (State.CLOSED, 0)


def test_a_timeout_that_has_ended(served: ProgrammedServer) -> None:
    """A caller's timeout that is over before the call says nothing of the server, with parts, too."""
    served.act = answers
    breakers = BreakerRegistry(default=MethodPolicy(retry=RetryPolicy()))
    with grpc.insecure_channel(served.target) as bare:
        method = grpc.intercept_channel(bare, CircuitBreakerInterceptor(breakers, telemetry=False)).unary_unary(UU)
        assert failure(lambda: method(b"request", timeout=-1)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    totals = breakers[UU].snapshot()["totals"]
    assert (totals.pop("ignored"), set(totals.values()), breakers[UU].in_flight) == (1, {0}, 0)
