"""Every way a call can be made, and every way it can end: the rows and columns of the endings table.

An *idiom* is client code written for bare gRPC. It makes one call with a request that tells the server how to behave, does
to it what the ending asks for, and answers what the application saw, as plain text that can be compared.

`python -m tests.integration.endings` prints the table.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, CircuitOpenError, aio
from grpc_breaker.testing import FakeClock
from tests.support.echo import PATIENCE, STREAM_STREAM, STREAM_UNARY, UNARY_STREAM, UNARY_UNARY, Process, Server

ENDINGS = ("ok", "error", "deadline", "cancel", "killed", "closed", "broken", "abandoned", "refused")

METHODS = {"uu": UNARY_UNARY, "us": UNARY_STREAM, "su": STREAM_UNARY, "ss": STREAM_STREAM}

VERDICTS = {
    "ok": "success",
    "error": "failure",
    "deadline": "failure",
    "cancel": "ignored",
    "killed": "failure",
    "closed": "ignored",
    "broken": "failure",
    "abandoned": "ignored",
    "refused": "rejected",
}

REQUESTS = {
    "ok": b"messages 2",
    "error": b"error UNAVAILABLE the server is ill",
    "deadline": b"messages 1 hang",
    "cancel": b"messages 1 hang",
    "killed": b"messages 1 hang",
    "closed": b"messages 1 hang",
    "broken": b"messages 1 error DATA_LOSS half an answer",
    "abandoned": b"messages 1 hang",
    "refused": b"messages 2",
}


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    world: str
    kind: str
    idiom: str
    ending: str

    def __str__(self) -> str:
        return f"{self.world}-{self.kind}-{self.idiom}-{self.ending}"


@dataclass
class Seen:
    """What came of one call."""

    application: list[str]
    verdict: str = ""
    in_flight: int = 0


class Stage:
    """One call's surroundings: a channel, a server, and the means to end the call from outside."""

    def __init__(self, target: str, ending: str, end_it: Callable[[], None] | None) -> None:
        self.target = target
        self.ending = ending
        self.request = REQUESTS[ending]
        self.timeout = 0.3 if ending == "deadline" else PATIENCE
        self.end_it = end_it
        self.saw: list[str] = []

    def note_error(self, error: BaseException) -> None:
        """What an application would look at."""
        if isinstance(error, CircuitOpenError):
            rpc = isinstance(error, grpc.RpcError)
            self.saw.append(f"CircuitOpenError {error.code().name} rpc={rpc} {error.details()[:29]}")
        elif isinstance(error, grpc.RpcError):
            code: Any = error.code()
            deterministic = code is grpc.StatusCode.CANCELLED or self.ending in {
                "error",
                "broken",
            }
            self.saw.append(f"RpcError {code.name} {error.details() if deterministic else ''}")
        else:
            self.saw.append(type(error).__name__)


# ── Sync ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _requests(stage: Stage) -> Iterator[bytes]:
    yield stage.request


def _argument(kind: str, stage: Stage) -> Any:
    return _requests(stage) if kind.startswith("s") else stage.request


def _stub(channel: grpc.Channel, kind: str) -> Any:
    make = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}[kind]
    return getattr(channel, make)(METHODS[kind])


def sync_call(channel: grpc.Channel, kind: str, stage: Stage) -> None:
    stage.saw.append(_stub(channel, kind)(_argument(kind, stage), timeout=stage.timeout).decode())


def sync_with_call(channel: grpc.Channel, kind: str, stage: Stage) -> None:
    response, call = _stub(channel, kind).with_call(_argument(kind, stage), timeout=stage.timeout)
    stage.saw += [response.decode(), call.code().name]


def sync_future(channel: grpc.Channel, kind: str, stage: Stage) -> None:
    call = _stub(channel, kind).future(_argument(kind, stage), timeout=stage.timeout)
    told = threading.Event()
    if stage.ending != "abandoned":
        call.add_done_callback(lambda _: told.set())
    if stage.ending == "cancel":
        assert stage.end_it is not None
        stage.end_it()
        stage.saw.append(f"cancel {call.cancel()}")
    elif stage.end_it is not None:
        stage.end_it()
    if stage.ending == "abandoned":
        return
    try:
        stage.saw.append(call.result(timeout=PATIENCE).decode())
    finally:
        assert told.wait(PATIENCE)
        stage.saw.append(f"done {call.done()} cancelled {call.cancelled()} {call.code().name}")


def sync_iterate(channel: grpc.Channel, kind: str, stage: Stage) -> None:
    call = _stub(channel, kind)(_argument(kind, stage), timeout=stage.timeout)
    for n, message in enumerate(call):
        stage.saw.append(message.decode())
        if n == 0:
            if stage.ending == "abandoned":
                break
            _end_stream(stage, call)
    if stage.ending != "abandoned":
        stage.saw.append(call.code().name)


