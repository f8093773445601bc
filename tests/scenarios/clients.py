"""Who calls in a play: a client without a breaker, one with grpc_breaker, and those of its peers that can be attached.

Each client has its own channel and connection. It makes its calls from `Traffic.callers` threads, or asyncio tasks, one
after the other in each, and records how each of them ended:

    ok        served; a watch that is cut after its first message was served, too
    lost      failed
    refused   by the breaker, without being sent

    kind            what the application does
    call            a unary call
    watch           reads a stream for as long as it lives
    first message   reads one message of a stream and drops the stream
    impatient       a unary call without a deadline, given up after `patience` (`asyncio.wait_for`, `future.result`)
    page            five unary calls at once in an `asyncio.TaskGroup`, which cancels the others when one fails
    page of five    the same, of five methods; the changes of state are those of the first

Peers have the defaults of their own authors. A decorator is put around the function that does one of these things, so
it sees a stream to its end.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import grpc

from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, aio
from grpc_breaker.replay import TrafficRecorder
from tests.support.records import TRIAL, recorder_of
from tests.support.server import METHODS, PATIENCE, SERVICE

if TYPE_CHECKING:
    from tests.scenarios.environment import Loop
    from tests.scenarios.play import Play

STAYED = 10.0
"""Seconds after which a watch counts as up where the server says nothing."""

LIMIT = 1_000_000
"""Bytes of a request that nginx lets through by default."""

PAGE = (METHODS["uu"], *(f"/shop.v1.{it}/UnaryUnary" for it in ("Cart", "Stock", "Shipping", "Tax")))
"""What a page calls, if it is five methods."""

Script = Callable[[random.Random], str]
"""What the next call asks of the server; see `tests.support.server`."""


@dataclass(frozen=True)
class Traffic:
    """How a client calls. Times are seconds of the play's scaled clock."""

    kind: str = "call"
    callers: int = 1
    every: float = 1.0
    """From the beginning of one call to that of the next, or longer where the call takes longer, and 20 % more or less at
    random; for a watch from the end of one to the beginning of the next."""
    script: Script | str = "ok"
    timeout: float | None = None
    patience: float | None = None
    size: Callable[[int], int] = lambda _: 0
    """Bytes of a request, by its number among those of its caller."""
    each: int | None = None
    """How many calls each caller makes; `None`: until the play stops."""

    @property
    def watches(self) -> bool:
        """Whether its calls are watches: streams that are meant to stay."""
        return self.kind in ("watch", "silent watch")


@dataclass
class Record:
    """What came of a client's calls; times are those of the play."""

    breaks: bool
    """Whether there is a breaker."""
    calls: list[tuple[float, str, bool]] = field(default_factory=list)
    """When a call began, how it ended, and whether it was doomed: one that no well server would have served."""
    sent: list[float] = field(default_factory=list)
    """When calls were sent."""
    changes: list[tuple[float, str, str]] = field(default_factory=list)
    """When the breaker changed its state, the state before and after."""
    watched: float = 0.0
    """How long watches were up, all callers together."""


class Call:
    """One call while it is made."""

    def __init__(self, client: Client, rng: random.Random, number: int) -> None:
        traffic, play = client.traffic, client.play
        self.began = play.now()
        self.first: float | None = None
        """When the first message of a watch came."""
        self.play = play
        self.request = b"x" * traffic.size(number)
        self.patience = None if traffic.patience is None else play.real(traffic.patience)
        script = traffic.script if isinstance(traffic.script, str) else traffic.script(rng)
        self.doomed = script.startswith("error") or len(self.request) > LIMIT
        self.keywords = {
            "metadata": (("script", script),),
            "timeout": traffic.timeout,  # in seconds of the clock that breakers are given
        }


# ── What applications do ──────────────────────────────────────────────────────────────────────────────────────────


def _call(channel: Any, call: Call) -> None:
    channel.unary_unary(METHODS["uu"])(call.request, **call.keywords)


def _watch(channel: Any, call: Call) -> None:
    for _ in channel.unary_stream(METHODS["us"])(call.request, **call.keywords):
        if call.first is None:
            call.first = call.play.now()


def _first_message(channel: Any, call: Call) -> None:
    next(channel.unary_stream(METHODS["us"])(call.request, **call.keywords))


