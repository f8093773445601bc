"""The parts around the breaker, on real servers and channels of `grpc.aio`: deadlines, retries, fallbacks."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    Fallback,
    LastGood,
    MethodPolicy,
    RetryPolicy,
    RetryThrottling,
    State,
    aio,
)
from tests.integration.endings_table import OLD_GRPCIO, await_settled
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
    """A channel with our interceptors, and the breakers of its methods."""

    def __init__(self, channel: Any, breakers: BreakerRegistry) -> None:
        self.channel = channel
        self.breakers = breakers
        self.uu = channel.unary_unary(UU)
        self.us = channel.unary_stream(US)
        self.su = channel.stream_unary(SU)
        self.ss = channel.stream_stream(SS)

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

    def begin(self, kind: str, request: bytes = b"request", **keywords: Any) -> Any:
        """Begin a call of a kind."""
        return getattr(self, kind)(iter([request]) if kind.startswith("s") else request, **keywords)

    async def call(self, kind: str, request: bytes = b"request", **keywords: Any) -> Any:
        """Make a call of a kind, and wait for its end; returns its answer or answers."""
        made = self.begin(kind, request, **keywords)
        return [message async for message in made] if kind.endswith("s") else await made


@asynccontextmanager
async def client(
    target: str,
    policy: MethodPolicy,
    *,
    inside: tuple[Any, ...] = (),
    outside: tuple[Any, ...] = (),
    **registry: Any,
) -> AsyncIterator[Client]:
    """A client whose calls have all ended and given everything back in the end."""
    breakers = BreakerRegistry(default=policy, **registry)
    ours = aio.interceptors(breakers, telemetry=False)
    options = [("grpc.enable_retries", 0)]  # else grpcio takes out what says how many attempts there were
    interceptors = [*outside, *ours, *inside]
    async with grpc.aio.insecure_channel(target, options=options, interceptors=interceptors) as channel:
        yield Client(channel, breakers)
        for breaker in breakers:
            await asyncio.to_thread(await_settled, breaker)


def play(story: Coroutine[Any, Any, Any]) -> Any:
    """Run a story, but not for ever."""

    async def whole() -> Any:
        return await asyncio.wait_for(story, 2 * PATIENCE)

    return asyncio.run(whole())


async def failure(awaitable: Any) -> Any:
    """The error that a call raises."""
    with pytest.raises(grpc.RpcError) as raised:
        await awaitable
    return raised.value


def await_failure(breaker: CircuitBreaker) -> None:
    """Wait until a call has failed."""
    until = time.monotonic() + PATIENCE
    while not breaker.snapshot()["totals"]["failure"]:
        assert time.monotonic() < until
        time.sleep(0.001)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The errors that were logged, without their tracebacks."""
    return [record.message for record in caplog.records if record.levelname == "ERROR"]


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_timeout_reaches_the_server(kind: str, served: ProgrammedServer) -> None:
    """A call of any kind has the deadline of its policy, at the server, too; a caller's own counts where it is shorter."""
    served.act = answers if kind[1] == "u" else lambda *call: iter([b"answer"])

    async def story() -> None:
        async with client(served.target, MethodPolicy(timeout=100)) as made:
            for timeout in (None, 1000, 10):
                await made.call(kind, timeout=timeout)

    play(story())
    first, second, third = served.calls
    assert [first.had_at_most(100), second.had_at_most(100), third.had_at_most(10)] == [True] * 3
    assert not any(came.had_at_most(50) for came in (first, second))


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_timeout_ends_a_call(kind: str, server: Server) -> None:
    """A call without a deadline of its own ends at the one of its policy, and counts as a failure."""

    async def story() -> None:
        async with client(server.target, MethodPolicy(timeout=0.05)) as made:
            assert (await failure(made.call(kind, b"hang"))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.to_thread(await_settled, made.breaker(METHODS[kind]))
            assert made.totals(METHODS[kind]) == {"failure": 1}

    play(story())


def test_attempt_timeout_is_each_attempts_own(served: ProgrammedServer) -> None:
    """Each attempt has the time of an attempt, and never more than is left of the whole."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        policy = MethodPolicy(breaker=NEVER_OPENS, timeout=100, attempt_timeout=20, retry=RETRY)
        async with client(served.target, policy) as made:
            await failure(made.call("uu"))
            assert all(came.had_at_most(20) for came in served.calls)
            await failure(made.call("uu", timeout=15))
            assert all(came.had_at_most(15) for came in served.calls[3:])

    play(story())
    assert len(served.calls) == 6


PROBING = BreakerPolicy(
    consecutive_failures=1, reset_timeout=0.01, reset_timeout_jitter=0, half_open_max_calls=1, probe_deadline=7
)


@pytest.mark.parametrize("parts", [{}, {"timeout": 100.0}])
def test_probe_deadline(parts: dict[str, Any], served: ProgrammedServer) -> None:
    """A probe of one request and one answer has no more time than the policy gives it; a stream keeps its own."""

    async def half_open(made: Client, method: str) -> None:
        made.breaker(method).admit().failure()
        assert made.breaker(method).state is State.OPEN
        assert await aio.wait_until_admitted(made.breakers, method, PATIENCE)

    async def story() -> None:
        async with client(served.target, MethodPolicy(breaker=PROBING, **parts)) as made:
            await made.call("uu", timeout=50)
            await half_open(made, UU)
            await made.call("uu", timeout=50)
            await half_open(made, UU)
            await made.call("uu", timeout=3)
            await half_open(made, SU)
            await made.call("su", timeout=50)

    play(story())
    assert [came.had_at_most(7) for came in served.calls] == [False, True, True, False]
    assert served.calls[2].had_at_most(3)


# ── Retries ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_attempts_until_one_succeeds(served: ProgrammedServer) -> None:
    """A call is tried again while it fails; each attempt asks the breaker, and says how many there were before it."""
    served.act = in_turn(fails("UNAVAILABLE"), fails("UNAVAILABLE"), answers)

    async def story() -> None:
        async with client(served.target, MethodPolicy(retry=RETRY)) as made:
            call = made.begin("uu", metadata=(("mine", "too"),))
            assert (await call, await call.code()) == (b"answer", grpc.StatusCode.OK)
            assert made.totals() == {"failure": 2, "success": 1}
            assert made.counted() == (2, {})

    play(story())
    assert [came.metadata.get("grpc-previous-rpc-attempts") for came in served.calls] == [None, "1", "2"]
    assert {came.metadata["mine"] for came in served.calls} == {"too"}


def test_attempts_are_bounded(served: ProgrammedServer) -> None:
    """A call that fails each time is made `max_attempts` times; its caller sees the last error, in every way."""
    served.act = in_turn(fails("UNAVAILABLE", "first"), fails("UNAVAILABLE", "second"), fails("UNAVAILABLE", "third"))

    async def story() -> None:
        async with client(served.target, MethodPolicy(retry=RETRY)) as made:
            call = made.begin("uu")
            assert (await failure(call)).details() == "third"
            assert (await call.code(), await call.details()) == (grpc.StatusCode.UNAVAILABLE, "third")

    play(story())
    assert len(served.calls) == 3


@pytest.mark.parametrize(("code", "said"), [("NOT_FOUND", None), ("UNAVAILABLE", "-1"), ("UNAVAILABLE", "100000000")])
def test_what_is_not_retried(code: str, said: str | None, served: ProgrammedServer) -> None:
    """Another status ends the call, and so does a server that says not to come back, or too late."""
    served.act = fails(code, **({} if said is None else {"grpc_retry_pushback_ms": said}))

    async def story() -> None:
        async with client(served.target, MethodPolicy(retry=RETRY)) as made:
            assert (await failure(made.call("uu", timeout=FAR))).details() == "ill"

    play(story())
    assert len(served.calls) == 1


def test_pause_that_outlasts_the_deadline(served: ProgrammedServer) -> None:
    """A pause that takes longer than it should, so that the deadline is over, is followed by no attempt."""

    def slow() -> float:
        if served.calls:
            time.sleep(0.2)
        return 0.5

    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        async with client(served.target, MethodPolicy(timeout=0.2, retry=RETRY), random=slow) as made:
            assert (await failure(made.call("uu"))).details() == "ill"

    play(story())
    assert len(served.calls) == 1


class Answering(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor inside ours that answers by itself."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act = act
        self.calls = 0

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.calls += 1
        return self.act()


def raising(error: Exception) -> Callable[[], Any]:
    """What raises."""

    def act() -> Any:
        raise error

    return act


UNAVAILABLE = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "ill")


@pytest.mark.filterwarnings("ignore:Exception ignored in.*InterceptedCall.__del__")  # old grpcio's, of what was raised
def test_error_that_an_interceptor_raises() -> None:
    """An RPC's error that an interceptor inside ours raises is retried, answered, or reaches the caller as it is."""

    async def story() -> None:
        inside = Answering(raising(UNAVAILABLE))
        async with client("localhost:1", MethodPolicy(retry=RETRY), inside=(inside,)) as made:
            assert (await failure(made.call("uu"))).details() == "ill"
            assert (inside.calls, made.totals()) == (3, {"failure": 3})
        async with client(
            "localhost:1", MethodPolicy(fallback=Fallback(constant=b"constant")), inside=(inside,)
        ) as made:
            assert await made.call("uu") == b"constant"
        broken = Answering(raising(LookupError()))
        policy = MethodPolicy(retry=RETRY, fallback=Fallback(constant=b"constant"))
        async with client("localhost:1", policy, inside=(broken,)) as made:
            with pytest.raises(LookupError):
                await made.call("uu")
            assert (broken.calls, made.totals()) == (1, {"ignored": 1})

    play(story())
    gc.collect()


class Broken(grpc.aio._interceptor.UnaryUnaryCallResponse):  # type: ignore[misc,name-defined]
    """A call of an interceptor's own making that raises what is no error of an RPC."""

    def __await__(self) -> Any:
        raise LookupError("a bug of the client")
        yield


def test_error_of_no_rpc_that_a_call_raises() -> None:
    """What a call raises that is no RPC's error is neither retried nor answered: it reaches the caller."""

    async def story() -> None:
        inside = Answering(lambda: Broken(None))
        policy = MethodPolicy(retry=RETRY, fallback=Fallback(constant=b"constant"))
        async with client("localhost:1", policy, inside=(inside,)) as made:
            call = made.begin("uu")
            with pytest.raises(LookupError):
                await call
            assert await call.code() is grpc.StatusCode.OK
            assert inside.calls == 1

    play(story())


def test_answer_that_cannot_be_read_is_not_kept(served: ProgrammedServer) -> None:
    """An answer that the application's own code cannot read, of which grpcio makes `None`, is no last good answer."""

    def broken(data: bytes) -> Any:
        raise LookupError("a bug of the client")

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=Fallback(last_good=LastGood()))) as made:
            method = made.channel.unary_unary(UU, response_deserializer=broken)
            assert await method(b"a") is None
            served.act = fails("UNAVAILABLE")
            assert (await failure(method(b"a"))).details() == "ill"

    play(story())


