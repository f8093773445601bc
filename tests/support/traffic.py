"""Calls of every kind and idiom, at random: what threads and tasks of a soak do all day.

A *caller* makes one call after another on channels that it opens and closes, and keeps a tally of its own: what it
called, and what came of it. It is given to a channel maker, so the very same code calls bare and guarded.

Each call is a *plan*, drawn from the caller's seeded generator: server, kind, idiom, what becomes of the call (`act`), its
script, its deadline. What came of it is a short text in which nothing varies from run to run but what happened:
"OK", "UNAVAILABLE connection", "CancelledError". A call that its own application cancelled says so: "cancelled: …".

    act         the application
    use         takes the whole answer
    callback    waits to be called back, and then takes it (futures)
    give up     waits for a moment only, and drops the call
    cancel      cancels it after a moment, and takes what comes
    midway      cancels it after the first message (streams)
    break off   drops it after the first message (streams)
    abandon     drops it at once
    close       closes the channel under it, and takes what comes: the last call of a channel
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

from grpc_breaker import CallRefusedError, RefusalReason
from tests.support.server import PATIENCE

KINDS = {
    "uu": ("unary_unary", "UnaryUnary"),
    "us": ("unary_stream", "UnaryStream"),
    "su": ("stream_unary", "StreamUnary"),
    "ss": ("stream_stream", "StreamStream"),
}
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 200),
]
"""A server that is back is found at once: the trouble of seconds is compressed to tenths of them."""

SCRIPTS = {
    "fair": ["ok", "messages 3", "headers;messages 2", "messages 20", "error NOT_FOUND no such thing"],
    "flaky": ["ok", "messages 3", "error UNAVAILABLE the server is ill", "messages 1;error DATA_LOSS half an answer", "raise"],
    "slow": ["messages 2;wait 0.15;messages 2", "wait 0.05", "headers;wait 0.3", "messages 1;hang", "hang"],
}  # fmt: skip
"""What calls ask of the server, by the weather. None of them makes it answer INTERNAL: that would be ours."""

ENDED_BY_CALLER = {"cancel": "cancelled", "midway": "cancelled", "give up": "given up", "close": "closed"}
"""Acts by which an application ends a call itself."""
NORMAL = {
    ("sync", "cancelled"): (grpc.FutureCancelledError,),
    ("sync", "given up"): (grpc.FutureTimeoutError,),
    ("aio", "cancelled"): (asyncio.CancelledError,),
    ("aio", "given up"): (TimeoutError,),
    ("aio", "closed"): (asyncio.CancelledError,),
}
"""What callers meet beside RPC errors, by world and by how they ended the call."""

GRPCIOS = {("aio", "su"): (asyncio.CancelledError,), ("aio", "ss"): (asyncio.CancelledError,)}
"""What grpcio makes of it when a call ends while its requests are written, bare as well, and more often behind interceptors,
whichever. Counted behind interceptors that do nothing: on 1.85.1, of 2,000 calls with a stream of requests and a deadline of
10 ms, 406; on 1.85.3, of 3,000 calls with streams both ways and deadlines up to 20 ms, 4."""

_TRANSPORT = re.compile(
    r"failed to connect|connection|socket closed|broken pipe|recvmsg|sendmsg|goaway|endpoint closing|stream removed",
    re.IGNORECASE,
)


REFUSALS = {
    RefusalReason.BREAKER: (grpc.StatusCode.UNAVAILABLE, "circuit breaker "),
    RefusalReason.BULKHEAD: (grpc.StatusCode.UNAVAILABLE, "bulkhead full "),
    RefusalReason.RATE: (grpc.StatusCode.RESOURCE_EXHAUSTED, "rate limit "),
}
"""The status of each refusal, and how its words begin."""


@dataclass
class Weather:
    """What calls ask of one server at present; the driver of the trouble changes it."""

    now: str = "fair"
    in_trouble: bool = True
    """While there is any trouble, deadlines are short."""


@dataclass
class Server:
    """Where to call, under which service's name, and how it is there."""

    target: str
    service: str
    weather: Weather


@dataclass
class Tally:
    """What a caller did. Only the caller itself writes it."""

    calls: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    """By world, kind, idiom, act."""
    came: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    strange: list[str] = field(default_factory=list)
    """Exceptions that no caller may ever meet."""

    def add(self, other: Tally) -> None:
        """Add another caller's."""
        self.calls += other.calls
        self.came += other.came
        self.refused += other.refused
        self.strange += other.strange


