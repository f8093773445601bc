"""The endings table, call by call: every RPC kind, every way of calling it, every way it can end, in both worlds.

An idiom is client code as it is written for bare gRPC. It makes one call whose script says how the server behaves,
ends it as the column asks, and notes what the application saw, as text. The same code runs on a bare channel and on one
with the interceptors; the two notes are compared by `test_endings_table.py`.

`python -m tests.integration.endings_table` prints the table as Markdown.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, CircuitBreakerInterceptor, CircuitOpenError
from grpc_breaker import aio as breaker_aio
from tests.support.server import FAR, METHODS, PATIENCE, Entry, Server, ServerProcess

DEADLINE = 0.2
"""Seconds a call gets whose deadline is meant to pass. Its script never answers, so nothing depends on their number."""

# The name of the column, the script for the server, and the verdict.
ENDINGS = {
    "ok": ("messages 2", "success"),
    "error": ("error UNAVAILABLE the server is ill", "failure"),
    "deadline": ("hang", "failure"),
    "local cancel": ("messages 1;hang", "ignored"),
    "task cancelled": ("messages 1;hang", "ignored"),
    "server killed": ("messages 1;hang", "failure"),
    "channel closed": ("messages 1;hang", "ignored"),
    "broken off": ("headers;messages 1;error DATA_LOSS half an answer", "failure"),
    "abandoned": ("messages 1;hang", "ignored"),
    "refused": ("messages 2", "rejected"),
}
OPEN_REQUESTS = {"broken off", "server killed"}
"""Where the request iterator is still waiting when the call ends."""

OLD_GRPCIO = tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 75)
"""In these versions a call behind any asyncio interceptor ends otherwise than a bare one, here and there (seen in 1.60.2).
There "bare" means behind interceptors that pass everything on. And a read that waits while its channel is closed hangs
there now and then (seen in 1.60.2, 1.66.2 and 1.74.0, bare or not)."""

_keys = itertools.count()


def passing() -> list[grpc.aio.ClientInterceptor]:
    """Four asyncio interceptors that do nothing: what grpcio itself makes of a channel with interceptors."""

    async def pass_on(self: object, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)

    bases = {
        "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
        "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
        "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
        "stream_stream": grpc.aio.StreamStreamClientInterceptor,
    }
    return [type(name, (base,), {f"intercept_{name}": pass_on})() for name, base in bases.items()]


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    world: str
    kind: str
    idiom: str
    ending: str

    def __str__(self) -> str:
        return f"{self.world} {self.kind} {self.idiom} {self.ending}".replace(" ", "-")


@dataclass
class Result:
    """What came of one cell's call."""

    saw: list[str]
    server_saw: str = ""
    totals: dict[str, int] | None = None
    outstanding: int = 0


class Servers:
    """A server in this process, and one to kill, the next of which is always starting already."""

    def __init__(self) -> None:
        self.steady = Server()
        self._next = ServerProcess()

    def victim(self) -> ServerProcess:
        victim, self._next = self._next, ServerProcess()
        return victim

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next.kill()
        self.steady.stop()


class Stage:
    """One call's surroundings, and its application's notes."""

    def __init__(self, channel: Any, cell: Cell, entry: Entry, key: str, end_from_outside: Callable[[], None]) -> None:
        self.ending = cell.ending
        self.entry = entry
        self.end_from_outside = end_from_outside
        make = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}[cell.kind]
        self.method: Any = getattr(channel, make)(METHODS[cell.kind])
        self.streams_requests = cell.kind.startswith("s")
        self.script = ENDINGS[cell.ending][0].encode()
        self.with_ = {
            "timeout": DEADLINE if cell.ending == "deadline" else FAR,
            "metadata": (("call-key", key),),
        }
        self.requests_end = threading.Event()
        self.saw: list[str] = []

    def note(self, *what: object) -> None:
        self.saw.append(" ".join(map(str, what)))

    def await_began(self) -> None:
        assert self.entry.began.wait(PATIENCE), "the server never saw the call"

    def note_error(self, error: BaseException) -> None:
        """What an application would look at."""
        if isinstance(error, grpc.RpcError):
            family = "CircuitOpenError" if isinstance(error, CircuitOpenError) else "RpcError"
            if isinstance(error, grpc.aio.AioRpcError):
                family = f"aio {family}"
            call: Any = error
            # The words of a broken connection, and of a deadline, are the network's: they differ from run to run.
            words = "" if self.ending in {"server killed", "deadline"} else call.details()
            words = words.replace(
                "Stream removed (Channel closed!)", "Channel closed!"
            )  # grpcio says now one, now the other
            self.note(family, call.code().name, words)
            self.note("trailing", [tuple(it) for it in call.trailing_metadata() or () if it[0] == "server"])
        else:
            self.note(type(error).__name__, error)