def test_breaker_that_opens_ends_the_retries(served: ProgrammedServer) -> None:
    """A refused attempt ends the retries: the server is asked no more, and the caller sees its last error."""
    served.act = in_turn(fails("UNAVAILABLE", "first"), fails("UNAVAILABLE", "second"))

    async def story() -> None:
        retry = RetryPolicy(max_attempts=5, initial_backoff=0.01)
        policy = MethodPolicy(breaker=BreakerPolicy(consecutive_failures=2), retry=retry)
        async with client(served.target, policy) as made:
            error = await failure(made.call("uu"))
            assert (error.details(), isinstance(error, CircuitOpenError)) == ("second", False)
            assert (made.totals(), made.counted()) == ({"failure": 2, "rejected": 1}, (1, {}))
            assert isinstance(await failure(made.call("uu")), CircuitOpenError)
            assert made.totals() == {"failure": 2, "rejected": 2}

    play(story())
    assert len(served.calls) == 2


def test_retries_stop_when_most_calls_fail(served: ProgrammedServer) -> None:
    """Throttled retries stop while no more than half of the tokens are there, and go on after successes."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        throttling = RetryThrottling(max_tokens=4, token_ratio=1)
        policy = MethodPolicy(breaker=NEVER_OPENS, retry=RETRY)
        async with client(served.target, policy, retry_throttling=throttling) as made:
            await failure(made.call("uu"))
            assert len(served.calls) == 2  # two tokens are gone
            await failure(made.call("uu"))
            assert len(served.calls) == 3
            served.act = answers
            for _ in range(3):
                await made.call("uu")
            served.act = fails("UNAVAILABLE")
            await failure(made.call("uu"))
            assert len(served.calls) == 8

    play(story())


@pytest.mark.parametrize("kind", ["us", "su", "ss"])
def test_streams_are_not_retried(kind: str, served: ProgrammedServer) -> None:
    """A call that streams is made once."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        async with client(served.target, MethodPolicy(retry=RETRY)) as made:
            await failure(made.call(kind))

    play(story())
    assert len(served.calls) == 1