def _impatient(channel: Any, call: Call) -> None:
    future = channel.unary_unary(METHODS["uu"]).future(call.request, **call.keywords)
    try:
        future.result(timeout=call.patience)
    finally:
        future.cancel()


async def _aio_call(channel: Any, call: Call, method: str = METHODS["uu"]) -> None:
    await channel.unary_unary(method)(call.request, **call.keywords)


async def _aio_watch(channel: Any, call: Call) -> None:
    async for _ in channel.unary_stream(METHODS["us"])(call.request, **call.keywords):
        if call.first is None:
            call.first = call.play.now()


async def _aio_first_message(channel: Any, call: Call) -> None:
    stream = channel.unary_stream(METHODS["us"])(call.request, **call.keywords)
    try:
        await stream.read()
    finally:
        stream.cancel()


async def _aio_impatient(channel: Any, call: Call) -> None:
    await asyncio.wait_for(_aio_call(channel, call), call.patience)


async def _aio_page(channel: Any, call: Call, methods: Sequence[str] = (METHODS["uu"],) * 5) -> None:
    try:
        async with asyncio.TaskGroup() as calls:
            for method in methods:
                calls.create_task(_aio_call(channel, call, method))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _aio_page_of_five(channel: Any, call: Call) -> None:
    await _aio_page(channel, call, PAGE)


ACTIONS: dict[tuple[str, str], Callable[[Any, Call], Any]] = {
    ("threads", "call"): _call,
    ("threads", "watch"): _watch,
    ("threads", "silent watch"): _watch,
    ("threads", "first message"): _first_message,
    ("threads", "impatient"): _impatient,
    ("asyncio", "call"): _aio_call,
    ("asyncio", "watch"): _aio_watch,
    ("asyncio", "silent watch"): _aio_watch,
    ("asyncio", "first message"): _aio_first_message,
    ("asyncio", "impatient"): _aio_impatient,
    ("asyncio", "page"): _aio_page,
    ("asyncio", "page of five"): _aio_page_of_five,
}


