"""Overload, played for real: a server that gets more calls than it can do, and what guards of its clients make of it.

    python -m benchmarks.overload [--seeds 5] [--seconds 5] [--markdown docs/overload.md] [--plot overload.svg]

The server (benchmarks/overload_server.py) and four clients (benchmarks/overload_clients.py) are processes. Each guard
plays every load with every seed:

- overload, at twice and at five times the capacity, from the first call on. The first second is not counted: it is how
  a guard finds out.
- an outage: 0.8 times the capacity, then the server is stopped (SIGSTOP: every call runs into its deadline) and goes
  on. Six seconds stand for sixty: the clock of the guards runs ten times as fast, so their windows and open periods
  pass ten times as fast. The time of work and the deadlines are not scaled.

An answer is good when it came within the deadline, which counts from when the call came. With several attempts, each
has a deadline of its own: that favours retries.
"""

from __future__ import annotations

import argparse
import datetime as dt
import math
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue

from benchmarks.overload_clients import (
    BARE,
    BY_HAND,
    CAPACITY,
    CLIENTS,
    GOOD,
    REFUSED,
    WORKERS,
    Client,
    Order,
    Outcome,
    policies,
)
from benchmarks.overload_server import BoundedServerProcess
from benchmarks.plots import pyplot, save

LONG_QUEUE = 100
"""Calls that may wait: a second's work, almost four deadlines. A bound, but nobody has fitted it to the deadline."""
SHORT_QUEUE = 8
"""Calls that may wait, of a server that its owner has protected: their wait and the work fit into the deadline."""
PROTECTED = "nothing; short queue at the server"
GUARDS = {BARE: LONG_QUEUE, PROTECTED: SHORT_QUEUE, **dict.fromkeys([*policies()][1:], LONG_QUEUE)}
"""Who plays, and the queue of the server in each case."""
OVERLOADS = {"twice": 2.0, "five times": 5.0}
USUAL = 0.8
"""The load of a usual day, as a share of the capacity."""
USUAL_DAY, IN_OUTAGE = f"{USUAL:g} times", "outage"
LOADS = {USUAL_DAY: USUAL, **OVERLOADS}
"""Times the capacity."""
FINDING_OUT = 1.0
"""Seconds of an overload that do not count."""
SPEED = 10.0
BEFORE, OUTAGE, AFTER = 3.0, 6.0, 6.0
"""Real seconds of the play with the outage."""
SIDE_BY_SIDE = 3
"""Outages played at once: their load is small."""
WINDOW = 0.5
"""Real seconds over which the recovery is judged."""
WELL = 0.95
BEGIN, END = "<!-- tables of make overload -->", "<!-- end of the tables -->"
BETWEEN = 0.4
"""Seconds before a play, in which the server comes to rest after the play before."""


class Stage:
    """A server of each kind, and clients; one play at a time."""

    def __init__(self, records: Path | None = None) -> None:
        self._records = "" if records is None else str(records)
        self._servers = {queue: BoundedServerProcess(workers=WORKERS, queue=queue) for queue in set(GUARDS.values())}
        self._clients = [Client() for _ in range(CLIENTS)]

    def play(
        self, guard: str, seed: int, load: float, seconds: float, outage: tuple[float, float] | None = None
    ) -> Outcome:
        """Play a guard at a load; during the outage, from its beginning to its end, the server is stopped."""
        server = self._servers[GUARDS[guard]]
        policy = BARE if guard == PROTECTED else guard
        order = Order(policy, server.target, "", load * CAPACITY / CLIENTS, seconds, SPEED if outage else 1.0)
        kind = IN_OUTAGE if outage else f"{load:g} times"
        for number, client in enumerate(self._clients):
            words = ["overload", kind, guard, f"seed {seed}", f"client {number}"]
            client.give(replace(order, seed=f"{seed}, client {number}", records=self._records, words=words))
        for client in self._clients:
            client.wait_until_ready()
        begin = time.monotonic() + BETWEEN
        for client in self._clients:
            client.begin(begin)
        if outage is not None:
            for at, act in zip(outage, (server.pause, server.resume), strict=True):
                time.sleep(max(0.0, begin + at - time.monotonic()))
                act()
        outcomes = [client.take() for client in self._clients]
        return Outcome(
            sorted((came, took, what) for it in outcomes for came, took, what in it.calls),
            sorted(at for it in outcomes for at in it.sent),
        )

    def close(self) -> None:
        for server in self._servers.values():
            server.kill()
        for client in self._clients:
            client.close()