@pytest.mark.parametrize("how", ["task", "call"])
def test_cancellation_during_a_pause(how: str, served: ProgrammedServer) -> None:
    """A task or a call that is cancelled during a pause ends as cancelled; no permit is held meanwhile."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        policy = MethodPolicy(
            max_concurrent_calls=1,
            retry=RetryPolicy(initial_backoff=FAR, max_backoff=FAR),
            fallback=Fallback(constant=b""),
        )
        async with client(served.target, policy) as made:
            call = made.begin("uu")

            async def wait() -> Any:
                return await call

            task = asyncio.ensure_future(wait())
            await asyncio.to_thread(await_failure, made.breaker())
            assert made.breaker().in_flight == 0
            (task if how == "task" else call).cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (call.cancelled(), await call.code()) == (True, grpc.StatusCode.CANCELLED)
            assert made.totals() == {"failure": 1}

    play(story())
    assert len(served.calls) == 1


class Changing(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    """An interceptor around ours that hands on details of its own making."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self.change = change

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self.change(client_call_details), request)


def bare(details: Any) -> Any:
    """Details that are no named tuple."""
    return SimpleNamespace(**details._asdict())


def plain_metadata(details: Any) -> Any:
    """Metadata that is a list, as other interceptors make it."""
    return details._replace(metadata=list(details.metadata))