# ── Clients ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Client:
    """A client of one world, without a breaker."""

    name: ClassVar[str] = "bare"
    worlds: ClassVar[tuple[str, ...]] = ("threads", "asyncio")
    breaks: ClassVar[bool] = False
    package: ClassVar[str] = "grpcio"
    """What must be installed."""

    def __init__(self, play: Play, world: str, traffic: Traffic) -> None:
        self.play, self.world, self.traffic = play, world, traffic
        self.record = Record(self.breaks)
        self.refusals: tuple[type[Exception], ...] = ()
        """What a refused call raises."""
        self.stopping = threading.Event()
        self._rng = random.Random(play.rng.random())
        self._recorder: TrafficRecorder | None = None

    def interceptors(self) -> list[Any]:
        """The breaker, where it is one."""
        if self.play.records is None:
            return []
        return self.recorded(BreakerRegistry(default=TRIAL, clock=self.play.clock, random=self._rng.random))

    def recorded(self, registry: BreakerRegistry) -> list[Any]:
        """The interceptors of a registry, which is recorded where records are wanted."""
        if self.play.records is not None:
            self._recorder = recorder_of(registry, self.play.records, *self.play.words, self.world, self.name)
            self._recorder.start()
        if self.world == "threads":
            return [CircuitBreakerInterceptor(registry, telemetry=False)]
        return list(aio.interceptors(registry, telemetry=False))

    def stop_recording(self) -> None:
        """Record nothing more: what ends now is ended by the play."""
        if self._recorder is not None:
            self._recorder.stop()

    def guard(self, action: Callable[..., Any]) -> Callable[..., Any]:
        """The breaker, where it is a decorator."""
        return action

    # ── The calls ──

    def start(self, target: str, options: Sequence[tuple[str, Any]], loop: Loop | None) -> None:
        """Begin to call."""
        action = self.guard(ACTIONS[self.world, self.traffic.kind])
        rngs = [random.Random(self._rng.random()) for _ in range(self.traffic.callers)]
        interceptors = [*self.interceptors(), *_senders(self)]
        self._loop: Any = None
        if self.world == "threads":
            self._plain = grpc.insecure_channel(target, options)
            channel = grpc.intercept_channel(self._plain, *interceptors)
            self._threads = [threading.Thread(target=self._run, args=(action, channel, it), daemon=True) for it in rngs]
            for thread in self._threads:
                thread.start()
        else:
            assert loop is not None
            self._loop = loop
            self._loop.run(self._start(action, target, options, interceptors, rngs))

    async def _start(self, action: Any, target: str, options: Any, interceptors: Any, rngs: Any) -> None:
        self._channel = grpc.aio.insecure_channel(target, options, interceptors=interceptors)
        self._tasks = [asyncio.ensure_future(self._arun(action, self._channel, it)) for it in rngs]

    def _run(self, action: Callable[..., Any], channel: Any, rng: random.Random) -> None:
        """The life of a thread."""
        for number, pause in enumerate(self._pauses(rng)):
            self.stopping.wait(pause)
            if self.stopping.is_set():
                return
            call = Call(self, rng, number)
            try:
                action(channel, call)
                self._note(call, None)
            except BaseException as error:
                self._note(call, error)

    async def _arun(self, action: Callable[..., Any], channel: Any, rng: random.Random) -> None:
        """The life of a task."""
        for number, pause in enumerate(self._pauses(rng)):
            await asyncio.sleep(pause)
            if self.stopping.is_set():
                return
            call = Call(self, rng, number)
            try:
                await action(channel, call)
                self._note(call, None)
            except BaseException as error:
                self._note(call, error)

    def _pauses(self, rng: random.Random) -> Any:
        """How long to wait before each call, in real seconds."""
        traffic, play = self.traffic, self.play
        due = play.now() + traffic.every * rng.random()  # callers do not begin in step
        made = 0
        while traffic.each is None or made < traffic.each:
            now = play.now()
            due = max(due, now)  # a caller that is late does not catch up
            yield play.real(due - now)
            made += 1
            due = (play.now() if traffic.watches else due) + traffic.every * rng.uniform(0.8, 1.2)

    def _note(self, call: Call, error: BaseException | None) -> None:
        """Enter how a call ended; those that go on at the end of the play end there, though clients are stopped in turn."""
        now = min(self.play.now(), self.play.ended)
        if self.traffic.kind == "silent watch" and now - call.began > STAYED:
            call.first = call.began
        if call.first is not None:
            self.record.watched += now - call.first
        if self.stopping.is_set() and call.first is None:
            return  # ended by the end of the play; a watch that was up then has been served
        if error is None or call.first is not None:
            came = "ok"
        else:
            came = "refused" if isinstance(error, self.refusals) else "lost"
        self.record.calls.append((call.began, came, call.doomed))

    def change(self, after: str) -> None:
        """Enter that the breaker is in this state now; the end of the play changes nothing."""
        before = self.record.changes[-1][2] if self.record.changes else "closed"
        if before != after and not self.stopping.is_set():
            self.record.changes.append((self.play.now(), before, after))

    def send(self, details: Any) -> Any:
        """Enter that a call is sent, and return its details with a deadline in real seconds."""
        self.record.sent.append(self.play.now())
        timeout = details.timeout
        return details if timeout is None else details._replace(timeout=self.play.real(timeout))

    def wait(self) -> None:
        """Wait until all calls are made."""
        if self._loop is None:
            for thread in self._threads:
                thread.join(8 * PATIENCE)
                assert not thread.is_alive(), f"{self.name}: calls did not end"
        else:
            self._loop.run(_all(self._tasks))

    def stop(self) -> None:
        """End the calls, after `stopping` is set."""
        if self._loop is None:
            self._plain.close()
            for thread in self._threads:
                thread.join(PATIENCE)
        else:
            self._loop.run(self._stop())

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()


async def _all(tasks: Sequence[asyncio.Future[None]]) -> None:
    await asyncio.gather(*tasks)


class _Sender(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Innermost: turns a deadline into real seconds, and notes that the call is sent."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._client.send(client_call_details), request)

    intercept_unary_stream = intercept_unary_unary


class _AioSender(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, client: Client) -> None:
        self._client = client

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._client.send(client_call_details), request)


class _AioStreamSender(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, client: Client) -> None:
        self._client = client

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._client.send(client_call_details), request)