# ── Sync ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _requests(stage: Stage) -> Iterator[bytes]:
    yield stage.script
    if stage.ending in OPEN_REQUESTS:
        stage.requests_end.wait(PATIENCE)


def _argument(stage: Stage) -> Any:
    return _requests(stage) if stage.streams_requests else stage.script


def _end_sync(stage: Stage, call: Any) -> None:
    if stage.ending == "local cancel":
        stage.note("cancel", call.cancel())
    elif stage.ending in {"server killed", "channel closed"}:
        stage.end_from_outside()


def sync_call(stage: Stage) -> None:
    stage.note(stage.method(_argument(stage), **stage.with_))


def sync_with_call(stage: Stage) -> None:
    response, call = stage.method.with_call(_argument(stage), **stage.with_)
    stage.note(response, call.code().name, call.details(), call.is_active(), call.time_remaining())


def sync_future(stage: Stage) -> None:
    call = stage.method.future(_argument(stage), **stage.with_)
    if stage.ending == "abandoned":
        stage.await_began()
        return
    called_back = threading.Event()
    call.add_done_callback(lambda _: called_back.set())
    if stage.ending in {"local cancel", "server killed", "channel closed"}:
        stage.await_began()
        _end_sync(stage, call)
    try:
        stage.note(call.result(timeout=PATIENCE))
    finally:
        assert called_back.wait(PATIENCE), "the application's callback was never called"
        stage.note("done", call.done(), "cancelled", call.cancelled(), "running", call.running(), call.code().name)
        if stage.ending != "local cancel":
            stage.note("exception", isinstance(call.exception(timeout=PATIENCE), grpc.RpcError))


def sync_iterate(stage: Stage) -> None:
    call = stage.method(_argument(stage), **stage.with_)
    for number, message in enumerate(call):
        stage.note(message)
        if stage.ending == "abandoned":
            return
        if number == 0:
            _end_sync(stage, call)
    stage.note(call.code().name, call.details())


def sync_next(stage: Stage) -> None:
    call = stage.method(_argument(stage), **stage.with_)
    try:
        stage.note(next(call))
        if stage.ending == "abandoned":
            return
        _end_sync(stage, call)
        while True:
            stage.note(next(call))
    except StopIteration:
        stage.note("end", call.code().name)
    except grpc.RpcError:
        stage.note("done", call.done(), "active", call.is_active(), call.code().name)
        raise


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _aio_requests(stage: Stage) -> AsyncIterator[bytes]:
    yield stage.script
    if stage.ending in OPEN_REQUESTS:
        await asyncio.to_thread(stage.requests_end.wait, PATIENCE)


async def _begin(stage: Stage, *, writes: bool) -> Any:
    if not stage.streams_requests:
        return stage.method(stage.script, **stage.with_)
    if not writes:
        return stage.method(_aio_requests(stage), **stage.with_)
    call = stage.method(**stage.with_)
    try:
        await call.write(stage.script)
        if stage.ending not in OPEN_REQUESTS:
            await call.done_writing()
    except (asyncio.InvalidStateError, grpc.RpcError) as error:
        if stage.ending == "deadline":  # on a busy machine it passes before everything is written
            return call
        if isinstance(error, grpc.RpcError):
            raise
        stage.note("InvalidStateError", error if stage.ending == "refused" else "")
    return call


async def _end_aio(stage: Stage, call: Any, reading: asyncio.Task[None]) -> None:
    await asyncio.to_thread(stage.await_began)
    if stage.ending == "local cancel":
        stage.note("cancel", call.cancel())
    elif stage.ending == "task cancelled":
        stage.note("cancel", reading.cancel())
    elif stage.ending == "server killed":
        await asyncio.to_thread(stage.end_from_outside)
    elif stage.ending == "channel closed":
        stage.end_from_outside()


async def _aio(stage: Stage, read: Callable[[Stage, Any, asyncio.Event], Any], *, writes: bool) -> None:
    call = await _begin(stage, writes=writes)
    if stage.ending == "abandoned":
        await asyncio.wait_for(read(stage, call, asyncio.Event()), PATIENCE)
        await asyncio.to_thread(stage.await_began)
        return
    called_back = asyncio.Event()
    call.add_done_callback(lambda _: called_back.set())
    first = asyncio.Event()
    reading = asyncio.ensure_future(read(stage, call, first))
    if stage.ending in {"local cancel", "task cancelled", "server killed", "channel closed"}:
        await asyncio.wait_for(first.wait(), PATIENCE)
        await _end_aio(stage, call, reading)
    may_hang = OLD_GRPCIO and stage.ending == "channel closed"
    try:
        await asyncio.wait_for(reading, 2.0 if may_hang else PATIENCE)
    except TimeoutError:
        if not may_hang:
            raise
        raise asyncio.CancelledError from None  # as it ends where it does not hang
    finally:
        await asyncio.wait_for(called_back.wait(), PATIENCE)
        if writes and stage.ending in OPEN_REQUESTS:
            with suppress(asyncio.InvalidStateError):
                await call.done_writing()  # or grpcio, with any interceptor, leaves a task behind
        stage.note("done", call.done(), "cancelled", call.cancelled(), (await call.code()).name)
        if stage.ending not in {"server killed", "deadline"}:
            stage.note(await call.details())


