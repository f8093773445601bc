"""The breaker alone, and its peers: the closed path, the refused path, eight threads, memory, ten thousand methods."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable

import circuitbreaker
import interlock
import pybreaker

from benchmarks.timing import Loop, interleaved, table
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, CircuitOpenError, Outcome

SUCCESS = Outcome.SUCCESS


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
            admit().settle(SUCCESS, "OK")  # type: ignore[union-attr]

    return loop


def closed() -> dict[str, Loop]:
    """Calls that pass."""
    guarded = CircuitBreaker("closed")(nothing)
    theirs = circuitbreaker.circuit(nothing)
    pybreakers = pybreaker.CircuitBreaker()(nothing)
    return {
        "an empty function": repeat(nothing),
        "grpc_breaker, admit and settle": two_steps(CircuitBreaker("closed")),
        "grpc_breaker, decorated function": repeat(guarded),
        "circuitbreaker (no window, no lock)": repeat(theirs),
        "pybreaker": repeat(pybreakers),
        **_interlock(),
    }


def _interlock() -> dict[str, Loop]:
    make = getattr(interlock, "CircuitBreaker", None)
    if make is None:
        return {}
    with contextlib.suppress(Exception):
        breaker = make("closed")
        guarded = breaker(nothing)
        guarded()
        return {"interlock-cb": repeat(guarded)}
    return {}


def refused() -> dict[str, Loop]:
    """Calls that do not."""
    ours = CircuitBreaker("refused")
    ours.force_open()

    def raised() -> None:
        try:
            ours.admit()
        except CircuitOpenError:
            pass

    theirs = circuitbreaker.CircuitBreaker(name="refused", failure_threshold=1)

    @theirs
    def fail() -> None:
        raise LookupError

    with contextlib.suppress(LookupError):
        fail()

    def their_refusal() -> None:
        try:
            fail()
        except circuitbreaker.CircuitBreakerError:
            pass

    pybreakers = pybreaker.CircuitBreaker()
    pybreakers.open()

    def pybreakers_refusal() -> None:
        try:
            pybreakers.call(nothing)
        except pybreaker.CircuitBreakerError:
            pass

    return {
        "grpc_breaker, returned (as the interceptors do)": repeat(ours.try_admit),
        "grpc_breaker, raised": repeat(raised),
        "circuitbreaker": repeat(their_refusal),
        "pybreaker": repeat(pybreakers_refusal),
    }


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


def memory() -> str:
    """Bytes for a breaker that has seen traffic of every kind."""
    policy = BreakerPolicy()
    keep = []
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(1000):
        breaker = CircuitBreaker(f"pkg.Service/Method{n}", policy)
        for _ in range(20):
            breaker.admit().success()
        breaker.admit().failure("UNAVAILABLE", "gone")
        keep.append(breaker)
    gc.collect()
    fresh = (tracemalloc.get_traced_memory()[0] - before) / len(keep)
    for breaker in keep[:10]:
        for _ in range(20_000):
            breaker.admit().success()
    gc.collect()
    later = (tracemalloc.get_traced_memory()[0] - before) / len(keep)
    tracemalloc.stop()
    return f"### Memory\n\n{fresh:.0f} bytes a breaker after 21 calls; {later:.0f} after 20,000 more on some of them.\n"


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


def main() -> None:
    """Print every table."""
    began = time.perf_counter()
    print(table("Closed: one protected call", interleaved(closed()), "circuitbreaker (no window, no lock)"))
    print(table("Refused: one refusal", interleaved(refused()), "circuitbreaker"))
    one = two_steps(CircuitBreaker("threads"))
    spread = {"one thread": one, "eight threads": threads(one)}
    print(table("Eight threads on one breaker, each call", interleaved(spread, seconds=0.2), "one thread"))
    print(table("Registry lookup", interleaved(lookups()), "10 methods"))
    print(memory())
    print(f"({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