# ── What came of it ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Figures:
    """What is measured of a play, in the seconds that count."""

    good: float
    """Answers in time, a second."""
    p99: float
    """Of the good ones, in milliseconds."""
    refused: float
    """By a guard, a second."""
    turned_away: float
    """By the server, whose queue was full, a second."""
    reached: float
    """Attempts that were sent to the server, a second."""
    recovered: float = math.nan
    """Seconds of the guards' clock from the end of the outage; infinite if it was longer than the play."""


def figures(played: Outcome, begin: float, end: float) -> Figures:
    """The figures of the calls that came in these seconds."""
    here = [(took, what) for came, took, what in played.calls if begin <= came < end]
    ended = Counter(what for _, what in here)
    good = sorted(took for took, what in here if what == GOOD)
    seconds = end - begin
    return Figures(
        good=len(good) / seconds,
        p99=1e3 * good[int(0.99 * len(good))] if good else math.nan,
        refused=ended[REFUSED] / seconds,
        turned_away=ended["RESOURCE_EXHAUSTED"] / seconds,
        reached=sum(begin <= at < end for at in played.sent) / seconds,
    )


def share_good(played: Outcome, begin: float, end: float) -> float:
    """The share of the calls that came in these seconds that was answered in time."""
    what = [it for came, _, it in played.calls if begin <= came < end]
    return what.count(GOOD) / len(what) if what else math.nan


def recovered_after(played: Outcome) -> float:
    """Seconds of the guards' clock after the outage until, of what came in the next half second, as many calls were
    good as before it, but for a twentieth.
    """
    healthy = share_good(played, 0.0, BEFORE)
    back = BEFORE + OUTAGE
    for step in range(int((AFTER - WINDOW) / 0.05) + 1):
        if share_good(played, back + 0.05 * step, back + 0.05 * step + WINDOW) >= WELL * healthy:
            return SPEED * 0.05 * step
    return math.inf


Results = dict[tuple[str, str], list[Figures]]
"""The figures of each play, by load and guard."""


def play_all(seeds: int, seconds: float, names: Sequence[str], records: Path | None = None) -> Results:
    """Every guard, every load, every seed."""
    results: Results = {}
    stages = [Stage(records) for _ in range(SIDE_BY_SIDE)]
    free: SimpleQueue[Stage] = SimpleQueue()
    for stage in stages:
        free.put(stage)

    def outage(name: str, seed: int) -> tuple[str, Outcome]:
        stage = free.get()
        try:
            return name, stage.play(name, seed, USUAL, BEFORE + OUTAGE + AFTER, (BEFORE, BEFORE + OUTAGE))
        finally:
            free.put(stage)

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for seed in range(1, seeds + 1):
            began = time.monotonic()
            for name in names:
                for load, times in OVERLOADS.items():
                    played = stages[0].play(name, seed, times, FINDING_OUT + seconds)
                    results.setdefault((load, name), []).append(figures(played, FINDING_OUT, FINDING_OUT + seconds))
            for name, played in pool.map(outage, names, [seed] * len(names)):
                results.setdefault((USUAL_DAY, name), []).append(figures(played, 0.0, BEFORE))
                sick = figures(played, BEFORE, BEFORE + OUTAGE)
                results.setdefault((IN_OUTAGE, name), []).append(replace(sick, recovered=recovered_after(played)))
            print(f"seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    for stage in stages:
        stage.close()
    return results


# ── What it says ──────────────────────────────────────────────────────────────────────────────────────────────────


Show = Callable[[float], str]
WHOLE: Show = "{:,.0f}".format


def spread(values: Sequence[float], show: Show) -> str:
    """Median, and the range where it is one."""
    middle, low, high = (show(it) for it in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}..{high})"


def seconds_or_more(value: float) -> str:
    """A time to recover, or that it was not over."""
    return f"> {SPEED * (AFTER - WINDOW):.0f}" if math.isinf(value) else f"{value:.1f}"