@dataclass
class Plan:
    """One call to make."""

    kind: str
    idiom: str
    act: str
    method: Any
    script: bytes
    keywords: dict[str, Any]
    moment: float
    close: Callable[[], Any]

    def requests(self) -> Iterator[bytes]:
        yield self.script
        time.sleep(self.moment / 4)
        yield b"more"

    async def aio_requests(self) -> AsyncIterator[bytes]:
        yield self.script
        await asyncio.sleep(self.moment / 4)
        yield b"more"

    def argument(self) -> Any:
        return self.requests() if self.kind[0] == "s" else self.script


# ── Sync ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _call(plan: Plan) -> None:
    plan.method(plan.argument(), **plan.keywords)


def _with_call(plan: Plan) -> None:
    _, call = plan.method.with_call(plan.argument(), **plan.keywords)
    assert call.code() is grpc.StatusCode.OK


def _future(plan: Plan) -> None:
    call = plan.method.future(plan.argument(), **plan.keywords)
    match plan.act:
        case "abandon":
            return
        case "callback":
            called = threading.Event()
            call.add_done_callback(lambda _: called.set())
            assert called.wait(PATIENCE), "the application's callback was never called"
        case "cancel":
            time.sleep(plan.moment)
            call.cancel()
        case "give up":
            call.result(timeout=plan.moment)
            return
        case "close":
            plan.close()
    call.result(timeout=PATIENCE)


def _iterate(plan: Plan) -> None:
    call = plan.method(plan.argument(), **plan.keywords)
    match plan.act:
        case "abandon":
            return
        case "cancel":
            time.sleep(plan.moment)
            call.cancel()
        case "close":
            plan.close()
    for _ in call:
        if plan.act == "break off":
            return
        if plan.act == "midway":
            call.cancel()


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _begin(plan: Plan) -> Any:
    """Start a call, and do to it what is done before its answer."""
    if plan.kind[0] == "u":
        call = plan.method(plan.script, **plan.keywords)
    elif not plan.idiom.startswith("write"):
        call = plan.method(plan.aio_requests(), **plan.keywords)
    else:
        call = plan.method(**plan.keywords)
        with suppress(asyncio.InvalidStateError):  # it has ended already; reading says how
            await call.write(plan.script)
        with suppress(asyncio.InvalidStateError):
            await call.done_writing()  # or grpcio, with any interceptor, leaves a task behind
    match plan.act:
        case "cancel":
            await asyncio.sleep(plan.moment)
            call.cancel()
        case "close":
            await asyncio.sleep(0)
            await plan.close()
    return call


async def _answer(plan: Plan, call: Any) -> None:
    await call


async def _async_for(plan: Plan, call: Any) -> None:
    async for _ in call:
        if plan.act == "break off":
            return
        if plan.act == "midway":
            call.cancel()


