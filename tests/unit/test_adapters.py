"""Both adapters, where no real server leads: odd calls, trouble in our own bookkeeping, the refused call's whole API."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitBreakerInterceptor,
    CircuitOpenError,
    Outcome,
    Permit,
    Rejection,
    aio,
)
from grpc_breaker import _sync as sync
from grpc_breaker._rpc import Guard
from grpc_breaker.testing import FakeClock

METHOD = "/pkg.S/M"


class Details:
    """Call details with nothing but a method."""

    method = METHOD


@pytest.fixture
def clock() -> FakeClock:
    """The registry's clock."""
    return FakeClock()


@pytest.fixture
def breakers(clock: FakeClock) -> BreakerRegistry:
    """A registry."""
    return BreakerRegistry(clock=clock)


def totals(breakers: BreakerRegistry) -> dict[str, int]:
    """What was counted, without the zeros."""
    counted: dict[str, int] = breakers[METHOD].snapshot()["totals"]
    return {name: calls for name, calls in counted.items() if calls}


def intercept(breakers: BreakerRegistry, call: Any, kind: str = "unary_stream") -> Any:
    """Make one guarded call: the continuation returns `call`."""
    interceptor = CircuitBreakerInterceptor(breakers, telemetry=False)
    return getattr(interceptor, f"intercept_{kind}")(lambda details, request: call, Details(), b"")


class Running:
    """A call of somebody else's: it has the public API, and no grpcio state."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.ended: grpc.StatusCode | None = None

    def done(self) -> bool:
        return self.ended is not None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callbacks.append(callback)
        return True

    def code(self) -> Any:
        return self.ended

    def details(self) -> str:
        return ""

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def end(self, code: grpc.StatusCode) -> None:
        self.ended = code
        for callback in self.callbacks:
            callback()


# ── Sync ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_call_of_somebody_elses(breakers: BreakerRegistry) -> None:
    """A call without grpcio's state is settled by its public API."""
    call = Running()
    assert intercept(breakers, call) is call
    call.end(grpc.StatusCode.UNAVAILABLE)
    assert totals(breakers) == {"failure": 1}


def test_call_of_somebody_elses_that_is_thrown_away(breakers: BreakerRegistry) -> None:
    """Such a call gives its permit back when it is thrown away; we do not keep it alive."""
    intercept(breakers, Running())
    gc.collect()
    assert totals(breakers) == {"ignored": 1}


@pytest.mark.parametrize("shows_its_dictionary", [False, True])
def test_wrapper_that_is_thrown_away(breakers: BreakerRegistry, shows_its_dictionary: bool) -> None:
    """A wrapper that hands on to grpcio's call may be thrown away while that runs on: its status still counts."""

    class Wrapper:
        def __init__(self, call: Any) -> None:
            self.call = call

        def __getattr__(self, name: str) -> Any:
            return getattr(self.call, name)

    class Proxy(Wrapper):
        """Shows the dictionary of what it wraps, like `wrapt.ObjectProxy`."""

        __slots__ = ()

        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            return {"_state": self.call._state}

    call = Running()
    call._state = state = State()  # type: ignore[attr-defined]
    intercept(breakers, (Proxy if shows_its_dictionary else Wrapper)(call))
    gc.collect()
    assert totals(breakers) == {}
    state.code = grpc.StatusCode.UNAVAILABLE
    call.end(state.code)
    assert totals(breakers) == {"failure": 1}


def test_wrapper_of_a_call_that_calls_nobody_back(breakers: BreakerRegistry) -> None:
    """Where callbacks are dropped with the call, the permit comes back with the last of them."""

    class Forgetful(Running):
        _state = SimpleNamespace()

        def add_callback(self, callback: Callable[[], None]) -> bool:
            self._state.callbacks = [callback]
            return True

    call = Forgetful()
    intercept(breakers, call)
    assert totals(breakers) == {}
    Forgetful._state.callbacks.clear()
    assert totals(breakers) == {"ignored": 1}


def test_interrupted_while_a_call_is_looked_at(breakers: BreakerRegistry) -> None:
    """Ctrl-C before a call can be followed reaches the caller, and the permit comes back, sync and asyncio."""

    class Interrupted(Running):
        def done(self) -> bool:
            raise KeyboardInterrupt

    for look in (intercept, intercept_aio):
        with pytest.raises(KeyboardInterrupt):
            look(breakers, Interrupted())
        assert breakers[METHOD].in_flight == 0
    assert totals(breakers) == {"ignored": 2}


class Stop(BaseException):
    """What is no `Exception`."""