def metadata_once(details: Any) -> Any:
    """Metadata that can be read once."""
    return details._replace(metadata=iter(list(details.metadata)))


@pytest.mark.parametrize("change", [bare, plain_metadata, metadata_once])
def test_details_of_another_interceptors_making(change: Callable[[Any], Any], served: ProgrammedServer) -> None:
    """Whatever an interceptor around ours made of the details, each attempt has what they say, and the deadline."""
    served.act = in_turn(fails("UNAVAILABLE"), answers)

    async def story() -> None:
        policy = MethodPolicy(timeout=100, retry=RETRY)
        async with client(served.target, policy, outside=(Changing(change),)) as made:
            assert await made.call("uu", metadata=(("mine", "too"),), timeout=500) == b"answer"

    play(story())
    assert [came.metadata["mine"] for came in served.calls] == ["too", "too"]
    assert all(came.had_at_most(100) for came in served.calls)


# ── Fallbacks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(request: Any, error: Any) -> bytes:
    """A fallback that says what it was asked."""
    return b"%s after %s" % (request if isinstance(request, bytes) else b"many", error.code().name.encode())


async def asked_later(request: Any, error: Any) -> bytes:
    """The same after a while."""
    await asyncio.sleep(0)
    return asked(request, error)


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("kind", ["uu", "su"])
@pytest.mark.parametrize("function", [asked, asked_later])
def test_function_answers(function: Any, kind: str, refused: bool, served: ProgrammedServer) -> None:
    """A function or coroutine function answers a call that failed or was refused; the call is a good one that says so."""
    served.act = fails("UNAVAILABLE")
    expected = b"request after UNAVAILABLE" if kind == "uu" else b"many after UNAVAILABLE"

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
            breaker = made.breaker(METHODS[kind])
            if refused:
                breaker.force_open()
            call = made.begin(kind)
            ended = asyncio.Event()
            call.add_done_callback(lambda call: ended.set())
            assert (await call, await call) == (expected, expected)
            assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
            assert await call.debug_error_string() == ""
            assert list(await call.trailing_metadata()) == [("grpc-breaker-fallback", "function")]
            assert "grpc-breaker-fallback" not in (await call.initial_metadata())
            assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
            if refused:
                await call.wait_for_connection()
            await ended.wait()
            inner = await call._interceptors_task
            assert repr(inner)
            assert inner.time_remaining() is None or not refused
            await asyncio.to_thread(await_settled, breaker)
            assert made.totals(METHODS[kind]) == ({"rejected": 1} if refused else {"failure": 1})
            assert made.counted(METHODS[kind]) == (0, {"function": 1})

    play(story())