async def _answer(stage: Stage, call: Any, first: asyncio.Event) -> None:
    first.set()
    if stage.ending != "abandoned":
        stage.note(await call)


async def _iterate(stage: Stage, call: Any, first: asyncio.Event) -> None:
    async for message in call:
        stage.note(message)
        first.set()
        if stage.ending == "abandoned":
            return


async def _read(stage: Stage, call: Any, first: asyncio.Event) -> None:
    while (message := await call.read()) is not grpc.aio.EOF:
        stage.note(message)
        first.set()
        if stage.ending == "abandoned":
            return


async def aio_await(stage: Stage) -> None:
    await _aio(stage, _answer, writes=False)


async def aio_write_await(stage: Stage) -> None:
    await _aio(stage, _answer, writes=True)


async def aio_async_for(stage: Stage) -> None:
    await _aio(stage, _iterate, writes=False)


async def aio_read(stage: Stage) -> None:
    await _aio(stage, _read, writes=False)


async def aio_write_async_for(stage: Stage) -> None:
    await _aio(stage, _iterate, writes=True)


async def aio_write_read(stage: Stage) -> None:
    await _aio(stage, _read, writes=True)


IDIOMS: dict[tuple[str, str], dict[str, Callable[[Stage], Any]]] = {
    ("sync", "uu"): {"call": sync_call, "with_call": sync_with_call, "future": sync_future},
    ("sync", "us"): {"iterate": sync_iterate, "next": sync_next},
    ("sync", "su"): {"call": sync_call, "with_call": sync_with_call, "future": sync_future},
    ("sync", "ss"): {"iterate": sync_iterate, "next": sync_next},
    ("aio", "uu"): {"await": aio_await},
    ("aio", "us"): {"async for": aio_async_for, "read": aio_read},
    ("aio", "su"): {"await": aio_await, "write, await": aio_write_await},
    ("aio", "ss"): {
        "async for": aio_async_for,
        "read": aio_read,
        "write, async for": aio_write_async_for,
        "write, read": aio_write_read,
    },
}
BLOCKING = {"call", "with_call"}


def possible(world: str, idiom: str, ending: str) -> bool:
    """Whether a call made so can end so: sync has no tasks, and who waits for an answer can neither cancel nor leave."""
    if world == "sync" and ending == "task cancelled":
        return False
    return not (idiom in BLOCKING and ending in {"local cancel", "abandoned"})


def verdict(cell: Cell) -> str:
    """What the ending of a call counts as.

    A stream that its caller gives up after the first message is a success where grpcio lets that be seen: always in
    asyncio, and in sync where the stream is thrown away. `cancel()` in sync leaves no trace of it, and a breaker that
    has counted no failure does not look for it.
    """
    given_up = (
        {"abandoned"} if cell.world == "sync" else {"local cancel", "task cancelled", "channel closed", "abandoned"}
    )
    if cell.kind in {"us", "ss"} and cell.ending in given_up:
        return "success"
    return ENDINGS[cell.ending][1]


CELLS = [
    Cell(world, kind, idiom, ending)
    for (world, kind), idioms in IDIOMS.items()
    for idiom in idioms
    for ending in ENDINGS
    if possible(world, idiom, ending)
]


# ── One cell ──────────────────────────────────────────────────────────────────────────────────────────────────────


def make_call(cell: Cell, servers: Servers, breakers: BreakerRegistry | None) -> Result:
    """Make the cell's call, bare or guarded, and see what comes of it."""
    key = f"{cell}-{next(_keys)}"
    server = servers.victim() if cell.ending == "server killed" else servers.steady
    try:
        if cell.world == "sync":
            return _make_sync(cell, server, key, breakers)
        return asyncio.run(_make_aio(cell, server, key, breakers))
    finally:
        if isinstance(server, ServerProcess):
            server.kill()