def table(title: str, columns: dict[str, Callable[[str], str]], names: Sequence[str]) -> list[str]:
    """A Markdown table with a row for each guard."""
    head = [f"### {title}", "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    rows = [f"| {name} | {' | '.join(cell(name) for cell in columns.values())} |" for name in names]
    return [*head, *rows, ""]


def column(results: Results, load: str, of: Callable[[Figures], float], show: Show = WHOLE) -> Callable[[str], str]:
    """A cell for each guard; empty where there was nothing to measure."""

    def cell(name: str) -> str:
        values = [it for it in map(of, results[load, name]) if not math.isnan(it)]
        return spread(values, show) if values else ""

    return cell


def page(results: Results, seeds: int, seconds: float, names: Sequence[str]) -> str:
    """The tables."""
    today = dt.datetime.now(dt.UTC).date()
    versions = f"CPython {platform.python_version()}, grpcio {version('grpcio')}"
    plays = f"medians of {seeds} plays with different random numbers, and their range"
    lines = [f"{today.day} {today:%B %Y}, {versions}; {plays}; {seconds:g} s of each overload count.", ""]
    short = {f"{load}: good, %": column(results, load, lambda it: 100 * it.good / CAPACITY) for load in LOADS}
    short["seconds to recover"] = column(results, IN_OUTAGE, lambda it: it.recovered, seconds_or_more)
    short["calls sent in the outage"] = column(results, IN_OUTAGE, lambda it: OUTAGE * it.reached)
    lines += table("In short: answers in time in % of the capacity, and an outage of a minute", short, names)
    for load in LOADS:
        details = {
            "good": column(results, load, lambda it: it.good),
            "p99 of these, ms": column(results, load, lambda it: it.p99),
            "refused by the guard": column(results, load, lambda it: it.refused),
            "turned away by the server": column(results, load, lambda it: it.turned_away),
            "sent to the server": column(results, load, lambda it: it.reached),
        }
        lines += table(f"{load.capitalize()} the capacity: a second", details, names)
    return "\n".join(lines)


def write_into(path: Path, text: str) -> None:
    """Put the tables between the two marks of a page that has them."""
    before, begin, rest = path.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"{path} has no place for the tables: {BEGIN} and {END}"
        raise ValueError(message)
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", "utf-8")


def plot(results: Results, names: Sequence[str], path: Path) -> None:
    """A row for each guard; a point for the median and a line from the least to the most."""
    panels: list[tuple[str, str, Callable[[Figures], float], float]] = [
        *(
            (f"{load} the capacity:\ngood answers, %", load, lambda it: 100 * it.good / CAPACITY, 108.0)
            for load in LOADS
        ),
        ("after an outage of 60 s:\nseconds to recover", IN_OUTAGE, lambda it: it.recovered, SPEED * AFTER),
    ]
    figure, row = pyplot().subplots(
        1, len(panels), figsize=(9.5, 0.8 + 0.32 * len(names)), sharey=True, layout="constrained"
    )
    at = range(len(names), 0, -1)
    for axes, (title, load, of, most) in zip(row, panels, strict=True):
        for y, name in zip(at, names, strict=True):
            values = [min(of(it), most) for it in results[load, name]]  # infinite: at the right edge
            colour = "#777777" if name in {BARE, PROTECTED, BY_HAND} else "#0072B2"
            axes.plot([min(values), max(values)], [y, y], color=colour, lw=2.5, solid_capstyle="round", clip_on=False)
            axes.plot(statistics.median(values), y, "o", color=colour, ms=6, clip_on=False)
        axes.set_title(title, fontsize=9)
        axes.set(xlim=(0, most), ylim=(0.4, len(names) + 0.6))
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if load in LOADS:
            axes.axvline(100 * min(LOADS[load], 1), color="#666666", lw=0.8, ls=":")
            axes.set_xticks([0, 50, 100])
    row[0].set_yticks(list(at), names)
    save(figure, path)


def main() -> None:
    """Play, print the tables, write the page, draw the plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload")
    parser.add_argument("--seeds", type=int, default=5, help="plays of each load with each guard")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each overload that count")
    parser.add_argument("--only", action="append", default=[], choices=list(GUARDS), help="these guards only")
    parser.add_argument("--markdown", type=Path, help="a page to write the tables into")
    parser.add_argument("--records", type=Path, metavar="DIR", help="a folder to record the traffic in")
    parser.add_argument("--plot", type=Path, help="a file to draw a plot into")
    options = parser.parse_args()
    names = options.only or list(GUARDS)
    results = play_all(options.seeds, options.seconds, names, options.records)
    text = page(results, options.seeds, options.seconds, names)
    print(text)
    if options.markdown:
        write_into(options.markdown, text)
    if options.plot:
        plot(results, names, options.plot)


if __name__ == "__main__":
    main()