@pytest.mark.parametrize("kind", ["uu", "su"])
@pytest.mark.parametrize("ask", ["code", "details", "trailing_metadata", "debug_error_string"])
def test_answer_is_found_by_who_asks_first(ask: str, kind: str, served: ProgrammedServer) -> None:
    """Whatever is asked first, it is asked of the answered call, and the function is called once."""
    calls = []

    async def function(request: Any, error: Any) -> bytes:
        calls.append(error)
        await asyncio.sleep(0)
        return b"answer"

    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
            call = made.begin(kind)
            said, code, answer = await asyncio.gather(getattr(call, ask)(), call.code(), call)
            marked = grpc.aio.Metadata(("grpc-breaker-fallback", "function"))
            expected = {"code": grpc.StatusCode.OK, "trailing_metadata": marked}
            assert (said, code, answer) == (expected.get(ask, ""), grpc.StatusCode.OK, b"answer")

    play(story())
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["uu", "su"])
@pytest.mark.parametrize(
    ("fallback", "why"),
    [
        (Fallback(constant=b"", when=("INTERNAL", "refused")), ""),
        (Fallback(function=lambda request, error: {}[1], constant=b""), "raised"),
        (Fallback(function=lambda request, error: None), ""),
        (Fallback(last_good=LastGood()), ""),
    ],
)
def test_error_that_is_not_answered(
    fallback: Fallback, why: str, kind: str, served: ProgrammedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that is not named, and one that the function has no answer to, reaches the caller in every way."""
    served.act = fails("UNAVAILABLE", server="echo")

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=fallback)) as made:
            for _ in range(2):
                call = made.begin(kind)
                assert (await failure(call)).details() == "ill"
                assert (await call.code(), await call.details()) == (grpc.StatusCode.UNAVAILABLE, "ill")
                assert ("server", "echo") in list(await call.trailing_metadata())
                assert await call.debug_error_string()
            assert made.counted(METHODS[kind]) == (0, {})

    play(story())
    assert [why in message for message in logged(caplog)] == [True] * bool(why)


def test_refusal_that_is_not_named(served: ProgrammedServer) -> None:
    """A refusal is named by "refused" alone, whatever status it shows."""

    async def story() -> None:
        policy = MethodPolicy(fallback=Fallback(constant=[b""], when=("UNAVAILABLE",)))
        async with client(served.target, policy) as made:
            for kind in ("uu", "su", "us", "ss"):
                made.breaker(METHODS[kind]).force_open()
                assert isinstance(await failure(made.call(kind)), CircuitOpenError)

    play(story())


def test_request_stream_that_an_interceptor_fails(served: ProgrammedServer) -> None:
    """An RPC's error that an interceptor inside ours raises instead of a stream is answered, or reaches the caller."""

    class Raising(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, requests: Any) -> Any:
            raise UNAVAILABLE

    async def story() -> None:
        for when, expected in (("UNAVAILABLE", b"constant"), ("INTERNAL", None)):
            policy = MethodPolicy(fallback=Fallback(constant=b"constant", when=(when,)))
            async with client(served.target, policy, inside=(Raising(),)) as made:
                if expected is None:
                    assert (await failure(made.call("su"))).details() == "ill"
                else:
                    assert await made.call("su") == expected

    play(story())


def test_request_stream_that_is_written(served: ProgrammedServer) -> None:
    """A call of many requests can be written to and half-closed as without a fallback, and is answered when it fails."""
    served.act = in_turn(answers, fails("UNAVAILABLE"))

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=Fallback(function=asked))) as made:
            for expected in (b"answer", b"many after UNAVAILABLE"):
                call = made.su()
                await call.write(b"first")  # the server answers it, and reads no other
                await call.done_writing()
                assert await call == expected
                with pytest.raises(asyncio.InvalidStateError):
                    await call.write(b"second")
            assert made.counted(SU) == (0, {"function": 1})

    play(story())
    assert [came.request for came in served.calls] == [b"first", b"first"]


def test_interceptor_around_a_request_stream(served: ProgrammedServer) -> None:
    """An interceptor around ours is handed a running call of the kind it knows, with its whole API."""
    seen: list[Any] = []

    class Around(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]
        async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, requests: Any) -> Any:
            call = await continuation(client_call_details, None)
            await call.wait_for_connection()
            await call.write(b"by the interceptor")
            seen.append((call.done(), call.time_remaining() is not None, call._done_writing_flag))
            await call.done_writing()
            seen.append(call._done_writing_flag)
            go_on.set()
            await call.initial_metadata()
            return call

    go_on = threading.Event()

    def act(request: bytes, context: Any, number: int) -> Any:
        assert go_on.wait(PATIENCE)
        return fails("UNAVAILABLE")(request, context, number)

    served.act = act

    async def story() -> None:
        policy = MethodPolicy(timeout=FAR, fallback=Fallback(function=asked))
        async with client(served.target, policy, outside=(Around(),)) as made:
            assert await made.su() == b"many after UNAVAILABLE"

    play(story())
    assert seen == [(False, True, False), True]