def _make_sync(cell: Cell, server: Server | ServerProcess, key: str, breakers: BreakerRegistry | None) -> Result:
    plain = channel = grpc.insecure_channel(server.target)
    if breakers is not None:
        channel = grpc.intercept_channel(plain, CircuitBreakerInterceptor(breakers, telemetry=False))
    end = server.kill if isinstance(server, ServerProcess) else plain.close
    stage = Stage(channel, cell, server.journal[key], key, end)
    outside = None
    if cell.idiom in BLOCKING and cell.ending in {"server killed", "channel closed"}:
        outside = threading.Thread(target=lambda: (stage.await_began(), end()))
        outside.start()
    try:
        IDIOMS[cell.world, cell.kind][cell.idiom](stage)
    except Exception as error:
        stage.note_error(error)
    stage.requests_end.set()
    if outside is not None:
        outside.join(PATIENCE)
    gc.collect()
    result = Result(stage.saw, _server_saw(cell, stage.entry))
    _tally(cell, breakers, result)
    plain.close()
    return result


async def _make_aio(cell: Cell, server: Server | ServerProcess, key: str, breakers: BreakerRegistry | None) -> Result:
    loop = asyncio.get_running_loop()
    if breakers is not None:
        interceptors = breaker_aio.interceptors(breakers, telemetry=False)
    else:
        interceptors = passing() if OLD_GRPCIO else None
    channel = grpc.aio.insecure_channel(server.target, interceptors=interceptors)
    closing: list[asyncio.Future[None]] = []

    def end() -> None:
        if isinstance(server, ServerProcess):
            server.kill()
        else:
            closing.append(asyncio.ensure_future(channel.close(), loop=loop))

    stage = Stage(channel, cell, server.journal[key], key, end)
    try:
        await IDIOMS[cell.world, cell.kind][cell.idiom](stage)
    except (Exception, asyncio.CancelledError) as error:
        stage.note_error(error)
    stage.requests_end.set()
    gc.collect()
    if cell.ending == "abandoned":  # grpcio >= 1.83 ends such a stream no sooner (grpc #43462)
        await channel.close()
    result = Result(stage.saw)
    result.server_saw = await asyncio.to_thread(_server_saw, cell, stage.entry)
    await asyncio.to_thread(_tally, cell, breakers, result)
    await asyncio.gather(channel.close(), *closing)
    return result


def _server_saw(cell: Cell, entry: Entry) -> str:
    """What the server can say about the call's end, if it lived to see it."""
    if cell.ending == "server killed":
        return ""
    if cell.ending == "refused":
        return "the call" if entry.began.is_set() else "nothing"
    if cell.ending == "deadline" and not entry.began.is_set():
        return "the cancellation"  # or was too slow to see the call at all
    assert entry.over.wait(PATIENCE), "the call still runs at the server"
    return "the cancellation" if entry.cancelled.is_set() else "the end"


def _tally(cell: Cell, breakers: BreakerRegistry | None, result: Result) -> None:
    if breakers is None:
        return
    breaker = breakers[METHODS[cell.kind]]
    await_settled(breaker)
    result.totals = {name: calls for name, calls in breaker.snapshot()["totals"].items() if calls}
    result.outstanding = breaker.in_flight


def await_settled(breaker: CircuitBreaker) -> None:
    """Wait until no permit is out and nothing is counted any more.

    The application sees a call's end microseconds before the breaker does, which takes its permit back microseconds
    before it counts.
    """
    until = time.monotonic() + PATIENCE
    pause = threading.Event()
    counted = None
    while time.monotonic() < until:
        before, counted = counted, breaker.tallies()
        if counted == before and not breaker.in_flight:
            return
        pause.wait(0.002)


def make_guarded(cell: Cell, servers: Servers, breakers: BreakerRegistry | None = None) -> Result:
    """Make the cell's call through a breaker of its own, or of a registry that no call has used."""
    breakers = breakers or BreakerRegistry(default=BreakerPolicy(consecutive_failures=100))
    if cell.ending == "refused":
        breakers[METHODS[cell.kind]].force_open()
    return make_call(cell, servers, breakers)


def main() -> None:
    """Print the table."""
    print(f"grpcio {grpc.__version__}, Python {sys.version.split()[0]}\n")
    print("| call | ending | the application saw | as bare | the server saw | verdict | permits outstanding |")
    print("|---|---|---|---|---|---|---|")
    with Servers() as servers:
        for cell in CELLS:
            result = make_guarded(cell, servers)
            same = "-"
            if cell.ending != "refused":
                bare = make_call(cell, servers, None)
                same = "yes" if (bare.saw, bare.server_saw) == (result.saw, result.server_saw) else f"NO: {bare.saw}"
            saw = "; ".join(it.strip() for it in result.saw) or "nothing"
            verdict = ", ".join(f"{name} {calls}" for name, calls in (result.totals or {}).items()).replace(" 1", "")
            print(
                f"| {cell.world} {cell.kind} {cell.idiom} | {cell.ending} | {saw} | {same} "
                f"| {result.server_saw or '(dead)'} | {verdict} | {result.outstanding} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