def sync_next(channel: grpc.Channel, kind: str, stage: Stage) -> None:
    call = _stub(channel, kind)(_argument(kind, stage), timeout=stage.timeout)
    try:
        stage.saw.append(next(call).decode())
        if stage.ending == "abandoned":
            return
        _end_stream(stage, call)
        while True:
            stage.saw.append(next(call).decode())
    except StopIteration:
        stage.saw.append("end")
    except grpc.RpcError:
        stage.saw.append(f"done {call.done()} {call.code().name}")
        raise


def _end_stream(stage: Stage, call: Any) -> None:
    if stage.ending == "cancel":
        stage.saw.append(f"cancel {call.cancel()}")
    elif stage.end_it is not None:
        stage.end_it()


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _async_requests(stage: Stage) -> AsyncIterator[bytes]:
    yield stage.request


async def _end_aio(stage: Stage, call: Any, channel: Any) -> None:
    if stage.ending == "cancel":
        stage.saw.append(f"cancel {call.cancel()}")
    elif stage.ending == "closed":
        await channel.close()
    elif stage.end_it is not None:
        await asyncio.get_running_loop().run_in_executor(None, stage.end_it)


async def _begin(channel: Any, kind: str, stage: Stage, *, writes: bool) -> Any:
    method = _stub(channel, kind)
    if not kind.startswith("s"):
        return method(stage.request, timeout=stage.timeout)
    if not writes:
        return method(_async_requests(stage), timeout=stage.timeout)
    call = method(timeout=stage.timeout)
    try:
        await call.write(stage.request)
        await call.done_writing()
    except asyncio.InvalidStateError:
        stage.saw.append("InvalidStateError")
    return call


async def aio_await(channel: Any, kind: str, stage: Stage, *, writes: bool = False) -> None:
    call = await _begin(channel, kind, stage, writes=writes)
    told = asyncio.Event()
    call.add_done_callback(lambda _: told.set())
    if stage.ending in {"cancel", "killed", "closed"}:
        assert stage.end_it is not None
        task = asyncio.ensure_future(_answer(call))
        began = stage.end_it if stage.ending == "cancel" else _server_has_it
        await asyncio.get_running_loop().run_in_executor(None, began)
        await _end_aio(stage, call, channel)
        stage.saw.append((await asyncio.wait_for(task, PATIENCE)).decode())
    else:
        stage.saw.append((await call).decode())
    await asyncio.wait_for(told.wait(), PATIENCE)
    stage.saw.append(f"done {call.done()} {(await call.code()).name}")


async def _answer(call: Any) -> bytes:
    answer: bytes = await call
    return answer


def _server_has_it() -> None:
    """The killed and closed endings of calls without messages end the call whenever it is."""


async def aio_iterate(channel: Any, kind: str, stage: Stage, *, writes: bool = False) -> None:
    call = await _begin(channel, kind, stage, writes=writes)
    n = 0
    async for message in call:
        stage.saw.append(message.decode())
        n += 1
        if n == 1:
            if stage.ending == "abandoned":
                return
            await _end_aio(stage, call, channel)
    stage.saw.append((await call.code()).name)


async def aio_read(channel: Any, kind: str, stage: Stage, *, writes: bool = False) -> None:
    call = await _begin(channel, kind, stage, writes=writes)
    n = 0
    while (message := await call.read()) is not grpc.aio.EOF:
        stage.saw.append(message.decode())
        n += 1
        if n == 1:
            if stage.ending == "abandoned":
                return
            await _end_aio(stage, call, channel)
    stage.saw.append((await call.code()).name)


async def aio_await_writing(channel: Any, kind: str, stage: Stage) -> None:
    await aio_await(channel, kind, stage, writes=True)


async def aio_iterate_writing(channel: Any, kind: str, stage: Stage) -> None:
    await aio_iterate(channel, kind, stage, writes=True)


async def aio_read_writing(channel: Any, kind: str, stage: Stage) -> None:
    await aio_read(channel, kind, stage, writes=True)


IDIOMS: dict[str, dict[str, tuple[Callable[..., Any], ...]]] = {
    "sync": {
        "uu": (sync_call, sync_with_call, sync_future),
        "us": (sync_iterate, sync_next),
        "su": (sync_call, sync_with_call, sync_future),
        "ss": (sync_iterate, sync_next),
    },
    "aio": {
        "uu": (aio_await,),
        "us": (aio_iterate, aio_read),
        "su": (aio_await, aio_await_writing),
        "ss": (aio_iterate, aio_read, aio_iterate_writing, aio_read_writing),
    },
}


def possible(kind: str, idiom: Callable[..., Any], ending: str) -> bool:
    """Whether an idiom can end this way: a blocking call can be neither cancelled nor abandoned by its caller."""
    blocking = idiom in {sync_call, sync_with_call}
    if blocking and ending in {"cancel", "abandoned"}:
        return False
    awaited = idiom in {aio_await, aio_await_writing}
    if awaited and ending == "abandoned":
        return False
    return not (ending == "broken" and kind.endswith("u"))  # a single answer cannot break off


CELLS = [
    Cell(world, kind, idiom.__name__.partition("_")[2], ending)
    for world, kinds in IDIOMS.items()
    for kind, idioms in kinds.items()
    for idiom in idioms
    for ending in ENDINGS
    if possible(kind, idiom, ending)
]