async def _read(plan: Plan, call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        if plan.act == "break off":
            return
        if plan.act == "midway":
            call.cancel()


def _aio(take: Callable[[Plan, Any], Awaitable[None]]) -> Callable[[Plan], Awaitable[None]]:
    async def make(plan: Plan) -> None:
        call = await _begin(plan)
        if plan.act == "give up":
            await asyncio.wait_for(take(plan, call), plan.moment)
        elif plan.act != "abandon":
            await take(plan, call)

    return make


IDIOMS: dict[tuple[str, str], dict[str, Any]] = {
    ("sync", "u"): {"call": _call, "with_call": _with_call, "future": _future},
    ("sync", "s"): {"iterate": _iterate},
    ("aio", "u"): {"await": _aio(_answer), "write, await": _aio(_answer)},
    ("aio", "s"): {
        "async for": _aio(_async_for),
        "read": _aio(_read),
        "write, async for": _aio(_async_for),
        "write, read": _aio(_read),
    },
}
"""By world and kind of answer."""

ACTS = {
    "call": ["use"],
    "with_call": ["use"],
    "future": ["use", "use", "callback", "give up", "cancel", "abandon"],
    "await": ["use", "use", "use", "give up", "cancel", "abandon"],
    "iterate": ["use", "use", "use", "cancel", "midway", "break off", "abandon"],
    "async for": ["use", "use", "use", "give up", "cancel", "midway", "break off", "abandon"],
}
"""Some more often than others. An idiom not named here does what the last of its words does."""


# ── Callers ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Caller:
    """Makes one call after another, of one world, until it is asked to stop."""

    def __init__(
        self,
        world: str,
        servers: list[Server],
        connect: Callable[[str], tuple[Any, Callable[[], Any]]],
        span: Callable[[], AbstractContextManager[Any]],
        seed: str,
    ) -> None:
        """Make a caller; `connect` returns a channel and what closes it, `span` what surrounds half of its calls."""
        self.tally = Tally()
        self._world = world
        self._servers = servers
        self._connect = connect
        self._span = span
        self._rng = random.Random(seed)
        self._closed = False

    def run(self, stop: threading.Event) -> None:
        """The life of a thread."""
        while not stop.is_set():
            for plan in self._plans(stop):
                make = IDIOMS["sync", plan.kind[1]][plan.idiom]
                try:
                    with self._span():
                        make(plan)
                    self._note(plan, None)
                except BaseException as error:
                    self._note(plan, error)
            self._close()

    async def arun(self, stop: threading.Event) -> None:
        """The life of a task."""
        while not stop.is_set():
            for plan in self._plans(stop):
                make = IDIOMS["aio", plan.kind[1]][plan.idiom]
                try:
                    with self._span():
                        await make(plan)
                    self._note(plan, None)
                except BaseException as error:
                    self._note(plan, error)
                if not self._rng.randrange(8):
                    await asyncio.sleep(0)
            await self._close()

    def _plans(self, stop: threading.Event) -> Iterator[Plan]:
        """The calls on one channel."""
        rng = self._rng
        server = rng.choice(self._servers)
        channel, self._close = self._connect(server.target)
        methods = {kind: getattr(channel, make)(f"/{server.service}/{name}") for kind, (make, name) in KINDS.items()}
        last = rng.randrange(20, 300)
        for number in range(last + 1):
            if stop.is_set():
                return
            kind = rng.choice(list(methods))
            idiom = rng.choice([it for it in IDIOMS[self._world, kind[1]] if kind[0] == "s" or "write" not in it])
            act = rng.choice(ACTS.get(idiom) or ACTS["async for" if kind[1] == "s" else "await"])
            if number == last and idiom not in {"call", "with_call"} and rng.random() < 0.5:
                act = "close"
            weather = server.weather
            script = rng.choice(SCRIPTS[weather.now]).encode()
            timeout = rng.choice([0.02, 0.05, 0.1, 0.3, 0.6]) if weather.in_trouble else 1.0
            moment = rng.choice([0.0, 0.001, 0.01, 0.03])
            self.tally.calls[self._world, kind, idiom, act] += 1
            yield Plan(kind, idiom, act, methods[kind], script, {"timeout": timeout}, moment, self._close)

    def _note(self, plan: Plan, error: BaseException | None) -> None:
        """Enter what came of a call."""
        if isinstance(error, CallRefusedError):
            self.tally.refused += 1
            code, begins = REFUSALS[error.reason]
            if error.code() is not code or not error.details().startswith(begins):
                self.tally.strange.append(f"a refusal that says {error.code()} {error.details()}")
            return
        if error is None:
            came = "OK"
        elif isinstance(error, grpc.RpcError) and callable(getattr(error, "code", None)):
            came = f"{error.code().name} {_words(error.details())}"
        else:
            came = type(error).__name__
        end = ENDED_BY_CALLER.get(plan.act, "")
        normal = (grpc.RpcError, *NORMAL.get((self._world, end), ()), *GRPCIOS.get((self._world, plan.kind), ()))
        if not (error is None or isinstance(error, normal)):
            where = "".join(traceback.format_exception(error)[-3:])
            self.tally.strange.append(f"{self._world} {plan}\n{where}")
        self.tally.came[f"{self._world}, {end}: {came}" if end else f"{self._world}: {came}"] += 1


def _words(details: str | None) -> str:
    """Details without what varies: addresses, numbers, and which system call first saw a connection break."""
    if details and _TRANSPORT.search(details):
        return "connection"
    return re.sub(r"\d+", "N", details or "")[:80]
