"""The outage: a checkout that calls five services, one of which hangs, dies and comes back; with and without breakers.

    python -m benchmarks.outage [--plots docs/images] [--only NAME…] [--records DIR]

A checkout comes every 12.5 ms, whether or not the ones before are done (an open loop at fixed arrival times), to a pool
of 16 workers, and calls five services one after the other, each with a deadline of a quarter of a second. Its latency
counts from when it came, not from when a worker took it up, so that waiting for a worker is part of it (no coordinated
omission). A call that fails or is refused is answered by a fallback; such a checkout is degraded, not lost.

The services are processes. The one with the prices is stopped (SIGSTOP: every call of it hangs to its deadline), then
killed, then started again on its port. Every breaker opens after five failures and asks again after five seconds.

`--records` keeps the calls for prices, those without a breaker and those with ours, to be played again with other
policies; see `tests/support/records.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc

from benchmarks.peers import aio_interceptor_peers, aio_peers, sync_peers
from benchmarks.plots import in_words, pyplot, save
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, MethodPolicy, aio
from tests.support.records import TRIAL, recorder_of
from tests.support.server import ServerProcess

WORKERS = 16
EVERY = 0.0125
DEADLINE = 0.25
RESET = 5.0
PHASES = {"healthy": 3.0, "hanging": 20.0, "dead": 4.0, "back": 8.0}
"""Seconds of each."""
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
WORK = b"wait 0.002"
OTHERS = tuple(f"shop.v1.{service}/UnaryUnary" for service in ("Cart", "Stock", "Shipping", "Tax"))
PRICES = "shop.v1.Prices/UnaryUnary"
UNGUARDED = "no breaker"
NEAR_P99 = 0.05
"""Seconds: what nearly every call of a healthy server keeps to."""
OURS: dict[str, BreakerPolicy | MethodPolicy] = {
    "grpc_breaker": BreakerPolicy(),
    "grpc_breaker, probing after 5 s": BreakerPolicy(reset_timeout=RESET),
    "grpc_breaker, probing after 60 s": BreakerPolicy(reset_timeout=60),
    "grpc_breaker, probe deadline": BreakerPolicy(probe_deadline=NEAR_P99),
    "grpc_breaker, probe deadline, hung calls": BreakerPolicy(probe_deadline=NEAR_P99, hung_after=NEAR_P99),
    "grpc_breaker, probe deadline, bulkhead": MethodPolicy(
        breaker=BreakerPolicy(probe_deadline=NEAR_P99), max_concurrent_calls=4
    ),
    "grpc_breaker, probe deadline, bulkhead, hung calls": MethodPolicy(
        breaker=BreakerPolicy(probe_deadline=NEAR_P99, hung_after=NEAR_P99), max_concurrent_calls=4
    ),
}
"""With the default open period, which begins at a second and doubles; with that of the others; with the longest; and
with parts that keep even the first calls of an outage and its probes from waiting."""
NAIVE = "`try` around `continuation`"
SOON = 0.1
"""Seconds: a checkout that is answered within it, and not degraded, is a good one."""


@dataclass
class Run:
    """What came of one outage."""

    name: str
    checkouts: list[tuple[float, float, bool]] = field(default_factory=list)
    """When it came, how long it took, whether it was degraded."""
    busy: list[tuple[float, int]] = field(default_factory=list)
    reached: list[float] = field(default_factory=list)
    """When calls were sent to the prices."""
    back: float = 0.0
    """When the server was back."""


class Outage:
    """The story of the price server, beside one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.prices, self.others = ServerProcess(), ServerProcess()
        self.targets = self.prices.target, self.others.target
        self.began = 0.0
        self.busy = 0
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._threads = [threading.Thread(target=it, daemon=True) for it in (self._tell, self._watch)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        self.prices.kill()
        self.others.kill()

    def now(self) -> float:
        return time.monotonic() - self.began

    def _tell(self) -> None:
        at = 0.0
        for phase, act in (("healthy", self.prices.pause), ("hanging", self.prices.kill), ("dead", self._return)):
            at += PHASES[phase]
            if self._over.wait(max(0.0, at - self.now())):
                return
            act()

    def _return(self) -> None:
        self.prices.restart()
        self.run.back = self.now()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.run.busy.append((self.now(), self.busy))


def arrivals() -> list[float]:
    """When checkouts come, in seconds from the beginning."""
    return [n * EVERY for n in range(int(sum(PHASES.values()) / EVERY))]


# ── Threads ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Passing(grpc.UnaryUnaryClientInterceptor):
    """Innermost: notes which calls are sent."""

    def __init__(self, sent: Callable[[], None]) -> None:
        self._sent = sent

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._sent()
        return continuation(client_call_details, request)


class Naive(grpc.UnaryUnaryClientInterceptor):
    """The recipe in an interceptor, as it is written by hand: it waits for an exception that grpcio does not raise."""

    def __init__(self) -> None:
        self._guard = sync_peers(RESET)["the recipe"]

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._guard(continuation)(client_call_details, request)


def in_threads(name: str, records: Path | None = None) -> Run:
    """One outage of a checkout in a pool of threads."""
    run = Run(name)
    story = Outage(run)
    prices = grpc.insecure_channel(story.targets[0], OPTIONS)
    others = grpc.insecure_channel(story.targets[1], OPTIONS)
    prices_channel = grpc.intercept_channel(prices, Passing(lambda: run.reached.append(story.now())))
    recorder: AbstractContextManager[Any] = nullcontext()
    if name in OURS or (records and name == UNGUARDED):
        registry = BreakerRegistry(default=OURS.get(name, TRIAL))
        prices_channel = grpc.intercept_channel(prices_channel, CircuitBreakerInterceptor(registry))
        recorder = recorder_of(registry, records, "outage", "threads", name) if records else recorder
    elif name == NAIVE:
        prices_channel = grpc.intercept_channel(prices_channel, Naive())
    price = partial(prices_channel.unary_unary(f"/{PRICES}"), WORK, timeout=DEADLINE)
    if name in sync_peers():
        price = sync_peers(RESET)[name](price)
    calls = [price, *(partial(others.unary_unary(f"/{other}"), WORK, timeout=DEADLINE) for other in OTHERS)]
    for call in calls:
        call()
    run.reached.clear()

    def checkout(came: float) -> None:
        story.busy += 1
        degraded = False
        for call in calls:
            try:
                call()
            except Exception:  # noqa: BLE001 - every breaker has its own
                degraded = True
        story.busy -= 1
        run.checkouts.append((came, story.now() - came, degraded))

    with recorder, ThreadPoolExecutor(WORKERS) as pool, story:
        for came in arrivals():
            time.sleep(max(0.0, came - story.now()))
            pool.submit(checkout, came)
        pool.shutdown()
    prices.close()
    others.close()
    return run


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────────────


class AioPassing(grpc.aio.UnaryUnaryClientInterceptor):
    """Innermost: notes which calls are sent."""

    def __init__(self, sent: Callable[[], None]) -> None:
        self._sent = sent

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self._sent()
        return await continuation(client_call_details, request)


class AioNaive(grpc.aio.UnaryUnaryClientInterceptor):
    """The recipe in an interceptor: what it awaits is a call that has not been made yet."""

    def __init__(self) -> None:
        self._guard = aio_peers(RESET)["the recipe"]

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._guard(continuation)(client_call_details, request)


async def in_tasks(name: str, records: Path | None = None) -> Run:  # noqa: C901 - the same, step by step
    """One outage of a checkout in asyncio, which works at as many at once."""
    run = Run(name)
    story = Outage(run)
    passing = AioPassing(lambda: run.reached.append(story.now()))
    interceptors: list[Any] = [passing]
    recorder: AbstractContextManager[Any] = nullcontext()
    if name in OURS or (records and name == UNGUARDED):
        registry = BreakerRegistry(default=OURS.get(name, TRIAL))
        interceptors = [*aio.interceptors(registry), passing]
        recorder = recorder_of(registry, records, "outage", "asyncio", name) if records else recorder
    elif name == NAIVE:
        interceptors = [AioNaive(), passing]
    elif name in aio_interceptor_peers():
        interceptors = [*aio_interceptor_peers(RESET)[name], passing]
    prices = grpc.aio.insecure_channel(story.targets[0], OPTIONS, interceptors=interceptors)
    others = grpc.aio.insecure_channel(story.targets[1], OPTIONS)

    def calling(channel: Any, path: str) -> Callable[[], Any]:
        method = channel.unary_unary(f"/{path}")

        async def call() -> bytes:
            return await method(WORK, timeout=DEADLINE)

        return call

    price = calling(prices, PRICES)
    if name in aio_peers():
        price = aio_peers(RESET)[name](price)
    calls = [price, *(calling(others, other) for other in OTHERS)]
    for call in calls:
        await call()
    run.reached.clear()
    workers = asyncio.Semaphore(WORKERS)

    async def checkout(came: float) -> None:
        async with workers:
            story.busy += 1
            degraded = False
            for call in calls:
                try:
                    await call()
                except Exception:  # noqa: BLE001 - every breaker has its own
                    degraded = True
            story.busy -= 1
        run.checkouts.append((came, story.now() - came, degraded))

    with recorder, story:
        async with asyncio.TaskGroup() as group:
            for came in arrivals():
                await asyncio.sleep(max(0.0, came - story.now()))
                group.create_task(checkout(came))
    await prices.close()
    await others.close()
    return run


# ── What it says ──────────────────────────────────────────────────────────────────────────────────────────────────


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def phase_of(came: float) -> str:
    """Which phase a moment falls into."""
    end = 0.0
    for phase, seconds in PHASES.items():
        end += seconds
        if came < end:
            return phase
    return phase


def latencies(run: Run, *phases: str) -> list[float]:
    """How long the checkouts took that came in these phases, in seconds."""
    return [took for came, took, _ in run.checkouts if phase_of(came) in phases]


def recovered_after(run: Run) -> float:
    """Seconds from the server's return until the last checkout that was degraded or late."""
    bad = [came + min(took, SOON) for came, took, degraded in run.checkouts if degraded or took > SOON]
    return max(0.0, max(bad, default=0.0) - run.back)


def table(title: str, runs: list[Run]) -> str:
    """The runs as a Markdown table."""
    outage = ("hanging", "dead")
    base = percentile(latencies(runs[0], *outage), 0.99)
    head = (
        f"| | p50 hanging | p99 hanging | p50 dead | p99 dead | p99 of the outage | against none | within {SOON:g} s"
        " | workers busy | in its first second | calls to the sick server | all well again after |"
    )
    lines = [f"### {title}", "", head, "|---" * 12 + "|"]
    for run in runs:
        p99 = percentile(latencies(run, *outage), 0.99)
        cells = [
            *(f"{percentile(latencies(run, it), share) * 1e3:,.0f} ms" for it in outage for share in (0.5, 0.99)),
            f"{p99 * 1e3:,.0f} ms",
            f"{100 * (p99 / base - 1):+.1f} %",
            f"{100 * statistics.mean(took <= SOON for took in latencies(run, *outage)):.1f} %",
            f"{100 * statistics.mean(n for at, n in run.busy if phase_of(at) in outage) / WORKERS:.0f} %",
            f"{100 * statistics.mean(n for at, n in run.busy if 0 <= at - PHASES['healthy'] < 1) / WORKERS:.0f} %",
            str(sum(phase_of(at) in outage for at in run.reached)),
            f"{recovered_after(run):.1f} s",
        ]
        lines.append(f"| {run.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def plot(title: str, runs: list[Run], path: Path) -> None:
    """Latency and busy workers over time: a row for each breaker, each beside what happens without one.

    Breakers that do equally well would hide one another as lines of one picture.
    """
    bare, *guarded = runs
    figure, rows = pyplot().subplots(
        len(guarded), 2, figsize=(8, 0.5 + 0.85 * len(guarded)), sharex=True, sharey="col", layout="constrained"
    )
    seconds = range(int(sum(PHASES.values())))
    at = [n + 0.5 for n in seconds]
    without = slowest(bare, seconds), busy(bare, seconds)
    for row, run in zip(rows, guarded, strict=True):
        colour = "#0072B2" if run.name in OURS else "#D55E00"
        for axes, grey, line in zip(row, without, (slowest(run, seconds), busy(run, seconds)), strict=True):
            axes.fill_between(at, grey, step="mid", color="#cccccc")
            axes.plot(at, line, color=colour, lw=1.8)
            end = 0.0
            for phase, length in PHASES.items():
                axes.axvline(end, color="#666666", lw=0.6, ls=":")
                if run is guarded[0]:
                    axes.text(end + length / 2, 1.04, phase, ha="center", size=8, transform=axes.get_xaxis_transform())
                end += length
        row[0].set(yscale="log", xlim=(0, seconds[-1] + 1), ylim=(8, 1.4 * max(without[0])))
        row[0].set_yticks([10, 100, 1000], ["10", "100", "1000"])
        row[1].set(ylim=(0, 105))
        name = in_words(run.name)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", color=colour, fontsize=8)
    for axes, measured in zip(rows[-1], ("p99 latency of each second, ms", "workers busy, %"), strict=True):
        axes.set_xlabel(f"{measured}; by seconds")
    figure.suptitle(f"{title}: with a breaker (line), and without (grey)")
    save(figure, path)


def slowest(run: Run, seconds: Iterable[int]) -> list[float]:
    """The p99 latency of each second, in milliseconds."""
    return [1e3 * percentile((took for came, took, _ in run.checkouts if int(came) == n), 0.99) for n in seconds]


def busy(run: Run, seconds: Iterable[int]) -> list[float]:
    """The share of workers that were busy in each second, in percent."""
    return [100 * statistics.mean([n for at, n in run.busy if int(at) == it] or [0]) / WORKERS for it in seconds]


def main() -> None:
    """Play every outage, print the tables, draw the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage")
    parser.add_argument("--plots", type=Path, help="a folder to draw plots into")
    parser.add_argument("--records", type=Path, metavar="DIR", help="a folder to record the traffic in")
    parser.add_argument("--only", nargs="+", default=[], help="candidates to play beside the one without a breaker")
    options = parser.parse_args()
    folder: Path | None = options.plots
    worlds: dict[str, tuple[str, Callable[[str], Run], list[str]]] = {
        "threads": (
            "A checkout in 16 threads",
            partial(in_threads, records=options.records),
            [UNGUARDED, NAIVE, *sync_peers(), *OURS],
        ),
        "asyncio": (
            "A checkout in asyncio, 16 at once",
            lambda name: asyncio.run(in_tasks(name, options.records)),
            [UNGUARDED, NAIVE, *aio_peers(), *aio_interceptor_peers(), *OURS],
        ),
    }
    for world, (title, play, names) in worlds.items():
        runs = [play(name) for name in names if not options.only or name in {UNGUARDED, *options.only}]
        print(table(title, runs), flush=True)
        if folder is not None:
            plot(title, runs, folder / f"outage-{world}.svg")


if __name__ == "__main__":
    main()