def idiom_of(cell: Cell) -> Callable[..., Any]:
    return next(it for it in IDIOMS[cell.world][cell.kind] if it.__name__ == f"{cell.world}_{cell.idiom}")


# ── One cell ──────────────────────────────────────────────────────────────────────────────────────────────────────


def run(cell: Cell, server: Server, breakers: BreakerRegistry | None) -> list[str]:
    """Make one call as the cell says, bare or guarded, and answer what the application saw."""
    victim = Process() if cell.ending == "killed" else None
    target = victim.target if victim else server.target
    while server.echo.began.acquire(blocking=False):
        pass
    try:
        if cell.world == "sync":
            return _run_sync(cell, server, target, victim, breakers)
        return asyncio.run(_run_aio(cell, server, target, victim, breakers))
    finally:
        if victim is not None:
            victim.kill()


def _run_sync(
    cell: Cell, server: Server, target: str, victim: Process | None, breakers: BreakerRegistry | None
) -> list[str]:
    channel: Any = grpc.insecure_channel(target)
    guarded = channel
    if breakers is not None:
        guarded = grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers, telemetry=False))
    stage = Stage(target, cell.ending, _ender(cell, server, victim, channel.close))
    blocking = idiom_of(cell) in {sync_call, sync_with_call}
    helper = None
    if blocking and stage.end_it is not None:
        helper = threading.Thread(target=_later, args=(server, victim, stage.end_it))
        helper.start()
    _attempt(lambda: idiom_of(cell)(guarded, cell.kind, stage), stage)
    if helper is not None:
        helper.join(PATIENCE)
    gc.collect()
    if cell.ending == "abandoned":
        assert server.echo.cancelled.acquire(timeout=PATIENCE), "the server never saw the cancellation"
    if breakers is not None:
        _await_settled(breakers)
    channel.close()
    return stage.saw


def _later(server: Server, victim: Process | None, end_it: Callable[[], None]) -> None:
    """End a blocking call from another thread, once the server has it."""
    if victim is None:
        server.echo.began.acquire(timeout=PATIENCE)
    end_it()


async def _run_aio(
    cell: Cell, server: Server, target: str, victim: Process | None, breakers: BreakerRegistry | None
) -> list[str]:
    interceptors = None if breakers is None else aio.interceptors(breakers, telemetry=False)
    channel = grpc.aio.insecure_channel(target, interceptors=interceptors)
    stage = Stage(target, cell.ending, _ender(cell, server, victim, lambda: None))
    try:
        await asyncio.wait_for(idiom_of(cell)(channel, cell.kind, stage), PATIENCE)
    except (Exception, asyncio.CancelledError) as error:
        stage.note_error(error)
    gc.collect()
    if breakers is not None and cell.ending != "abandoned":
        await asyncio.get_running_loop().run_in_executor(None, _await_settled, breakers)
    await channel.close()
    if breakers is not None and cell.ending == "abandoned":
        await asyncio.get_running_loop().run_in_executor(None, _await_settled, breakers)
    return stage.saw


def _attempt(call: Callable[[], None], stage: Stage) -> None:
    try:
        call()
    except Exception as error:
        stage.note_error(error)


def _ender(cell: Cell, server: Server, victim: Process | None, close: Callable[[], None]) -> Callable[[], None] | None:
    if cell.ending == "killed":
        assert victim is not None
        return victim.kill
    if cell.ending == "closed":
        return close
    if cell.ending in {"cancel", "abandoned"}:
        return lambda: server.echo.began.acquire(timeout=PATIENCE) and None
    return None


def _await_settled(breakers: BreakerRegistry) -> None:
    """A call's end is seen by the application microseconds before the breaker sees it."""
    until = time.monotonic() + PATIENCE
    while any(breaker.in_flight for breaker in breakers) and time.monotonic() < until:
        time.sleep(0.001)


def examine(cell: Cell, server: Server) -> Seen:
    """The guarded call, and what the breaker made of it."""
    method = METHODS[cell.kind].lstrip("/")
    breakers = BreakerRegistry({method: BreakerPolicy(consecutive_failures=100)}, default=None, clock=FakeClock())
    if cell.ending == "refused":
        breakers[method].force_open()
    seen = Seen(run(cell, server, breakers))
    totals = breakers[method].snapshot()["totals"]
    seen.verdict = " ".join(name for name, calls in totals.items() for _ in range(calls))
    seen.in_flight = breakers[method].in_flight
    return seen


def main() -> None:
    """Print the table."""
    server = Server()
    print(f"grpcio {grpc.__version__}, Python {sys.version.split()[0]}\n")
    print("| call | ending | the application saw | verdict | permits outstanding |")
    print("|---|---|---|---|---|")
    for cell in CELLS:
        seen = examine(cell, server)
        name = f"{cell.world} {cell.kind} {cell.idiom.replace('_', ' ')}"
        print(f"| {name} | {cell.ending} | {'; '.join(seen.application)} | {seen.verdict} | {seen.in_flight} |")
    server.stop()


if __name__ == "__main__":
    main()