def test_refused_request_stream_is_written_to() -> None:
    """Writing to a refused call of many requests raises as to every call that has ended; its answer can be had."""

    async def story() -> None:
        async with client("localhost:1", MethodPolicy(fallback=Fallback(constant=b"constant"))) as made:
            made.breaker(SU).force_open()
            call = made.su()
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"")
            inner = await call._interceptors_task
            with pytest.raises(asyncio.InvalidStateError, match="already finished"):
                await inner.write(b"")
            await inner.done_writing()
            assert await call == b"constant"

    play(story())


def test_call_that_is_cancelled_is_not_answered(server: Server) -> None:
    """A call that its caller cancels ends as cancelled, whatever the policy names."""

    async def story() -> None:
        policy = MethodPolicy(fallback=Fallback(constant=b"", when=("CANCELLED",)))
        async with client(server.target, policy) as made:
            for kind in ("uu", "su"):
                entry = server.journal[f"cancelled {kind}"]
                call = made.begin(kind, b"hang", metadata=(("call-key", f"cancelled {kind}"),))
                assert await asyncio.to_thread(entry.began.wait, PATIENCE)
                assert call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert (call.cancelled(), await call.code()) == (True, grpc.StatusCode.CANCELLED)
                assert await call.details() == "Locally cancelled by application!"
                assert await asyncio.to_thread(entry.cancelled.wait, PATIENCE)
                await asyncio.to_thread(await_settled, made.breaker(METHODS[kind]))
                assert made.totals(METHODS[kind]) == {"ignored": 1}

    play(story())


def test_status_of_the_server_that_says_cancelled(served: ProgrammedServer) -> None:
    """A CANCELLED of the server's is an error as any other."""
    served.act = fails("CANCELLED")

    async def story() -> None:
        policy = MethodPolicy(fallback=Fallback(constant=b"constant", when=("CANCELLED",)))
        async with client(served.target, policy) as made:
            for kind in ("uu", "su"):
                assert await made.call(kind) == b"constant"

    play(story())


@pytest.mark.parametrize("how", ["wait", "task", "call"])
def test_cancellation_while_a_function_is_awaited(how: str, served: ProgrammedServer) -> None:
    """Who stops waiting for a call's code leaves the function to others; who cancels the call, or awaits it, ends it."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        began, go_on, ended = asyncio.Event(), asyncio.Event(), list[str]()

        async def function(request: Any, error: Any) -> bytes:
            began.set()
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return b"answer"

        async with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
            call = made.begin("su")

            async def wait() -> Any:
                return await (call.code() if how == "wait" else call)

            task = asyncio.ensure_future(wait())
            await began.wait()
            assert (call.cancel() if how == "call" else task.cancel()) is True
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            if how == "wait":
                assert await call == b"answer"
            assert ended == ([] if how == "wait" else ["cancelled"])

    play(story())


def test_end_of_a_call_that_was_cancelled_while_a_function_is_awaited(served: ProgrammedServer) -> None:
    """Once who awaited the call has cancelled the function, the call's own end counts: nobody else is cancelled."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        began = asyncio.Event()

        async def function(request: Any, error: Any) -> bytes:
            began.set()
            await asyncio.Event().wait()
            return b"answer"

        async with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
            call = made.begin("su")
            code = asyncio.ensure_future(aw(call.code()))
            task = asyncio.ensure_future(aw(call))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await code is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == "ill"
            assert (await failure(call)).details() == "ill"

    async def aw(awaitable: Any) -> Any:
        return await awaitable

    play(story())