def _senders(client: Client) -> list[Any]:
    return [_Sender(client)] if client.world == "threads" else [_AioSender(client), _AioStreamSender(client)]


class Guarded(Client):
    """With grpc_breaker, and the default policy."""

    name = "grpc_breaker"
    breaks = True

    def interceptors(self) -> list[Any]:
        self.refusals = (CircuitOpenError,)
        registry = BreakerRegistry(clock=self.play.clock, random=self._rng.random)
        registry.on_state_change(lambda it: self.change(str(it.state)) if it.breaker.startswith(SERVICE) else None)
        return self.recorded(registry)


class Handwritten(Client):
    """With the recipe in an interceptor, as it is written by hand: `try` around `continuation`."""

    name = "`try` around `continuation`"
    breaks = True
    package = "aiobreaker"  # like all that `benchmarks.peers` imports

    def interceptors(self) -> list[Any]:
        from benchmarks.peers import FAILURES, Recipe

        recipe = Recipe(FAILURES, self.play.real(30), self.play.real(60), 3)
        self.refusals = (RuntimeError,)

        def states() -> None:
            self.change(recipe._state)

        if self.world == "threads":
            return [_Around(recipe, states)]
        return [_AioAround(recipe.coroutines, states), _AioStreamAround(recipe.coroutines, states)]


class _Around(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, guard: Any, look: Callable[[], None]) -> None:
        self._guard, self._look = guard, look

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        try:
            return self._guard(continuation)(client_call_details, request)
        finally:
            self._look()

    intercept_unary_stream = intercept_unary_unary


class _AioAround(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, guard: Any, look: Callable[[], None]) -> None:
        self._guard, self._look = guard, look

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        try:
            return await self._guard(continuation)(client_call_details, request)
        finally:
            self._look()


class _AioStreamAround(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, guard: Any, look: Callable[[], None]) -> None:
        self._guard, self._look = guard, look

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        try:
            return await self._guard(continuation)(client_call_details, request)
        finally:
            self._look()


class Decorated(Client):
    """With circuitbreaker, around the function that calls."""

    name = "circuitbreaker"
    breaks = True
    package = "circuitbreaker"

    def guard(self, action: Callable[..., Any]) -> Callable[..., Any]:
        import circuitbreaker

        breaker = circuitbreaker.CircuitBreaker(recovery_timeout=self.play.real(30), name="peer")
        self.refusals = (circuitbreaker.CircuitBreakerError,)
        guarded = breaker(action)

        def looking(channel: Any, call: Call) -> Any:
            self.change(breaker.state)
            try:
                return guarded(channel, call)
            finally:
                self.change(breaker.state)

        async def aio_looking(channel: Any, call: Call) -> Any:
            self.change(breaker.state)
            try:
                return await guarded(channel, call)
            finally:
                self.change(breaker.state)

        return looking if self.world == "threads" else aio_looking


class ClientKit(Client):
    """With the circuit breaker of grpc-client-kit."""

    name = "grpc-client-kit"
    worlds = ("asyncio",)
    breaks = True
    package = "grpc-client-kit"

    def interceptors(self) -> list[Any]:
        import grpc_client_kit

        self.refusals = (grpc_client_kit.CircuitBreakerOpenError,)
        breaker = grpc_client_kit.AsyncCircuitBreakerInterceptor(
            recovery_timeout=self.play.real(60), metrics=_States(self.change)
        )
        return grpc_client_kit.flatten_interceptors([breaker])


class _States:
    """What grpc-client-kit tells its changes of state."""

    def __init__(self, change: Callable[[str], None]) -> None:
        self._change = change

    def record_circuit_state(self, method: str, state: str) -> None:
        self._change(state.replace("-", "_"))

    def record_circuit_rejection(self, method: str) -> None:
        pass

    def record_request(self, *_: Any, **__: Any) -> None:
        pass

    def record_pool_stats(self, *_: Any, **__: Any) -> None:
        pass

    def record_inflight_delta(self, *_: Any, **__: Any) -> None:
        pass


CLIENTS: dict[str, type[Client]] = {it.name: it for it in (Client, Handwritten, Decorated, ClientKit, Guarded)}