def interrupt(breakers: BreakerRegistry, error: type[BaseException]) -> None:
    """Have a classifier raise what is no `Exception`."""

    def interrupted(call: Any) -> None:
        raise error

    breakers[METHOD].reconfigure(BreakerPolicy(classify=interrupted))


def in_a_thread(act: Callable[[], object]) -> list[BaseException]:
    """Act as grpcio does when it calls back; returns what would have ended its thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_callback_that_is_interrupted(breakers: BreakerRegistry, error: type[BaseException]) -> None:
    """What is no `Exception` and is raised in a callback on the main thread goes on; the permit comes back."""
    interrupt(breakers, error)
    intercept(breakers, call := Running())
    with pytest.raises(error):
        call.end(grpc.StatusCode.OK)
    assert totals(breakers) == {"ignored": 1}


def test_callback_that_is_interrupted_elsewhere(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """On another thread, which may be grpcio's, it ends no thread, and is logged; the permit comes back."""
    interrupt(breakers, Stop)
    intercept(breakers, call := Running())
    assert in_a_thread(lambda: call.end(grpc.StatusCode.OK)) == []
    assert totals(breakers) == {"ignored": 1}
    assert "settling an ended call failed" in caplog.text


def test_call_that_ends_while_we_look(breakers: BreakerRegistry) -> None:
    """A call that ends between two looks takes no callback any more, and is settled at once."""

    class Ending(Running):
        def add_callback(self, callback: Callable[[], None]) -> bool:
            self.ended = grpc.StatusCode.OK
            return False

    intercept(breakers, Ending())
    assert totals(breakers) == {"success": 1}