@pytest.mark.parametrize("kind", ["uu", "su"])
def test_function_that_waits_for_what_is_cancelled(
    kind: str, served: ProgrammedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that ends as cancelled, while nobody has cancelled the call, leaves its caller the original error."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        shared = asyncio.get_running_loop().create_future()
        shared.cancel()

        async def function(request: Any, error: Any) -> Any:
            return await shared

        async with client(served.target, MethodPolicy(fallback=Fallback(function=function))) as made:
            assert (await failure(made.call(kind))).details() == "ill"

    play(story())
    assert ["raised; the caller gets the original error" in message for message in logged(caplog)] == [True]


def test_channel_that_is_closed_while_a_function_is_awaited(served: ProgrammedServer) -> None:
    """A channel can be closed while tasks wait in our calls: it knows them, or need not."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        began, never = asyncio.Event(), asyncio.Event()

        async def function(request: Any, error: Any) -> bytes:
            began.set()
            await never.wait()
            return b"answer"

        breakers = BreakerRegistry(default=MethodPolicy(fallback=Fallback(function=function)))
        channel = grpc.aio.insecure_channel(served.target, interceptors=aio.interceptors(breakers, telemetry=False))
        call = channel.stream_unary(SU)(iter([b""]))
        inner = await call._interceptors_task
        tasks = [
            asyncio.ensure_future(inner.code()),
            asyncio.ensure_future(inner.details()),
            asyncio.ensure_future(aw(call)),
        ]
        await began.wait()
        await channel.close()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def aw(call: Any) -> Any:
        return await call

    play(story())


@pytest.mark.parametrize("kind", ["uu", "su"])
def test_dropped_call_is_not_held(kind: str, server: Server) -> None:
    """A call with a fallback that nobody holds ends as without one, and its permit comes back."""

    async def story() -> None:
        async with client(server.target, MethodPolicy(fallback=Fallback(constant=b""))) as made:
            entry = server.journal[f"dropped {kind}"]
            call = made.begin(kind, b"wait 0.05;ok", metadata=(("call-key", f"dropped {kind}"),))
            assert await asyncio.to_thread(entry.began.wait, PATIENCE)
            del call
            gc.collect()
            assert await asyncio.to_thread(entry.over.wait, PATIENCE)

    play(story())


# ── Last good answers ─────────────────────────────────────────────────────────────────────────────────────────────────


LAST_GOOD = Fallback(last_good=LastGood())


def echo(request: bytes, context: Any, number: int) -> bytes:
    """Answers with the request and the number of the call."""
    return b"%s %d" % (request, number)


def test_last_good_answer(served: ProgrammedServer) -> None:
    """The last answer to the same request is given again, also when it is refused, and marked; other requests have none."""
    served.act = echo

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
            for request in (b"a", b"a", b"b"):
                await made.call("uu", request)
            served.act = fails("UNAVAILABLE")
            call = made.begin("uu", b"a")
            assert await call == b"a 2"
            assert list(await call.trailing_metadata()) == [("grpc-breaker-fallback", "last-good")]
            assert (await failure(made.call("uu", b"c"))).details() == "ill"
            made.breaker().force_open()
            assert await made.call("uu", b"b") == b"b 3"

    play(story())


def test_callers_get_messages_of_their_own(served: ProgrammedServer) -> None:
    """What a caller does to an answer changes neither what is kept nor what others get."""
    served.act = lambda request, context, number: StringValue(value=f"number {number}").SerializeToString()

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
            method = made.channel.unary_unary(
                UU, request_serializer=StringValue.SerializeToString, response_deserializer=StringValue.FromString
            )
            (await method(StringValue(value="a"))).value = "changed"
            served.act = fails("UNAVAILABLE")
            (await method(StringValue(value="a"))).value = "changed, too"
            assert await method(StringValue(value="a")) == StringValue(value="number 1")

    play(story())


def test_answers_for_one_user(served: ProgrammedServer, caplog: pytest.LogCaptureFixture) -> None:
    """Without metadata that tells users apart, calls with an authorization are neither kept nor answered; with it, they are."""
    served.act = echo
    alice, bob = (("authorization", "Alice"),), (("authorization", "Bob"),)

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=LAST_GOOD)) as made:
            await made.call("uu", b"a", metadata=alice)
            served.act = fails("UNAVAILABLE")
            assert (await failure(made.call("uu", b"a", metadata=alice))).details() == "ill"
            assert (await failure(made.call("uu", b"a"))).details() == "ill"
        served.act = echo
        told_apart = Fallback(last_good=LastGood(key_metadata=("authorization",)))
        async with client(served.target, MethodPolicy(fallback=told_apart)) as made:
            await made.call("uu", b"a", metadata=alice)
            served.act = fails("UNAVAILABLE")
            assert await made.call("uu", b"a", metadata=alice) == b"a 4"
            assert (await failure(made.call("uu", b"a", metadata=bob))).details() == "ill"

    play(story())
    assert ["key_metadata" in message for message in logged(caplog)] == [True]


# ── Response streams ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["us", "ss"])
@pytest.mark.parametrize("how", ["iterated", "read"])
@pytest.mark.parametrize(
    ("fallback", "source"),
    [
        (Fallback(constant=[b"1", b"2"]), "constant"),
        (Fallback(function=lambda request, error: iter([b"1", b"2"])), "function"),
    ],
)
def test_refused_stream_is_answered(fallback: Fallback, source: str, how: str, kind: str) -> None:
    """A response stream that is refused gives the messages of its fallback, iterated or read, and says so."""

    async def story() -> None:
        async with client("localhost:1", MethodPolicy(fallback=fallback)) as made:
            made.breaker(METHODS[kind]).force_open()
            call = made.begin(kind)
            if how == "iterated":
                messages = [message async for message in call]
            else:
                messages = [await call.read(), await call.read()]
                assert OLD_GRPCIO or await call.read() is grpc.aio.EOF  # else any interceptor makes it raise here
            assert messages == [b"1", b"2"]
            assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
            assert list(await call.trailing_metadata()) == [("grpc-breaker-fallback", source)]
            assert made.counted(METHODS[kind]) == (0, {source: 1})
            inner = await call._interceptors_task
            assert await inner.read() is grpc.aio.EOF

    play(story())


def test_stream_that_fails_is_not_answered(served: ProgrammedServer) -> None:
    """A response stream that the server ends with an error ends with it: it may have answered before."""
    served.act = fails("UNAVAILABLE")

    async def story() -> None:
        async with client(served.target, MethodPolicy(fallback=Fallback(constant=[b"1"]))) as made:
            assert (await failure(made.call("us"))).details() == "ill"
            assert (await failure(made.call("ss"))).details() == "ill"

    play(story())


def unreadable(request: Any, error: Any) -> Any:
    """Returns an iterable that cannot be iterated over."""

    class Broken:
        def __iter__(self) -> Iterator[bytes]:
            raise LookupError

    return Broken()


@pytest.mark.parametrize(
    ("fallback", "why"),
    [
        (Fallback(constant=b"12"), "not an iterable of messages"),
        (Fallback(constant=iter([b"1"])), "gives its messages only once"),
        (Fallback(function=lambda request, error: 1), "not an iterable of messages"),
        (Fallback(function=unreadable), "cannot be iterated over"),
        (Fallback(last_good=LastGood()), ""),
    ],
)
def test_stream_fallback_without_messages(fallback: Fallback, why: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no iterable of messages leaves the caller the refusal; logged once."""

    async def story() -> None:
        async with client("localhost:1", MethodPolicy(fallback=fallback)) as made:
            made.breaker(US).force_open()
            for _ in range(2):
                call = made.begin("us")
                assert isinstance(await failure(anext(aiter(call))), CircuitOpenError)
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert made.counted(US) == (0, {})

    play(story())
    assert [why in message for message in logged(caplog)] == [True] * bool(why)


def test_messages_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """A generator that raises ends the stream with the refusal, after what it has given; logged once."""

    def messages(request: Any, error: Any) -> Iterator[bytes]:
        def generate() -> Iterator[bytes]:
            yield b"1"
            raise LookupError("a bug of the client")

        return generate()

    async def story() -> None:
        async with client("localhost:1", MethodPolicy(fallback=Fallback(function=messages))) as made:
            made.breaker(US).force_open()
            stream = aiter(made.begin("us"))
            assert await anext(stream) == b"1"
            assert isinstance(await failure(anext(stream)), CircuitOpenError)

    play(story())
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
    """With all parts, whatever the end of a call, nothing stays in flight, and the answer is right."""
    expected = {"ok": b"answer", "error UNAVAILABLE ill": b"constant"}.get(script)

    async def story() -> None:
        async with client(server.target, EVERYTHING) as made:
            try:
                seen = await made.call(kind, script.encode())
            except grpc.RpcError:
                seen = None
            assert seen == expected
            await asyncio.to_thread(await_settled, made.breaker(METHODS[kind]))
            assert made.breaker(METHODS[kind]).in_flight == 0

    play(story())
