"""The breaker alone, and its peers: calls that pass, fail or are refused, eight threads, memory, ten thousand methods.

    python -m benchmarks.core [--plot docs/images/cost.svg]

Each loop runs in turns with the others of its table; see `timing.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count as steps
from pathlib import Path
from typing import Any

from benchmarks.peers import FAILURES, Guard, aio_peers, sync_peers
from benchmarks.plots import in_words, pyplot, save
from benchmarks.timing import Loop, interleaved, table
from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreaker,
    CircuitOpenError,
    MethodPolicy,
    Outcome,
    Permit,
    RateLimit,
    Throttle,
)
from grpc_breaker.testing import FakeClock

SUCCESS = Outcome.SUCCESS
FAILURE = Outcome.FAILURE
NEVER_OPENS = BreakerPolicy(failure_rate=0.9, consecutive_failures=FAILURES)
"""The default conditions, neither of which holds while every other call fails."""
IN_A_ROW = ("circuitbreaker", "pybreaker", "purgatory")
"""The peers that do not open while every other call fails."""


def nothing() -> None:
    """What is protected."""


def repeat(call: Callable[[], object]) -> Loop:
    """A loop around a call."""

    def loop(count: int) -> None:
        for _ in range(count):
            call()

    return loop


def two_steps(breaker: CircuitBreaker) -> Loop:
    """Admit and settle, as the interceptors do."""

    def loop(count: int) -> None:
        admit = breaker.try_admit
        for _ in range(count):
            admit("pkg.Service/Method", None, True, 1.0).success()  # type: ignore[union-attr]

    return loop


def closed() -> dict[str, Loop]:
    """Calls that pass."""
    return {
        "an empty function": repeat(nothing),
        "grpc_breaker, admit and settle (as the interceptors do)": two_steps(CircuitBreaker("closed")),
        "grpc_breaker, admit and settle, a failure in the window": two_steps(uneasy()),
        "grpc_breaker, decorated function": repeat(CircuitBreaker("closed")(nothing)),
        **{name: repeat(guard(nothing)) for name, guard in sync_peers().items()},
    }


def uneasy() -> CircuitBreaker:
    """A breaker that is closed, with a failure in its window that stays there."""
    breaker = CircuitBreaker("uneasy", BreakerPolicy(window_seconds=3600))
    breaker.admit().failure("UNAVAILABLE", "ill")
    return breaker


async def nothing_awaited() -> None:
    """What is protected in asyncio."""


def closed_in_asyncio() -> dict[str, Loop]:
    """Coroutines that pass."""

    def awaiting(call: Callable[[], Any]) -> Loop:
        async def many(count: int) -> None:
            for _ in range(count):
                await call()

        return lambda count: asyncio.run(many(count))

    guarded = CircuitBreaker("closed")(nothing_awaited)
    peers = {name: awaiting(guard(nothing_awaited)) for name, guard in aio_peers().items()}
    return {
        "an empty coroutine": awaiting(nothing_awaited),
        "grpc_breaker, decorated coroutine function": awaiting(guarded),
        **peers,
    }


def failing() -> dict[str, Loop]:
    """A call that fails and one that passes, beside a call that passes."""

    def in_two_steps(breaker: CircuitBreaker) -> Loop:
        def loop(count: int) -> None:
            admit = breaker.try_admit
            for _ in range(count):
                admit("pkg.Service/Method", None, True, 1.0).settle(FAILURE, "UNAVAILABLE", "ill")  # type: ignore[union-attr]
                admit("pkg.Service/Method", None, True, 1.0).success()  # type: ignore[union-attr]

        return loop

    def decorated(guard: Guard) -> Loop:
        passing, failed = guard(nothing), caught(guard(fail))

        def both() -> None:
            failed()
            passing()

        return repeat(both)

    by_calls = replace(NEVER_OPENS, window_calls=100)
    return {
        "one success alone, admit and settle": two_steps(CircuitBreaker("closed")),
        "grpc_breaker, admit and settle": in_two_steps(CircuitBreaker("failing", NEVER_OPENS)),
        "grpc_breaker, admit and settle, a window of 100 calls": in_two_steps(CircuitBreaker("failing", by_calls)),
        "grpc_breaker, decorated functions": decorated(CircuitBreaker("failing", NEVER_OPENS)),
        **{name: decorated(guard) for name, guard in sync_peers().items() if name in IN_A_ROW},
    }


def refused() -> dict[str, Loop]:
    """Calls that do not."""
    ours = CircuitBreaker("refused")
    ours.force_open()

    def returned(count: int) -> None:
        admit = ours.try_admit
        for _ in range(count):
            admit("pkg.Service/Method", None, True, 1.0)

    def raised() -> None:
        try:
            ours.admit()
        except CircuitOpenError:
            pass

    def refusal_of(guard: Guard) -> Loop:
        refusal = caught(guard(fail))
        for _ in range(2 * FAILURES):
            refusal()
        return repeat(refusal)

    return {
        "grpc_breaker, returned (as the interceptors do)": returned,
        "grpc_breaker, raised": repeat(raised),
        **{name: refusal_of(guard) for name, guard in sync_peers().items()},
    }


POLICIES: dict[str, MethodPolicy] = {
    "a breaker alone": MethodPolicy(),
    "hung calls": MethodPolicy(breaker=BreakerPolicy(hung_after=60)),
    "a bulkhead": MethodPolicy(max_concurrent_calls=100),
    "a rate limit": MethodPolicy(rate_limit=RateLimit(1e9)),
    "a throttle": MethodPolicy(throttle=Throttle()),
    "bulkhead, rate limit and throttle": MethodPolicy(
        max_concurrent_calls=100, rate_limit=RateLimit(1e9), throttle=Throttle()
    ),
    "bulkhead, rate limit and hung calls": MethodPolicy(
        breaker=BreakerPolicy(hung_after=60), max_concurrent_calls=100, rate_limit=RateLimit(1e9)
    ),
}
"""Policies under which every call passes."""


def breaker_of(policy: MethodPolicy) -> CircuitBreaker:
    """The breaker of a method with this policy."""
    return BreakerRegistry(default=policy)["pkg.Service/Method"]


def decided() -> dict[str, Loop]:
    """Calls that pass, admitted and settled, by what is asked of each."""
    return {name: two_steps(breaker_of(policy)) for name, policy in POLICIES.items()}


def limited() -> dict[str, Loop]:
    """Calls that are refused, by what refuses them; raised, too."""
    forced = CircuitBreaker("forced open")
    forced.force_open()
    full = breaker_of(MethodPolicy(max_concurrent_calls=20))
    for _ in range(20):
        full.admit()
    used_up = breaker_of(MethodPolicy(rate_limit=RateLimit(0.001, burst=1)))
    used_up.admit().success()
    throttled = breaker_of(MethodPolicy(throttle=Throttle(minimum_calls=1, window=3600)))
    for _ in range(100_000):
        permit = throttled.try_admit()
        if isinstance(permit, Permit):
            permit.failure("UNAVAILABLE")
    breakers = {"the breaker": forced, "the bulkhead": full, "the rate limit": used_up, "the throttle": throttled}

    def raised(breaker: CircuitBreaker) -> Loop:
        return repeat(caught(breaker.admit))

    return {
        **{f"{name}, returned": repeat(breaker.try_admit) for name, breaker in breakers.items()},
        **{f"{name}, raised": raised(breaker) for name, breaker in breakers.items()},
    }


def fail() -> None:
    """What is protected in an outage."""
    raise LookupError


def caught(function: Callable[[], object]) -> Callable[[], None]:
    """The function, whatever it raises."""

    def call() -> None:
        try:
            function()
        except Exception:  # noqa: BLE001 - every breaker has its own
            pass

    return call


def threads(loop: Loop, count: int = 8) -> Loop:
    """The same work spread over threads."""

    def spread(total: int) -> None:
        each = max(1, total // count)
        workers = [threading.Thread(target=loop, args=(each,)) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return spread


def outage() -> Loop:
    """Calls to an open breaker, one in a hundred of which is a probe that fails.

    Its clock counts how often it is read, so that the share of probes is the same at every pace.
    """
    ticks = steps()
    policy = BreakerPolicy(reset_timeout=100, reset_timeout_jitter=0, probe_timeout=1e9)
    breaker = CircuitBreaker("outage", policy, clock=ticks.__next__)

    def loop(count: int) -> None:
        admit = breaker.try_admit
        for _ in range(count):
            permit = admit()
            if isinstance(permit, Permit):
                permit.settle(FAILURE, "UNAVAILABLE", "ill")

    loop(100)
    return loop


def outages() -> dict[str, Loop]:
    """Functions that fail, each guarded by a breaker that asks again after a millisecond; in eight threads."""
    reset = 0.001
    ours = CircuitBreaker("outage", BreakerPolicy(reset_timeout=reset, reset_timeout_jitter=0))
    guards: dict[str, Guard] = {"grpc_breaker, decorated function": ours, **sync_peers(reset)}
    return {name: threads(repeat(caught(guard(fail)))) for name, guard in guards.items()}


def together(count: int) -> Loop:
    """The same work spread over coroutines that take turns."""
    breaker = CircuitBreaker("coroutines")

    async def one(calls: int) -> None:
        for n in range(calls):
            permit = breaker.admit()
            if n % 10 == 0:
                await asyncio.sleep(0)
            permit.success()

    async def spread(total: int) -> None:
        await asyncio.gather(*(one((total + n) // count) for n in range(count)))

    return lambda total: asyncio.run(spread(total))


def memory() -> str:
    """Bytes for a breaker, by the traffic it has seen."""
    clock = FakeClock()
    keep: list[CircuitBreaker] = []
    lines = ["### Memory", "", "| | bytes a breaker |", "|---|---|"]

    def whole_window() -> None:
        """Forty calls in each fortieth of the window, every fourth of which fails."""
        for _ in range(40):
            clock.advance(NEVER_OPENS.window_seconds / 40)
            for breaker in keep:
                for n in range(40):
                    breaker.admit().settle(SUCCESS if n % 4 else FAILURE, "OK" if n % 4 else "UNAVAILABLE", "")

    def measure(title: str) -> None:
        gc.collect()
        lines.append(f"| {title} | {(tracemalloc.get_traced_memory()[0] - before) / len(keep):.0f} |")

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    keep.extend(CircuitBreaker(f"pkg.Service/Method{n}", NEVER_OPENS, clock=clock) for n in range(300))
    measure("new")
    for breaker in keep:
        for _ in range(20):
            breaker.admit().success()
    measure("after 20 good calls")
    for breaker in keep:
        breaker.admit().failure("UNAVAILABLE", "gone")
    measure("after a failure")
    whole_window()
    measure("after a whole window of 1,600 calls, every fourth a failure")
    whole_window()
    measure("after another")
    tracemalloc.stop()
    return "\n".join([*lines, ""])


def lookups() -> dict[str, Loop]:
    """Finding a breaker among few and among many."""
    loops: dict[str, Loop] = {}
    for size in (10, 10_000):
        registry = BreakerRegistry(max_breakers=size)
        for n in range(size):
            registry.breaker_for(f"/pkg.Service/Method{n}")
        names = [f"/pkg.Service/Method{n * size // 10}" for n in range(10)]

        def loop(count: int, registry: BreakerRegistry = registry, names: list[str] = names) -> None:
            for n in range(count):
                registry.route(names[n % 10])

        loops[f"{size} methods"] = loop
    return loops


def plot(panels: Mapping[str, Mapping[str, list[float]]], path: Path) -> None:
    """What a call costs, as bars, a panel for each table."""
    heights = [len(samples) for samples in panels.values()]
    figure, rows = pyplot().subplots(
        len(panels), 1, figsize=(8, 6.5), height_ratios=heights, sharex=True, layout="constrained"
    )
    for axes, (title, samples) in zip(rows, panels.items(), strict=True):
        medians = {name: statistics.median(values) for name, values in samples.items()}
        colours = ["#0072B2" if name.startswith("grpc_breaker") else "#999999" for name in medians]
        bars = axes.barh([in_words(name) for name in medians], list(medians.values()), color=colours)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.invert_yaxis()
        axes.set_title(title, loc="left")
        axes.margins(x=0.1)
    rows[-1].set_xlabel("median µs")
    save(figure, path)


def main() -> None:
    """Print every table, draw the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core")
    parser.add_argument("--plot", type=Path, help="a file to draw the cost of a call into")
    path: Path | None = parser.parse_args().plot
    began = time.perf_counter()
    in_memory = memory()  # first, before other breakers make tables grow that all share
    calls = {
        "Closed: one protected call": interleaved(closed()),
        "Closed, in asyncio: one protected call": interleaved(closed_in_asyncio()),
        "Refused: one refusal": interleaved(refused()),
    }
    for title, samples in calls.items():
        print(table(title, samples, "circuitbreaker"))
    failures = interleaved(failing())
    print(table("A failure and a success together, on a closed breaker", failures, next(iter(failures))))
    if path is not None:
        plot(calls, path)
    one = two_steps(CircuitBreaker("threads"))
    spread = {"one thread": one, "eight threads": threads(one)}
    print(table("Eight threads on one breaker, each call", interleaved(spread, seconds=0.2), "one thread"))
    eight = {name: threads(repeat(guard(nothing))) for name, guard in sync_peers().items()}
    eight = {"grpc_breaker, decorated function": threads(repeat(CircuitBreaker("threads")(nothing))), **eight}
    print(table("The peers in eight threads, each call", interleaved(eight, seconds=0.1, rounds=7), "circuitbreaker"))
    one = outage()
    spread = {"one thread": one, "eight threads": threads(one)}
    print(table("Eight threads in an outage, each call", interleaved(spread, seconds=0.2), "one thread"))
    in_outage = interleaved(outages(), seconds=0.1, rounds=7)
    print(table("The peers in eight threads in an outage, each call", in_outage, "circuitbreaker"))
    coroutines = {"one coroutine": together(1), "five thousand coroutines": together(5000)}
    in_coroutines = interleaved(coroutines, seconds=0.2, least=100_000)  # or making the coroutines would be most of it
    print(table("Coroutines on one breaker, each call", in_coroutines, "one coroutine"))
    print(table("One decision: a call that passes", interleaved(decided()), "a breaker alone"))
    refusals = interleaved(limited())
    print(table("One decision: a refusal, returned", dict([*refusals.items()][:4]), "the breaker, returned"))
    print(table("One decision: a refusal, raised", dict([*refusals.items()][4:]), "the breaker, raised"))
    print(table("Registry lookup", interleaved(lookups()), "10 methods"))
    print(in_memory)
    print(f"({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