def test_call_without_an_api(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """What is no call at all is handed on, and ignored; the log says so once."""
    answer = object()
    assert intercept(breakers, answer, "unary_unary") is answer
    assert totals(breakers) == {"ignored": 1}
    assert "following a call failed" in caplog.text


def test_call_whose_status_raises(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Trouble in a callback, on the channel's own thread, is logged and harms nobody."""

    class Broken(Running):
        def code(self) -> Any:
            raise LookupError

    call = Broken()
    intercept(breakers, call)
    call.end(grpc.StatusCode.OK)
    assert totals(breakers) == {"ignored": 1}
    assert "settling an ended call failed" in caplog.text


def test_method_left_alone() -> None:
    """A method without a breaker is called as if we were not there."""
    call = object()
    assert intercept(BreakerRegistry(default=None), call) is call


def test_clock_that_begins_to_fail(caplog: pytest.LogCaptureFixture) -> None:
    """When our own bookkeeping fails, calls go on unguarded, and the log says so once."""
    trouble: list[bool] = []

    def clock() -> float:
        if trouble:
            raise OSError
        return 0.0

    breakers = BreakerRegistry(clock=clock)
    breakers[METHOD]
    call = Running()
    trouble.append(True)
    assert intercept(breakers, call) is call
    assert not call.callbacks
    assert "asking the breaker failed" in caplog.text


class State:
    """A call's state as grpcio keeps it."""

    def __init__(self) -> None:
        self.code: Any = None
        self.details = ""
        self.initial_metadata: Any = None


def probe(breakers: BreakerRegistry, clock: FakeClock) -> Permit:
    """A probe of a half-open breaker."""
    breaker = breakers[METHOD]
    for _ in range(5):
        breaker.admit().failure()
    clock.advance(1000)
    return breaker.admit()


def test_bare_iterator_of_another_interceptor(breakers: BreakerRegistry, clock: FakeClock) -> None:
    """A bare iterator is handed on with what it has, and settled when it ends."""

    class Messages:
        words = "its own"

        def __init__(self) -> None:
            self.left = [b"2", b"1"]

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            if not self.left:
                raise StopIteration
            return self.left.pop()

    permit = probe(breakers, clock)
    permit.success()
    stream = intercept(breakers, Messages())
    assert stream.words == "its own"
    assert list(stream) == [b"1", b"2"]
    assert breakers[METHOD].in_flight == 0
    assert totals(breakers)["success"] == 2


def test_bare_iterator_whose_breakers_clock_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """The messages of a probe go on when our bookkeeping cannot: that is logged, once."""

    class Breaking(FakeClock):
        broken = False

        def __call__(self) -> float:
            if self.broken:
                raise OSError
            return super().__call__()

    clock = Breaking()
    breakers = BreakerRegistry(clock=clock)
    for _ in range(5):
        breakers[METHOD].admit().failure()
    clock.advance(100)
    stream = intercept(breakers, iter([b"1", b"2"]))
    clock.broken = True
    assert [next(stream), next(stream)] == [b"1", b"2"]
    assert caplog.text.count("counting the first answer of a stream failed") == 1


@pytest.mark.parametrize("streams", [False, True])
def test_aio_call_of_somebodys_own(streams: bool, breakers: BreakerRegistry) -> None:
    """What only looks like one of grpcio's wrappers is asked for its status, and not looked into."""

    class Own(Ended):
        _call = None

        @property
        def _interceptors_task(self) -> Any:
            raise AssertionError

    intercept_aio(breakers, Own(grpc.StatusCode.UNAVAILABLE), "unary_stream" if streams else "unary_unary")
    assert totals(breakers) == {"failure": 1}


def test_bare_iterator_that_is_closed(breakers: BreakerRegistry) -> None:
    """A bare iterator that is closed is settled there: a success if it had brought a message."""
    closed: list[bool] = []

    class Messages:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> bytes:
            return b""

        def close(self) -> None:
            closed.append(True)

    stream = intercept(breakers, Messages())
    next(stream)
    stream.close()
    assert closed == [True]
    assert totals(breakers) == {"success": 1}
    intercept(breakers, iter([b""])).close()
    assert totals(breakers) == {"success": 1, "ignored": 1}


def refused(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> sync.RefusedCall:
    """A refused sync call."""
    breaker = CircuitBreaker("pkg.S/M", clock=FakeClock())
    breaker.force_open()
    rejection = breaker.try_admit("pkg.S/M")
    assert isinstance(rejection, Rejection)
    return sync.refused_call(rejection, code)


def test_refused_call_is_error_call_future_and_stream() -> None:
    """A refused call can be asked everything that a call, a future and a stream can be asked."""
    call = refused()
    assert isinstance(call, CircuitOpenError | grpc.RpcError)
    assert (call.code(), call.debug_error_string()) == (grpc.StatusCode.UNAVAILABLE, call.details())
    assert (call.initial_metadata(), call.trailing_metadata(), call.time_remaining()) == ((), (), None)
    assert (call.done(), call.running(), call.is_active()) == (True, False, False)
    assert (call.cancel(), call.cancelled(), call.add_callback(lambda: None)) == (False, False, False)
    assert call.exception(timeout=1) is call
    assert call.traceback(timeout=1) is None
    for attempt in (lambda: call.result(timeout=1), lambda: next(call), call.next, lambda: list(call)):
        with pytest.raises(CircuitOpenError) as error:
            attempt()
        assert error.value is call


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Ended:
    """An asyncio call that has ended, or has not."""

    def __init__(self, code: Any = grpc.StatusCode.OK, *, done: bool = True) -> None:
        self.status = code
        self.is_done = done

    def done(self) -> bool:
        return self.is_done

    def cancelled(self) -> bool:
        return self.status is grpc.StatusCode.CANCELLED

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self.is_done:
            callback(self)

    async def code(self) -> Any:
        return self.status

    async def details(self) -> str:
        return "gone"

    async def trailing_metadata(self) -> None:
        return None

    async def initial_metadata(self) -> None:
        return None

    def __await__(self) -> Generator[Any, None, bytes]:
        code = yield from self.code().__await__()
        if code is grpc.StatusCode.OK:
            return b""
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")


def intercept_aio(breakers: BreakerRegistry, call: Any, kind: str = "unary_stream") -> Any:
    """Make one guarded asyncio call: the continuation returns `call`."""
    return asyncio.run(intercept_in_asyncio(breakers, call, kind))


async def intercept_in_asyncio(breakers: BreakerRegistry, call: Any, kind: str = "unary_stream") -> Any:
    """The same, in a loop that runs."""

    async def continuation(details: Any, request: Any) -> Any:
        return call

    for interceptor in aio.interceptors(breakers, telemetry=False):
        if hasattr(interceptor, f"intercept_{kind}"):
            return await getattr(interceptor, f"intercept_{kind}")(continuation, Details(), b"")
    raise AssertionError


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_aio_status_counts(breakers: BreakerRegistry, kind: str) -> None:
    """A call's status is read at its end, without a loop."""
    intercept_aio(breakers, Ended(grpc.StatusCode.UNAVAILABLE), kind)
    assert breakers[METHOD].snapshot()["last_failures"] == [{"status": "UNAVAILABLE", "details": "gone"}]


def test_aio_method_left_alone() -> None:
    """A method without a breaker is called as if we were not there."""
    call = Ended()
    assert intercept_aio(BreakerRegistry(default=None), call) is call


def test_aio_status_that_is_not_there_yet(breakers: BreakerRegistry) -> None:
    """A status that would have to be waited for is none: the call is ignored."""

    class Waiting(Ended):
        async def code(self) -> Any:
            await asyncio.sleep(0)

    intercept_aio(breakers, Waiting())
    assert totals(breakers) == {"ignored": 1}


def test_aio_trouble_in_the_callback(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """A callback of ours never raises: that would break the application's call."""

    class Broken(Ended):
        async def code(self) -> Any:
            raise LookupError

    intercept_aio(breakers, Broken())
    assert totals(breakers) == {"ignored": 1}
    assert "settling an ended call failed" in caplog.text


def test_aio_trouble_while_following(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """Trouble while a call is followed is logged, and the call handed on."""

    class Broken(Ended):
        def add_done_callback(self, callback: Any) -> None:
            raise LookupError

    call = Broken(done=False)
    assert intercept_aio(breakers, call) is call
    assert totals(breakers) == {"ignored": 1}
    assert "following a call failed" in caplog.text


def test_aio_callback_comes_twice(breakers: BreakerRegistry) -> None:
    """A callback that comes twice settles once."""

    class Twice(Ended):
        def add_done_callback(self, callback: Any) -> None:
            callback(self)
            callback(self)

    intercept_aio(breakers, Twice(done=False))
    assert totals(breakers) == {"success": 1}


def test_aio_call_that_has_ended_and_calls_nobody_back(breakers: BreakerRegistry) -> None:
    """An inner interceptor's own call, from a cache say, has ended already: whether it calls back or not, it counts."""

    class Cached(Ended):
        def add_done_callback(self, callback: Any) -> None: ...

    intercept_aio(breakers, Cached())
    assert (totals(breakers), breakers[METHOD].in_flight) == ({"success": 1}, 0)


def test_aio_bare_stream_of_another_interceptor(breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """What grpcio makes of a bare stream, where no call was made, has no status and no end to see: ignored."""
    stream = grpc.aio._interceptor.UnaryStreamCallResponseIterator(None, [])  # type: ignore[attr-defined]
    assert intercept_aio(breakers, stream, "unary_stream") is stream
    assert (totals(breakers), caplog.records) == ({"ignored": 1}, [])


class WriteFailed(Ended):
    """A call whose failed write shows, until its real status comes."""

    words = "Internal error from Core"

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.INTERNAL)

    async def details(self) -> str:
        return self.words


@pytest.mark.parametrize(
    ("code", "outcome"),
    [(grpc.StatusCode.OK, "success"), (grpc.StatusCode.UNAVAILABLE, "failure"), (grpc.StatusCode.INTERNAL, "ignored")],
)
def test_aio_status_after_a_failed_write(
    breakers: BreakerRegistry, code: grpc.StatusCode, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that failed is not the call's end: what counts is the status that follows, or nothing where none does."""
    looks = (0.0,) * 5
    monkeypatch.setattr(aio, "_LOOKS", looks)
    call = WriteFailed()
    permit = breakers[METHOD].admit()

    async def story() -> None:
        aio._settle_ended(permit, call, None)
        assert not permit.settled
        call.status = code
        for _ in range(2 * len(looks)):
            await asyncio.sleep(0)
        assert permit.settled

    asyncio.run(story())
    assert totals(breakers) == {outcome: 1}


def test_aio_loop_that_ends_before_the_status(breakers: BreakerRegistry) -> None:
    """A call whose real status the loop does not live to see gives its permit back; so does one without a loop."""
    intercept_aio(breakers, WriteFailed(), "stream_unary")
    gc.collect()
    assert totals(breakers) == {"ignored": 1}
    aio._settle_ended(breakers[METHOD].admit(), WriteFailed(), None)
    assert totals(breakers) == {"ignored": 2}


class EndsLater(Ended):
    """An asyncio call that ends when a test says so."""

    def __init__(self) -> None:
        super().__init__(done=False)
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def end(self, code: grpc.StatusCode) -> None:
        self.is_done, self.status = True, code
        for callback in self.callbacks:
            callback(self)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_aio_callback_that_is_interrupted(breakers: BreakerRegistry, error: type[BaseException]) -> None:
    """The same in asyncio."""
    interrupt(breakers, error)
    intercept_aio(breakers, call := EndsLater())
    with pytest.raises(error):
        call.end(grpc.StatusCode.OK)
    assert totals(breakers) == {"ignored": 1}


def test_aio_callback_that_is_interrupted_elsewhere(
    breakers: BreakerRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """The same in asyncio."""
    interrupt(breakers, Stop)
    intercept_aio(breakers, call := EndsLater())
    assert in_a_thread(lambda: call.end(grpc.StatusCode.OK)) == []
    assert totals(breakers) == {"ignored": 1}
    assert "settling an ended call failed" in caplog.text


def aio_refused(breakers: BreakerRegistry, kind: str) -> Any:
    """A refused asyncio call."""
    breakers[METHOD].force_open()
    return intercept_aio(breakers, None, kind)


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_aio_refused_call_has_the_whole_api(breakers: BreakerRegistry, kind: str) -> None:
    """A refused asyncio call is a call of its kind that has ended, and can be asked whatever such a call can be asked."""
    call = aio_refused(breakers, kind)
    kinds = {"unary_unary": "UnaryUnaryCall", "unary_stream": "UnaryStreamCall"}
    kinds |= {"stream_unary": "StreamUnaryCall", "stream_stream": "StreamStreamCall"}
    assert isinstance(call, getattr(grpc.aio, kinds[kind]))
    assert (call.done(), call.cancelled(), call.cancel(), call.time_remaining()) == (True, False, False, None)
    called_with: list[Any] = []
    call.add_done_callback(called_with.append)
    assert called_with == [call]

    async def raising(attempt: Any) -> None:
        with pytest.raises(CircuitOpenError) as error:
            await attempt
        assert isinstance(error.value, grpc.aio.AioRpcError)
        assert "forced_open" in repr(error.value)

    async def story() -> None:
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert await call.details() == await call.debug_error_string()
        assert (tuple(await call.initial_metadata()), tuple(await call.trailing_metadata())) == ((), ())
        await raising(call.wait_for_connection())
        if kind.startswith("stream"):
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"")
            await call.done_writing()
        if kind.endswith("unary"):
            await raising(call)
        else:
            await raising(call.read())
            await raising(anext(aiter(call)))

    asyncio.run(story())


@pytest.mark.parametrize("telemetry", ["yes", None, 1])
def test_telemetry_of_the_wrong_kind(telemetry: Any) -> None:
    """Telemetry that is none is an error at once."""
    with pytest.raises(TypeError, match="telemetry must be True, False or a BreakerTelemetry"):
        CircuitBreakerInterceptor(telemetry=telemetry)
    with pytest.raises(TypeError, match="telemetry must be True, False or a BreakerTelemetry"):
        aio.interceptors(telemetry=telemetry)


def test_interceptors_know_their_registry(breakers: BreakerRegistry) -> None:
    """The sync interceptor shows its registry; made without one it has its own."""
    assert CircuitBreakerInterceptor(breakers).breakers is breakers
    assert CircuitBreakerInterceptor().breakers is not CircuitBreakerInterceptor().breakers
    assert len(aio.interceptors()) == 4


def test_one_outcome_for_each_call(breakers: BreakerRegistry) -> None:
    """Whatever a caller does afterwards, a call counts once."""
    call = Running()
    intercept(breakers, call)
    call.end(grpc.StatusCode.OK)
    call.end(grpc.StatusCode.UNAVAILABLE)
    assert totals(breakers) == {str(Outcome.SUCCESS): 1}


def test_whole_seconds_are_a_deadline_too() -> None:
    """A deadline that was given as an integer ends the lease of a call as one given as a float does."""
    clock = FakeClock()
    breakers = BreakerRegistry(clock=clock)
    guard = Guard(breakers)
    permits = [
        guard.admit(SimpleNamespace(method="/pkg.S/M", timeout=timeout), True) for timeout in (5, 5.0, "5", None)
    ]
    assert all(isinstance(permit, Permit) for permit in permits)
    assert breakers["pkg.S/M"].in_flight == 4
    clock.advance(10)
    assert breakers["pkg.S/M"].in_flight == 1


def test_registry_of_aio_interceptors() -> None:
    """Each asyncio interceptor has the registry that all four ask: the one given, or the one that was made for them."""
    given = BreakerRegistry()
    assert all(it.breakers is given for it in aio.interceptors(given, telemetry=False))
    (made,) = {it.breakers for it in aio.interceptors(telemetry=False)}
    assert isinstance(made, BreakerRegistry)


def test_interceptor_of_the_other_api() -> None:
    """An interceptor of the other API is an error at once: grpcio's own, in which ours says what asyncio channels take."""

    async def aio_channel() -> None:
        grpc.aio.insecure_channel("localhost:1", interceptors=[CircuitBreakerInterceptor(telemetry=False)])  # type: ignore[list-item]

    with pytest.raises(ValueError, match=r"channels of grpc\.aio take grpc_breaker\.aio\.interceptors\(\)"):
        asyncio.run(aio_channel())
    ours: Any = aio.interceptors(telemetry=False)
    with grpc.insecure_channel("localhost:1") as channel, pytest.raises(TypeError, match=r"must be grpc\.UnaryUnary"):
        grpc.intercept_channel(channel, *ours)
