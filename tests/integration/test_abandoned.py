"""Calls that nobody ends: dropped, interrupted, left behind on a closed channel or loop. Each gives its permit back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc.experimental import ChannelOptions

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, State, aio
from grpc_breaker.testing import FakeClock
from tests.integration.endings_table import await_settled, passing
from tests.support.parts import IDLE_PARTS
from tests.support.server import FAR, METHODS, PATIENCE, Server

_keys = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real server."""
    with Server(threads=220) as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    """The breakers' clock; the server's is real."""
    return FakeClock()


@pytest.fixture(params=[pytest.param(False, id="breaker"), pytest.param(True, id="all parts", marks=pytest.mark.once)])
def breakers(clock: FakeClock, request: pytest.FixtureRequest) -> BreakerRegistry:
    """Breakers that stay closed, and allow one probe where a test opens them; once more with all parts around them."""
    policy = BreakerPolicy(
        consecutive_failures=1000, minimum_calls=1000, half_open_max_calls=1, reset_timeout=10, reset_timeout_jitter=0
    )
    return BreakerRegistry(default=replace(IDLE_PARTS, breaker=policy) if request.param else policy, clock=clock)


def half_open_next(breakers: BreakerRegistry, clock: FakeClock, kind: str) -> None:
    """Open a breaker and let its open period pass, so that the next call is its probe."""
    breaker = breakers[METHODS[kind]]
    permits = [breaker.admit() for _ in range(1000)]
    for permit in permits:
        permit.failure("UNAVAILABLE")
    assert breaker.state is State.OPEN
    clock.advance(10)


def totals(breakers: BreakerRegistry, kind: str) -> dict[str, int]:
    """What was counted, without the zeros."""
    counted: dict[str, int] = breakers[METHODS[kind]].snapshot()["totals"]
    return {name: calls for name, calls in counted.items() if calls}


def connect(server: Server, breakers: BreakerRegistry | None, *options: tuple[str, Any]) -> tuple[Any, Any]:
    """A channel, and the same one guarded unless it is to be bare."""
    channel = grpc.insecure_channel(server.target, options=options)
    if breakers is None:
        return channel, channel
    return channel, grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))


def call_with(server: Server, script: str) -> tuple[Any, dict[str, Any]]:
    """A new journal entry, and the keywords of a call that is entered there and runs `script`."""
    key = f"abandoned-{next(_keys)}"
    metadata = (("call-key", key), ("script", script))
    return server.journal[key], {"metadata": metadata, "timeout": FAR}


def start(channel: Any, kind: str, keywords: dict[str, Any]) -> Any:
    """Begin a call that runs."""
    if kind == "uu":
        return channel.unary_unary(METHODS[kind]).future(b"", **keywords)
    if kind == "us":
        return channel.unary_stream(METHODS[kind])(b"", **keywords)
    if kind == "su":
        return channel.stream_unary(METHODS[kind]).future(iter([b""]), **keywords)
    return channel.stream_stream(METHODS[kind])(iter([b""]), **keywords)


def start_aio(channel: Any, kind: str, keywords: dict[str, Any]) -> Any:
    """Begin a call."""
    make = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}[kind]
    request = iter([b""]) if kind.startswith("s") else b""
    return getattr(channel, make)(METHODS[kind])(request, **keywords)


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "guarded"])
@pytest.mark.parametrize(
    ("kind", "script", "messages"),
    [
        ("uu", "hang", 0),
        ("su", "hang", 0),
        *((kind, script, n) for kind in ("us", "ss") for script, n in (("hang", 0), ("headers;hang", 0))),
        *((kind, script, n) for kind in ("us", "ss") for script, n in (("messages 3;hang", 2), ("endless", 3))),
    ],
)
def test_dropped_call_is_cancelled_at_the_server(
    kind: str, script: str, messages: int, bare: bool, server: Server, breakers: BreakerRegistry
) -> None:
    """A running call that is dropped is cancelled at the server, as without us, and gives its permit back."""
    channel, guarded = connect(server, None if bare else breakers)
    entry, keywords = call_with(server, script)
    call = start(guarded, kind, keywords)
    assert entry.began.wait(PATIENCE)
    for _ in range(messages):
        next(call)
    if script == "headers;hang":
        call.initial_metadata()
    assert not entry.cancelled.is_set()
    del call
    gc.collect()
    assert entry.cancelled.wait(PATIENCE)
    if not bare:
        await_settled(breakers[METHODS[kind]])
        outcome = "ignored" if script == "hang" else "success"  # it had an answer
        assert (totals(breakers, kind), breakers[METHODS[kind]].in_flight) == ({outcome: 1}, 0)
    channel.close()


