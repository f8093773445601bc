"""The soak: calls of every kind, from threads and tasks at once, under random trouble, for as long as you like.

    python -m tests.soak --minutes 4 --seed 1 [--parts]

Rules
    1.  There are three populations of callers. *Guarded* ones call through one registry with one policy, in compressed
        time; *bare* ones call through nothing; *passing* ones, in asyncio alone, through interceptors that do nothing, which
        shows what grpcio itself makes of a channel with any. All else is the same: code, mix, servers, trouble.
    2.  The servers are processes. A driver for each kills, stops, continues and starts it again, makes it slow or flaky,
        and at times operates the breakers. All choices come from the seed; what meets what is up to the machine.
    3.  A soak is a number of rounds. Each ends well: trouble stops, the servers are well again, calls go on until every
        breaker is closed; then the callers close their channels, and in the quiet everything that is there is counted.
        Later rounds are held to what was there after the warm-up.
    4.  Guarded calls may meet what the other populations met, or what `SEEN_BARE` says, and refusals: nothing else.
    5.  All counts of one thing agree: listeners, span events, metrics, log records, callers.
    6.  The garbage collector never runs in the middle of a call, but on a thread of its own and when all is counted. In a
        call it may run under grpcio's lock around its observability plugin; then the finalizer of a stream may wait for the thread that reads the stream, which waits for
        that lock: a deadlock of bare gRPC, which has been seen here.

What breaks a rule is a line in `Report.failures`. The calls are in `tests/support/traffic.py`, the trouble in
`tests/support/trouble.py`, the counts in `tests/support/counts.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import grpc

from grpc_breaker import (
    BreakerPolicy,
    BreakerRegistry,
    CircuitBreakerInterceptor,
    Fallback,
    LastGood,
    MethodPolicy,
    RateLimit,
    RetryPolicy,
    RetryThrottling,
    State,
    aio,
)
from tests.integration.endings_table import passing
from tests.support.counts import Census, Counts, slope
from tests.support.server import PATIENCE, ServerProcess
from tests.support.traffic import OPTIONS, Caller, Server, Tally, Weather
from tests.support.trouble import Trouble

POLICY = BreakerPolicy(
    failure_rate=0.5,
    minimum_calls=10,
    consecutive_failures=5,
    slow_call_duration=0.25,
    window_seconds=1.0,
    reset_timeout=0.3,
    reset_timeout_multiplier=1.5,
    max_reset_timeout=1.0,
    probe_timeout=1.0,
)
PARTS = MethodPolicy(
    breaker=replace(POLICY, probe_deadline=0.3, hung_after=0.4, ramp=0.3),
    timeout=5,
    attempt_timeout=2,
    retry=RetryPolicy(max_attempts=3, initial_backoff=0.01, max_backoff=0.02),
    max_concurrent_calls=4,
    bulkhead_streams=True,
    rate_limit=RateLimit(500, burst=20),
    fallback=Fallback(last_good=LastGood(max_entries=10), when=("DATA_LOSS", "NOT_FOUND")),
)
"""What `--parts` wants of every call: each part acts now and then."""
POPULATIONS = ("guarded", "bare", "passing")
CALLERS = {
    ("sync", "guarded"): 4,
    ("sync", "bare"): 4,
    ("aio", "guarded"): 8,
    ("aio", "bare"): 4,
    ("aio", "passing"): 4,
}
RECOVERY = 30.0
"""Seconds within which every breaker must be closed once the trouble is over. It takes one or two."""
QUIET = 8.0
"""Seconds within which everything that a round began must be gone. The longest are a deadline in fair weather, 1 s, which
asyncio streams that were abandoned live to (grpc #43462), and a lease, `probe_timeout`."""

TOLERANCE = {"permits": 0, "objects": 0, "tasks": 0, "threads": 0, "native_threads": 2, "descriptors": 0}
"""How much more there may be in the quiet than after the warm-up. gRPC's own pool of native threads breathes."""
BLOCKS_PER_CALL = 0.01
"""How fast Python's allocated blocks may grow in the later half of the rounds: a leak of one object in a hundred calls is
faster."""
BYTES_PER_CALL = 48.0
"""How fast resident memory may grow in the later half. grpcio takes some for itself: in the first minute about a hundred
bytes for each call that is sent, bare as guarded (`--only bare`), and less and less later on."""
SLACK = {"blocks": 2000, "resident": 4 << 20}
"""Blocks and bytes that a short run may find by chance."""

_ANYWHERE = {
    "OK",
    "NOT_FOUND no such thing",
    "DATA_LOSS half an answer",
    "UNAVAILABLE the server is ill",
    "UNAVAILABLE connection",
    "DEADLINE_EXCEEDED Deadline Exceeded",
    "DEADLINE_EXCEEDED connection",
    "UNKNOWN Exception calling application: a bug of the server",
    "UNKNOWN Exception iterating responses: a bug of the server",
}
_ENDS = ("", ", cancelled", ", given up", ", closed")
SEEN_BARE = {f"{world}{end}: {came}" for world in ("sync", "aio") for end in _ENDS for came in _ANYWHERE} | {
    "sync, cancelled: CANCELLED Locally cancelled by application!",
    "sync, cancelled: FutureCancelledError",
    "sync, given up: FutureTimeoutError",
    "sync, closed: CANCELLED Channel closed!",
    "sync, closed: CANCELLED connection",
    "aio, cancelled: CancelledError",
    "aio, given up: TimeoutError",
    "aio, closed: CancelledError",
    "aio, cancelled: INTERNAL Internal error from Core",
    "aio, given up: INTERNAL Internal error from Core",
    "aio: INTERNAL Internal error from Core",
    "aio, closed: INTERNAL Internal error from Core",
    "aio: CancelledError",
    "aio, given up: CancelledError",
}
"""What the other populations have met in this traffic; a run need not meet all of it. The last six are grpcio's own:
what it shows for an asyncio call that ends while its operations are being started."""


@dataclass
class Report:
    """What came of a soak."""

    seed: int
    seconds: float = 0.0
    tallies: dict[str, Tally] = field(default_factory=lambda: {it: Tally() for it in POPULATIONS})
    trouble: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the end of the trouble until every breaker was closed, by round."""
    quiet: list[Census] = field(default_factory=list)
    """After each round; the first is of the warm-up."""
    growth: dict[str, float] = field(default_factory=dict)
    """Blocks and bytes per call, by the slope over the later half of the quiet moments."""
    failures: list[str] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return sum(tally.calls.total() for tally in self.tallies.values())


class Soak:
    """One soak: its servers, breakers, telemetry and callers."""

    def __init__(self, seed: int, populations: Collection[str] = POPULATIONS, parts: bool = False) -> None:
        """Make what lives through all rounds, but for the servers."""
        self._populations = populations
        self._parts = parts
        self.breakers = BreakerRegistry(
            default=PARTS if parts else POLICY, retry_throttling=RetryThrottling() if parts else None
        )
        self.counts = Counts(self.breakers)
        self.report = Report(seed)
        self._sync = CircuitBreakerInterceptor(self.breakers, telemetry=self.counts.telemetry)
        self._aio = {
            "guarded": aio.interceptors(self.breakers, telemetry=self.counts.telemetry),
            "bare": None,
            "passing": passing(),
        }

    async def run(self, rounds: int, seconds: float) -> Report:
        """Soak for so many rounds with so many seconds of trouble each, and check."""
        began = time.monotonic()
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)  # threads meet in more places
        with ExitStack() as stack:
            stack.callback(sys.setswitchinterval, interval)
            stack.enter_context(_collector())
            stack.enter_context(self.counts.open())
            processes = [stack.enter_context(ServerProcess()) for _ in range(2)]
            names = ("soak.v1.Alpha", "soak.v1.Beta")
            servers = [Server(it.target, name, Weather()) for it, name in zip(processes, names, strict=True)]
            for number in range(rounds):
                name = f"{self.report.seed} {number}"
                troubles = [
                    Trouble(process, server, self.breakers, f"{name} {server.service}")
                    for process, server in zip(processes, servers, strict=True)
                ]
                await self._round(name, seconds, servers, troubles)
                await self._be_quiet()
            self.report.seconds = time.monotonic() - began
            self._check()
        return self.report

    async def _round(self, name: str, seconds: float, servers: list[Server], troubles: list[Trouble]) -> None:
        """Trouble, recovery, and the end of all calls."""
        stop = threading.Event()
        callers = list(self._callers(name, servers))
        threads = [threading.Thread(target=it.run, args=(stop,)) for world, _, it in callers if world == "sync"]
        tasks = [asyncio.create_task(it.arun(stop)) for world, _, it in callers if world == "aio"]
        for thread in (*threads, *troubles):
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.25)
            self.counts.read("")  # a reader asks while calls are made
        for trouble in troubles:
            trouble.stop()
        await self._until(lambda: not any(it.is_alive() for it in troubles), 2 * PATIENCE, "the trouble to end")
        well = time.monotonic()
        await self._until(
            lambda: all(it.state is State.CLOSED for it in self.breakers), RECOVERY, "the breakers to close"
        )
        self.report.recoveries.append(time.monotonic() - well)
        stop.set()
        await self._until(
            lambda: not any(it.is_alive() for it in threads) and all(it.done() for it in tasks),
            2 * PATIENCE,
            "the callers to end",
        )
        for _, population, caller in callers:
            self.report.tallies[population].add(caller.tally)
        for trouble in troubles:
            self.report.trouble += trouble.done
            if trouble.error is not None:
                self.report.failures.append(f"the driver of the trouble failed: {trouble.error!r}")

    def _callers(self, name: str, servers: list[Server]) -> Iterator[tuple[str, str, Caller]]:
        """The callers of one round: world, population, caller."""
        rng = random.Random(name)

        def span() -> AbstractContextManager[Any]:
            return self.counts.tracer.start_as_current_span("call") if rng.random() < 0.5 else nullcontext()

        for (world, population), many in CALLERS.items():
            if population not in self._populations:
                continue
            connect = partial(self._connect_sync if world == "sync" else self._connect_aio, population)
            for number in range(many):
                yield world, population, Caller(world, servers, connect, span, f"{name} {world} {population} {number}")

    def _connect_sync(self, population: str, target: str) -> tuple[Any, Callable[[], Any]]:
        channel = grpc.insecure_channel(target, OPTIONS)
        guarded = grpc.intercept_channel(channel, self._sync) if population == "guarded" else channel
        return guarded, channel.close

    def _connect_aio(self, population: str, target: str) -> tuple[Any, Callable[[], Any]]:
        channel = grpc.aio.insecure_channel(target, OPTIONS, interceptors=self._aio[population])
        return channel, channel.close

    async def _until(self, holds: Callable[[], bool], patience: float, what: str) -> None:
        until = time.monotonic() + patience
        while not holds():
            if time.monotonic() > until:
                self.report.failures.append(f"waited {patience:g} s in vain for {what}: {self.breakers!r}")
                return
            await asyncio.sleep(0.02)

    def _census(self) -> Census:
        return Census.take(self.report.calls, self.breakers, len(self.counts.received))

    async def _be_quiet(self) -> None:
        """Wait until what the round began is gone, and count what is there."""
        quiet = self.report.quiet
        until = time.monotonic() + QUIET
        census, same = self._census(), 0
        while time.monotonic() < until:
            before, census = census, self._census()
            same = 0 if _more(census, before) or _more(before, census) else same + 1
            settled = not _more(census, quiet[0]) if quiet else same >= 4  # what others are held to had better be all
            if census.permits == 0 and census.tasks == 1 and settled:
                break
            await asyncio.sleep(0.25)
        quiet.append(census)

    def _check(self) -> None:
        """Hold what was seen to the rules."""
        report, counts = self.report, self.counts
        guarded = report.tallies["guarded"]
        report.failures += [f"a caller met {it}" for it in guarded.strange]
        seen = SEEN_BARE.union(report.tallies["bare"].came, report.tallies["passing"].came)
        report.failures += [f"no bare call meets {it}" for it in guarded.came if it not in seen]
        for number, census in enumerate(report.quiet):
            report.failures += [f"in the quiet after round {number}: {it}" for it in _more(census, report.quiet[0])]
        report.failures += [
            f"after round {n}: {it.permits} permits are out" for n, it in enumerate(report.quiet) if it.permits
        ]
        self._check_growth()
        report.failures += counts.gaps + counts.strange
        for change, times in counts.received.items():
            report.transitions[f"{change[1]} -> {change[2]}"] += times
        for name, counted in (
            ("metrics", counts.metered),
            ("span events", counts.spans),
            ("log records", counts.logged),
        ):
            if counted != counts.received:
                report.failures.append(
                    f"{name} have {counted - counts.received} too many, {counts.received - counted} too few"
                )
        self._check_calls(guarded)

    def _check_growth(self) -> None:
        quiet = self.report.quiet[len(self.report.quiet) // 2 :]
        calls = quiet[-1].calls - quiet[0].calls
        for name, most in (("blocks", BLOCKS_PER_CALL), ("resident", BYTES_PER_CALL)):
            self.report.growth[name] = growth = slope([(float(it.calls), float(getattr(it, name))) for it in quiet])
            if growth * calls > max(most * calls, SLACK[name]):
                self.report.failures.append(f"{name} grew by {growth:.4f} per call in {calls} calls")

    def _check_calls(self, guarded: Tally) -> None:
        """Each call is counted once; only asyncio calls that were left early may never have come to a breaker, or be lost."""
        exported: Counter[str] = Counter()
        for attributes, value in self.counts.read("grpc_breaker.calls"):
            exported[attributes["grpc_breaker.outcome"]] += value
        left = sum(
            times
            for (world, _, _, act), times in guarded.calls.items()
            if world == "aio" and act in {"abandon", "cancel", "give up", "break off", "close"}
        )
        missing = guarded.calls.total() - exported.total()
        if not 0 <= missing <= left and not self._parts:  # attempts are counted, and calls that hung, twice
            self.report.failures.append(
                f"{guarded.calls.total()} calls made, {exported.total()} counted, {left} left early"
            )
        if not guarded.refused <= exported["rejected"] == self.counts.rejections:
            self.report.failures.append(
                f"refusals: callers saw {guarded.refused}, listeners {self.counts.rejections}, metrics {exported['rejected']}"
            )


@contextmanager
def _collector() -> Iterator[None]:
    """Collect garbage on a thread of its own, not where it happens to be made (rule 6)."""
    over = threading.Event()

    def collect() -> None:
        while not over.wait(0.1):
            gc.collect()

    thread = threading.Thread(target=collect)
    gc.disable()
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        gc.enable()


def _more(census: Census, base: Census) -> list[str]:
    """What there is more of than in `base` and tolerated."""
    return [
        f"{getattr(census, name)} {name}, {getattr(base, name)} after the warm-up"
        for name, most in TOLERANCE.items()
        if getattr(census, name) > getattr(base, name) + most
    ]


# ── The report ────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(heads: list[str], rows: list[list[object]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["", *("| " + " | ".join(map(str, line)) + " |" for line in lines)]


def markdown(report: Report) -> str:
    """The report for people."""
    tallies = report.tallies
    guarded = tallies["guarded"]
    lines = [
        f"# Soak, seed {report.seed}: {report.calls} calls in {report.seconds:.0f} s, {report.calls / report.seconds:.0f}/s",
        "",
        f"Trouble: {', '.join(f'{what} {times}' for what, times in sorted(report.trouble.items()))}.",
        f"Recovery took {max(report.recoveries):.1f} s at most.",
        f"{guarded.refused} of {guarded.calls.total()} guarded calls showed a refusal.",
    ]
    ways = Counter[tuple[str, ...]]()
    for population, tally in tallies.items():
        for (world, kind, idiom, _), times in tally.calls.items():
            ways[world, kind, idiom, population] += times
    lines += _table(
        ["calls", *tallies],
        [[" ".join(way), *(ways[*way, it] for it in tallies)] for way in sorted({it[:3] for it in ways})],
    )
    met = sorted(set().union(*(it.came for it in tallies.values())))
    lines += _table(["met", *tallies], [[it, *(tally.came[it] for tally in tallies.values())] for it in met])
    lines += _table(["transition", "times"], [list(it) for it in sorted(report.transitions.items())])
    first, last = report.quiet[0], report.quiet[-1]
    rows: list[list[object]] = [
        [it, getattr(first, it), getattr(last, it), f"+{more}", ""] for it, more in TOLERANCE.items()
    ]
    for name, most in (("blocks", BLOCKS_PER_CALL), ("resident", BYTES_PER_CALL)):
        rows.append(
            [name, getattr(first, name), getattr(last, name), f"{most:g}/call", f"{report.growth[name]:.4f}/call"]
        )
    lines += _table(["in the quiet", "after the warm-up", "at the end", "allowed", "slope"], rows)
    lines += ["", f"**{len(report.failures)} checks failed**" if report.failures else "**All checks passed.**"]
    lines += [f"- {it}" for it in report.failures]
    return "\n".join(lines)


def soak(
    seed: int, rounds: int, seconds: float, populations: Collection[str] = POPULATIONS, parts: bool = False
) -> Report:
    """Soak for so many rounds with so many seconds of trouble each; the first round is the warm-up."""
    return asyncio.run(Soak(seed, populations, parts).run(rounds, seconds))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Soak grpc_breaker in random trouble.")
    parser.add_argument("--minutes", type=float, default=4.0, help="how long, about (default 4)")
    parser.add_argument("--seed", type=int, default=1, help="what all choices come from (default 1)")
    parser.add_argument("--only", action="append", choices=POPULATIONS, help="these callers alone: whose memory is it?")
    parser.add_argument("--parts", action="store_true", help="with all parts around and beside the breakers")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(60 * options.minutes + 150, exit=True)  # a hang says where
    rounds = max(4, min(16, round(options.minutes * 6)))
    seconds = max(0.5, options.minutes * 60 / rounds - 4.0)
    report = soak(options.seed, rounds, seconds, options.only or POPULATIONS, options.parts)
    faulthandler.cancel_dump_traceback_later()
    print(markdown(report))
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
