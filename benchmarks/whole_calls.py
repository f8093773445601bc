"""Whole calls on loopback: what an interceptor adds to their CPU time and to their latency.

    python -m benchmarks.whole_calls

The server is a process of its own. In each round every variant makes its calls once, in an order drawn anew; times are
medians over the rounds, ratios are medians of the ratios within each round, to an interceptor that does nothing. That
one is there twice: what the second differs by is noise. Three clocks run over the same calls: the CPU time of the
thread that makes them (the event loop's, in asyncio), the CPU time of the whole process, gRPC's own threads included,
and the wall clock. The first is the least noisy.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any

import grpc

from benchmarks.interceptors import AioPassThrough, PassThrough
from benchmarks.peers import aio_interceptor_peers
from benchmarks.timing import Loop
from grpc_breaker import CircuitBreakerInterceptor, aio
from tests.support.server import UNARY_STREAM, UNARY_UNARY, ServerProcess

ROUNDS, CALLS = 300, 40
"""Rounds, and calls of one variant in one round: many short ones, because a busy machine changes its pace."""
STREAM_ROUNDS, STREAMS = 40, 1
BARE = "no interceptor"
NOTHING = "an interceptor that does nothing"
AGAIN = "another one"
OURS = "grpc_breaker"

CLOCKS: dict[str, Callable[[], float]] = {
    "CPU of the thread": time.thread_time,
    "CPU of the process": time.process_time,
    "latency": time.perf_counter,
}
Samples = dict[str, dict[str, list[float]]]
"""Microseconds for one call, by clock, variant and round."""


class AioAwaiting(grpc.aio.UnaryUnaryClientInterceptor):
    """Awaits the call, and returns it."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        await call
        return call


def turns(names: list[str], rounds: int, calls: int, samples: Samples) -> Iterator[str]:
    """Whose turn it is, round by round, until all rounds are over; adds to `samples` what each turn took."""
    samples.update({clock: {name: [] for name in names} for clock in CLOCKS})
    order = Random(1)
    gc.collect()
    gc.freeze()  # what is there now is not looked through again in each turn
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            gc.collect()
            began = {clock: read() for clock, read in CLOCKS.items()}
            yield name
            for clock, read in CLOCKS.items():
                samples[clock][name].append((read() - began[clock]) / calls * 1e6)
    gc.unfreeze()


def table(title: str, samples: Samples) -> str:
    """The samples as a Markdown table; the first clock with its middle half."""
    first = next(iter(samples))
    columns = [column for clock in samples for column in (f"{clock}, µs", *["middle half"] * (clock == first), "ratio")]
    lines = [f"### {title}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in samples[first]:
        cells = []
        for clock, by_name in samples.items():
            low, median, high = statistics.quantiles(by_name[name])
            pairs = zip(by_name[name], by_name[NOTHING], strict=True)
            cells.append(f"{median:.0f}")
            if clock == first:
                cells.append(f"{low:.0f} to {high:.0f}")
            cells.append(f"{statistics.median(value / base for value, base in pairs):.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def sync_interceptors() -> dict[str, list[Any]]:
    """What is put around a channel, by variant."""
    return {BARE: [], NOTHING: [PassThrough()], AGAIN: [PassThrough()], OURS: [CircuitBreakerInterceptor()]}


def aio_interceptors() -> dict[str, list[Any]]:
    """What is put around an asyncio channel, by variant."""
    return {
        BARE: [],
        NOTHING: [AioPassThrough()],
        AGAIN: [AioPassThrough()],
        OURS: aio.interceptors(),
        **aio_interceptor_peers(),
        "an interceptor that awaits the call": [AioAwaiting()],
    }


def sync_calls(target: str, interceptors: list[Any], path: str, request: bytes) -> Loop:
    """Blocking calls, or streams that are read to their end, on a channel of their own."""
    channel = grpc.intercept_channel(grpc.insecure_channel(target), *interceptors)
    unary: Any = channel.unary_unary(path)
    stream: Any = channel.unary_stream(path)

    def make_calls(count: int) -> None:
        for _ in range(count):
            unary(request)

    def read_streams(count: int) -> None:
        for _ in range(count):
            for _ in stream(request):
                pass

    return make_calls if path == UNARY_UNARY else read_streams


def measure_sync(target: str, path: str, request: bytes, rounds: int, calls: int) -> Samples:
    """Each variant's cost of a call, on this thread."""
    loops = {name: sync_calls(target, them, path, request) for name, them in sync_interceptors().items()}
    for loop in loops.values():
        loop(calls)
    samples: Samples = {}
    for name in turns(list(loops), rounds, calls, samples):
        loops[name](calls)
    return samples


def aio_calls(channel: grpc.aio.Channel) -> Callable[[int], Awaitable[None]]:
    """Calls of one request and one answer, one after the other."""
    unary: Any = channel.unary_unary(UNARY_UNARY)

    async def make_calls(count: int) -> None:
        for _ in range(count):
            await unary(b"ok")

    return make_calls


async def measure_aio(target: str, rounds: int, calls: int) -> Samples:
    """Each variant's cost of a call, one after the other in one event loop."""
    variants = aio_interceptors().items()
    channels = {name: grpc.aio.insecure_channel(target, interceptors=them) for name, them in variants}

    loops = {name: aio_calls(channel) for name, channel in channels.items()}
    for loop in loops.values():
        await loop(calls)
    samples: Samples = {}
    for name in turns(list(loops), rounds, calls, samples):
        await loops[name](calls)
    for channel in channels.values():
        await channel.close()
    return samples


def python_calls(loop: Loop) -> int:
    """How many functions, Python's and C's, the calling thread enters in one pass."""
    entered = 0

    def enter(frame: object, event: str, argument: object) -> None:
        nonlocal entered
        entered += event in {"call", "c_call"}

    loop(1)
    sys.setprofile(enter)
    try:
        loop(1)
    finally:
        sys.setprofile(None)
    return entered


def per_message(target: str) -> str:
    """What a message of a stream costs more. No clock is fine enough, so the functions that are entered are counted."""
    lines = ["### Functions entered by the reader of a stream", "", "| | 1,000 messages | 2,000 messages | a message |"]
    lines.append("|---|---|---|---|")
    for name, interceptors in sync_interceptors().items():
        if name == AGAIN:
            continue
        fewer, more = (
            python_calls(sync_calls(target, interceptors, UNARY_STREAM, b"messages %d" % messages))
            for messages in (1_000, 2_000)
        )
        lines.append(f"| {name} | {fewer} | {more} | {(more - fewer) / 1000:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Print every table."""
    with ServerProcess() as server:
        target = server.target
        print(table("A whole blocking call", measure_sync(target, UNARY_UNARY, b"ok", ROUNDS, CALLS)), flush=True)
        streams = measure_sync(target, UNARY_STREAM, b"messages 2000", STREAM_ROUNDS, STREAMS)
        print(table("A whole stream of 2,000 messages", streams))
        print(per_message(target), flush=True)
        print(table("A whole asyncio call", asyncio.run(measure_aio(target, ROUNDS, CALLS))))


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m benchmarks.whole_calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    main()