@pytest.mark.parametrize("kind", ["us", "ss"])
def test_dropped_probe_stream_frees_its_slot(
    kind: str, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """A silent stream that is a probe and is dropped is cancelled at the server, and another probe may pass."""
    half_open_next(breakers, clock, kind)
    channel, guarded = connect(server, breakers)
    entry, keywords = call_with(server, "hang")
    call = start(guarded, kind, keywords)
    assert entry.began.wait(PATIENCE)
    with pytest.raises(CircuitOpenError):
        next(start(guarded, kind, call_with(server, "ok")[1]))
    del call
    gc.collect()
    assert entry.cancelled.wait(PATIENCE)
    breaker = breakers[METHODS[kind]]
    await_settled(breaker)
    assert (breaker.in_flight, breaker.state) == (0, State.HALF_OPEN)
    assert list(start(guarded, kind, call_with(server, "messages 1")[1])) == [b"0"]
    await_settled(breaker)
    assert breaker.state is State.CLOSED
    channel.close()


@pytest.mark.parametrize("kind", ["us", "ss"])
def test_stream_that_is_never_drained(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """A stream that ended well at the server, and whose messages nobody reads, gives its permit back when dropped."""
    channel, guarded = connect(server, breakers)
    entry, keywords = call_with(server, "messages 2")
    call = start(guarded, kind, keywords)
    assert entry.over.wait(PATIENCE)
    del call
    gc.collect()
    await_settled(breakers[METHODS[kind]])
    assert breakers[METHODS[kind]].in_flight == 0
    assert sum(totals(breakers, kind).values()) == 1
    assert "failure" not in totals(breakers, kind)
    channel.close()


class Wrapper:
    """Another interceptor's, around a call."""

    def __init__(self, call: Any) -> None:
        self._wrapped = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._wrapped)


class Wrapping(grpc.UnaryStreamClientInterceptor):  # type: ignore[misc]
    """Hands on a wrapper of the call."""

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Called by grpcio."""
        return Wrapper(continuation(client_call_details, request))


@pytest.mark.parametrize("ending", ["break", "cancel", "untouched"])
def test_wrapped_single_threaded_streams(ending: str, server: Server, breakers: BreakerRegistry) -> None:
    """They give their permit back as well where an interceptor wraps them."""
    option = (ChannelOptions.SingleThreadedUnaryStream, 1)
    with grpc.insecure_channel(server.target, [option]) as channel:
        wrapped = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False), Wrapping())
        call = start(wrapped, "us", call_with(server, "messages 1;hang")[1])
        if ending != "untouched":
            assert next(call) == b"0"
        if ending == "cancel":
            call.cancel()
        del call
        gc.collect()
        await_settled(breakers[METHODS["us"]])
        outcome = "success" if ending == "break" else "ignored"
        assert (totals(breakers, "us"), breakers[METHODS["us"]].in_flight) == ({outcome: 1}, 0)


@pytest.mark.parametrize(
    ("ending", "script", "verdict"),
    [
        ("drain", "messages 2", "success"),
        ("drain", "messages 1;error UNAVAILABLE ill", "failure"),
        ("break", "messages 1;hang", "success"),
        ("cancel", "messages 1;hang", "ignored"),
        ("untouched", "hang", "ignored"),
    ],
)
def test_single_threaded_streams(
    ending: str, script: str, verdict: str, server: Server, breakers: BreakerRegistry
) -> None:
    """Single-threaded streams of grpcio call nobody back when they are left; they give their permit back all the same."""
    channel, guarded = connect(server, breakers, (ChannelOptions.SingleThreadedUnaryStream, 1))
    entry, keywords = call_with(server, script)
    call = start(guarded, "us", keywords)
    assert "SingleThreaded" in type(call).__name__
    if ending == "drain":
        try:
            assert list(call) == [b"0", b"1"]
        except grpc.RpcError as error:
            assert error is call
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            del error
    elif ending != "untouched":
        assert next(call) == b"0"
    assert entry.began.wait(PATIENCE)
    if ending == "cancel":
        call.cancel()
    del call
    gc.collect()
    assert entry.over.wait(PATIENCE)
    await_settled(breakers[METHODS["us"]])
    assert (totals(breakers, "us"), breakers[METHODS["us"]].in_flight) == ({verdict: 1}, 0)
    channel.close()


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "guarded"])
@pytest.mark.parametrize("kind", ["uu", "su"])
def test_ctrl_c_in_a_blocking_call(kind: str, bare: bool, server: Server, breakers: BreakerRegistry) -> None:
    """Ctrl-C in a blocking call reaches the application as without us, and the permit is back when it does.

    When the server hears of it is grpcio's affair: mostly at once, at times only when the channel closes.
    """
    channel, guarded = connect(server, None if bare else breakers)
    entry, keywords = call_with(server, "hang")
    method: Any = guarded.unary_unary(METHODS[kind]) if kind == "uu" else guarded.stream_unary(METHODS[kind])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        if entry.began.wait(PATIENCE):
            os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            method(b"" if kind == "uu" else iter([b""]), **keywords)
        if not bare:
            assert (totals(breakers, kind), breakers[METHODS[kind]].in_flight) == ({"ignored": 1}, 0)
    finally:
        interrupter.join(PATIENCE)
        signal.signal(signal.SIGINT, before)
        channel.close()
    assert entry.cancelled.wait(PATIENCE)


@pytest.mark.parametrize("breakers", [False], indirect=True)  # a fallback's answer needs an object around the call
@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_running_call_is_grpcs_own_object(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """The call the application gets is of the type it has without us, with every method it has without us."""
    seen = []
    for each in (None, breakers):
        channel, guarded = connect(server, each)
        call = start(guarded, kind, call_with(server, "messages 1")[1])
        answer = call.result(timeout=PATIENCE) if kind.endswith("u") else list(call)
        headers = [it[0] for it in call.initial_metadata()]
        api = sorted(name for name in dir(call) if not name.startswith("_"))
        seen.append((type(call), api, answer, headers, call.code(), call.details(), call.is_active(), call.done()))
        channel.close()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_closed_channel(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """A call on a closed channel fails as it does without us, and says nothing about the server."""
    words = []
    for each in (None, breakers):
        channel, guarded = connect(server, each)
        make = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}[kind]
        method = getattr(guarded, make)(METHODS[kind])
        for attempt in range(2):  # the first call of a method must not be one on a closed channel: grpcio crashes
            if attempt:
                channel.close()
            try:
                call = method(iter([b"ok"]) if kind.startswith("s") else b"ok", timeout=PATIENCE)
                if kind.endswith("s"):
                    list(call)
            except ValueError as error:
                words.append(str(error))
    assert len(words) == 2
    assert words[0] == words[1]
    await_settled(breakers[METHODS[kind]])
    assert (totals(breakers, kind), breakers[METHODS[kind]].in_flight) == ({"success": 1, "ignored": 1}, 0)


def test_two_hundred_threads(server: Server, breakers: BreakerRegistry) -> None:
    """Two hundred threads that call, drop, cancel and fail at once: each call counts once, none stays out."""
    channel, guarded = connect(server, breakers)
    barrier = threading.Barrier(200)
    plan: list[tuple[str, str, str]] = [
        ("uu", "ok", "use"),
        ("uu", "error UNAVAILABLE ill", "use"),
        ("uu", "hang", "cancel"),
        ("us", "messages 3", "use"),
        ("us", "hang", "drop"),
        ("us", "messages 1;error INTERNAL ill", "use"),
        ("su", "ok", "use"),
        ("su", "hang", "drop"),
        ("ss", "messages 3", "use"),
        ("ss", "endless", "drop"),  # after a message: a success
    ]

    def work(number: int) -> str:
        kind, script, act = plan[number % len(plan)]
        entry, keywords = call_with(server, script)
        barrier.wait(PATIENCE)
        call = start(guarded, kind, keywords)
        if act != "use":
            assert entry.began.wait(PATIENCE)
            if act == "cancel":
                call.cancel()
            elif script == "endless":
                next(call)
            return kind
        try:
            call.result(timeout=PATIENCE) if kind.endswith("u") else list(call)
        except grpc.RpcError as error:
            assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL}
        return kind

    with futures.ThreadPoolExecutor(200) as pool:
        assert len(list(pool.map(work, range(200), timeout=3 * PATIENCE))) == 200
    gc.collect()
    for breaker in breakers:
        await_settled(breaker)
    assert sum(breaker.in_flight for breaker in breakers) == 0
    assert totals(breakers, "uu") == {"success": 20, "failure": 20, "ignored": 20}
    assert totals(breakers, "us") == {"success": 20, "failure": 20, "ignored": 20}
    assert totals(breakers, "su") == {"success": 20, "ignored": 20}
    assert totals(breakers, "ss") == {"success": 40}
    channel.close()


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["us", "ss"])
def test_abandoned_aio_probe_is_lost_after_its_lease(
    kind: str, server: Server, breakers: BreakerRegistry, clock: FakeClock
) -> None:
    """An asyncio stream that is a silent probe and is abandoned blocks the breaker for its lease, and no longer."""

    async def story() -> None:
        half_open_next(breakers, clock, kind)
        breaker = breakers[METHODS[kind]]
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            entry, keywords = call_with(server, "hang")
            call = start_aio(channel, kind, keywords)
            assert await asyncio.to_thread(entry.began.wait, PATIENCE)
            del call
            gc.collect()
            clock.advance(breaker.policy.probe_timeout)
            assert breaker.in_flight == 0
            async for _ in start_aio(channel, kind, call_with(server, "messages 1")[1]):
                pass
            assert breaker.state is State.CLOSED

    asyncio.run(asyncio.wait_for(story(), 2 * PATIENCE))


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_aio_call_cancelled_as_soon_as_it_is_made(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """A call that is cancelled before any interceptor ran never stays admitted."""

    async def story() -> None:
        interceptors = aio.interceptors(breakers, telemetry=False)
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            for yields in range(8):  # as many steps of the loop as the interceptors and grpcio take, and some more
                call = start_aio(channel, kind, call_with(server, "hang")[1])
                for _ in range(yields):
                    await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    if kind.endswith("u"):
                        await call
                    else:
                        await call.read()

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
    breaker = breakers[METHODS[kind]]
    assert breaker.in_flight == 0
    assert set(totals(breakers, kind)) <= {"ignored"}


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_aio_loop_that_ends_under_a_call(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """A call that still runs when its loop is closed gives its permit back."""

    async def story() -> None:
        channel = grpc.aio.insecure_channel(server.target, interceptors=aio.interceptors(breakers, telemetry=False))
        entry, keywords = call_with(server, "hang")
        call = start_aio(channel, kind, keywords)
        assert await asyncio.to_thread(entry.began.wait, PATIENCE)
        assert breakers[METHODS[kind]].in_flight == 1
        await channel.close()
        del call

    asyncio.run(asyncio.wait_for(story(), PATIENCE))
    gc.collect()
    assert (totals(breakers, kind), breakers[METHODS[kind]].in_flight) == ({"ignored": 1}, 0)


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_aio_closed_channel(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """A call on a closed asyncio channel fails as it does behind an interceptor that only passes on."""
    seen: list[list[object]] = []

    async def story(make: Callable[[], Any]) -> None:
        channel = grpc.aio.insecure_channel(server.target, interceptors=make())
        await channel.close()
        try:
            call = start_aio(channel, kind, call_with(server, "ok")[1])
            if kind.endswith("u"):
                await call
            else:
                await call.read()
        except (Exception, asyncio.CancelledError) as error:
            seen.append([type(error), str(error)])

    for make in (passing, lambda: aio.interceptors(breakers, telemetry=False)):
        asyncio.run(asyncio.wait_for(story(make), PATIENCE))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert breakers[METHODS[kind]].in_flight == 0
    assert set(totals(breakers, kind)) <= {"ignored"}


@pytest.mark.parametrize("kind", ["uu", "us", "su", "ss"])
def test_aio_call_is_grpcs_own_object(kind: str, server: Server, breakers: BreakerRegistry) -> None:
    """The asyncio call the application gets has the type and methods it has behind an interceptor that passes on."""
    seen: list[tuple[object, ...]] = []

    async def story(interceptors: Any) -> None:
        async with grpc.aio.insecure_channel(server.target, interceptors=interceptors) as channel:
            call = start_aio(channel, kind, call_with(server, "messages 1")[1])
            answer = await call if kind.endswith("u") else [message async for message in call]
            api = sorted(name for name in dir(call) if not name.startswith("_"))
            seen.append((type(call), api, answer, await call.code(), await call.details(), call.done()))

    for interceptors in (passing(), aio.interceptors(breakers, telemetry=False)):
        asyncio.run(asyncio.wait_for(story(interceptors), PATIENCE))
    assert seen[0] == seen[1]
