"""Every scenario with every client, as tables.

    python -m tests.scenarios.day [--seeds 3] [--only restart] [--markdown docs/scenarios.md] [--save before.json]
                                  [--kept today.json] [--machine WORDS] [--beside before.json "grpc_breaker, before"]
                                  [--records DIR]

`--save` keeps the figures in a file. `--kept` takes from such a file those of the scenarios that are not played now, and
`--beside` shows its grpc_breaker as one more client. `--records` keeps the traffic of `bare` and of grpc_breaker, to be
played again with other policies; see `tests/support/records.py`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.scenarios import applications, healthy_days, outages, proxies
from tests.scenarios.clients import CLIENTS
from tests.scenarios.environment import NGINX
from tests.scenarios.play import Result, Scenario, play

THEMES: dict[str, list[Scenario]] = {
    "Healthy days": healthy_days.SCENARIOS,
    "Outages": outages.SCENARIOS,
    "Proxies": proxies.SCENARIOS,
    "Applications": applications.SCENARIOS,
}
OURS = "grpc_breaker"
LOGGER = logging.getLogger(__name__)
Figures = dict[tuple[str, str, str], list[Result]]
"""What came of the plays, by scenario, world and client."""

INTRODUCTION = """\
# Scenarios

What days of real clients look like bare, with this breaker, and with its peers: everyone with the defaults of its authors.
Real grpcio servers in processes of their own, which are killed, stopped, drained and started again; a real nginx; clients
side by side in one process, each with a connection of its own. `make day` plays all of it in fifty minutes and
writes this page; `python -m tests.scenarios.day --only restart` plays some.

{date}: {versions}; {machine}; {seeds} plays of each, with different random
numbers.

## How to read it

Times are seconds of a scaled clock, which runs {speeds} times as fast as the real one: breakers are given it, and deadlines,
pauses, grpcio's back-off and the peers' periods are divided by it. What takes real time (a process that starts: a second or
two) is that much longer here, and grpcio's back-off is never shorter than 0.1 real seconds.

Whether a server is well is said by each scenario's own schedule, not by what a breaker saw. Figures are medians of the
plays, and their range where they differ. Counts vary with the pace of the machine; a difference of a few calls is noise, and so
is a call that fails now and then where the server is well.

| column | |
|---|---|
| calls | made by the application; one that is refused at once comes back for more where it does not pause |
| failed | sent, and not served; a watch that is cut after its first message was served, a silent one after ten seconds |
| refused | while the server was well, and would have served them: about what the breaker cost |
| openings, wrong | from closed, and + from half-open; wrong: while the server was well |
| missed | outages in which it never opened, of those in which it should have |
| to open | seconds from the beginning of the outage |
| to recover | seconds from the end of the outage until the last call that was not served |
| reached | calls sent during the outage |
| closed | times it closed during the outage |
| up | share of the time in which a watch was up |

- bare: no breaker.
- `try` around `continuation`: the recipe in an interceptor as it is written by hand. grpcio returns failed calls and does
  not raise them, so it never opens.
- circuitbreaker: a decorator around the function that calls, or that reads the whole stream.
- grpc-client-kit: its interceptor; asyncio only.
"""


def main() -> None:
    """Play, and print or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios.day")
    parser.add_argument("--seeds", type=int, default=3, help="plays of each scenario")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORDS", help="scenarios with these words in their names"
    )
    parser.add_argument("--client", action="append", default=[], choices=list(CLIENTS), help="these clients only")
    parser.add_argument("--markdown", type=Path, help="the page to write")
    parser.add_argument("--save", type=Path, help="a file to keep the figures in")
    parser.add_argument("--machine", default=f"{os.cpu_count()} cores", help="what it is played on, in words")
    parser.add_argument("--kept", type=Path, help="a file with figures of the other scenarios")
    parser.add_argument("--records", type=Path, metavar="DIR", help="a folder to record the traffic in")
    parser.add_argument("--beside", nargs=2, action="append", default=[], metavar=("FILE", "LABEL"))
    options = parser.parse_args()
    logging.getLogger("grpc_client_kit").setLevel(logging.ERROR)
    names = options.client or [name for name, it in CLIENTS.items() if installed(it.package)]
    figures: Figures = kept(options.kept) if options.kept else {}
    for scenario in (it for scenarios in THEMES.values() for it in scenarios):
        if not options.only or any(words in scenario.name for words in options.only):
            play_all(scenario, options.seeds, names, figures, options.records)
            if options.save:
                save(figures, options.save)
    for path, label in options.beside:
        figures |= {(*key[:2], label): results for key, results in kept(Path(path)).items() if key[2] == OURS}
    played = {name for name, *_ in figures}
    themes = {theme: [it for it in scenarios if it.name in played] for theme, scenarios in THEMES.items()}
    page = [introduction(options.seeds, options.machine), summary(themes, figures)]
    page += [table(theme, scenarios, figures) for theme, scenarios in themes.items() if scenarios]
    text = "\n".join(page)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


def play_all(
    scenario: Scenario, seeds: int, names: Sequence[str], figures: Figures, records: Path | None = None
) -> None:
    """Play a scenario once for each seed."""
    if scenario.nginx and NGINX is None:
        print(f"{scenario.name}: not played, nginx is not installed", file=sys.stderr)
        return
    for key in [it for it in figures if it[0] == scenario.name]:
        del figures[key]
    for seed in range(1, seeds + 1):
        began = time.monotonic()
        try:
            results = play(scenario, seed, names, records)
        except Exception:
            LOGGER.exception("%s, seed %d: not played to its end", scenario.name, seed)
            continue
        for (world, name), result in results.items():
            figures.setdefault((scenario.name, world, name), []).append(result)
        print(f"{scenario.name}, seed {seed}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def save(figures: Figures, path: Path) -> None:
    """Keep the figures."""
    path.write_text(json.dumps([[*key, [asdict(it) for it in results]] for key, results in figures.items()], indent=0))


def kept(path: Path) -> Figures:
    """The figures in a file."""
    return {
        (scenario, world, name): [Result(**it) for it in results]
        for scenario, world, name, results in json.loads(path.read_text())
    }


# ── Cells ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def spread(values: Sequence[float], show: Callable[[float], str] = "{:,.0f}".format) -> str:
    """Median, and the range where it is one."""
    middle, low, high = (show(it) for it in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}..{high})"


def seconds(value: float) -> str:
    """A time, or that it never came."""
    return "never" if math.isinf(value) else f"{value:.1f}"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f} %"


def pair(first: Sequence[int], again: Sequence[int]) -> str:
    """Openings from closed and from half-open."""
    return f"{spread(first)} + {spread(again)}" if any(again) else spread(first)


COLUMNS: dict[str, Callable[[list[Result]], str]] = {
    "calls": lambda it: spread([r.calls for r in it]),
    "failed": lambda it: spread([r.lost for r in it]),
    "refused": lambda it: spread([r.refused_well for r in it]),
    "openings": lambda it: pair([r.openings for r in it], [r.reopenings for r in it]),
    "wrong": lambda it: pair([r.wrong for r in it], [r.wrong_again for r in it]),
    "missed": lambda it: spread([r.missed for r in it]),
    "to open": lambda it: spread([s for r in it for s in r.to_open], seconds) if any(r.to_open for r in it) else "",
    "to recover": lambda it: spread([s for r in it for s in r.to_recover], seconds) if it[0].to_recover else "",
    "reached": lambda it: "" if it[0].reached is None else spread([r.reached or 0 for r in it]),
    "closed": lambda it: spread([r.closed_unwell for r in it]),
    "up": lambda it: "" if it[0].watched is None else spread([r.watched or 0 for r in it], percent),
}
OF_OUTAGES = ("missed", "to open", "to recover", "reached", "closed")
OF_BREAKERS = ("refused", "openings", "wrong", "missed", "to open", "closed")


def clients_of(figures: Figures, scenario: Scenario, world: str) -> list[str]:
    """Who played, with those of grpc_breaker last."""
    names = [name for played, where, name in figures if (played, where) == (scenario.name, world)]
    return sorted(names, key=lambda it: (it.startswith(OURS), it != "bare"))


def table(theme: str, scenarios: Sequence[Scenario], figures: Figures) -> str:
    """All clients in all scenarios of a theme, and what they are."""
    played = [(it, world) for it in scenarios for world in it.worlds]
    results = [
        it
        for scenario, world in played
        for name in clients_of(figures, scenario, world)
        for it in figures[scenario.name, world, name]
    ]
    columns = [
        it
        for it in COLUMNS
        if (it not in OF_OUTAGES or any(r.reached is not None for r in results))
        and (it != "up" or any(r.watched is not None for r in results))
    ]
    lines = [f"## {theme}", "", f"| | | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for scenario, world in played:
        for number, name in enumerate(clients_of(figures, scenario, world)):
            mine = figures[scenario.name, world, name]
            breaks = name != "bare"
            unwell = mine[0].reached is not None
            cells = [
                COLUMNS[it](mine) if (breaks or it not in OF_BREAKERS) and (unwell or it not in OF_OUTAGES) else ""
                for it in columns
            ]
            lines.append(f"| {f'**{scenario.name}**, {world}' if not number else ''} | {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- **{it.name}**: {it.sentence}" for it in scenarios), ""])


def summary(themes: dict[str, list[Scenario]], figures: Figures) -> str:
    """Bare beside grpc_breaker, a line for each scenario and world."""
    labels = [name for name in dict.fromkeys(name for *_, name in figures) if name == "bare" or name.startswith(OURS)]
    labels.sort(key=lambda it: it != "bare")
    guarded = [it for it in labels if it != "bare"]
    columns = {"not served": labels, "wrong": guarded, "missed": guarded, "closed": guarded, "reached": labels}
    heads = [f"{what}, {it}" for what, those in columns.items() for it in those]
    lines = [
        "## In short",
        "",
        "Not served: the share of the calls that failed or were refused while the server was well and would have served them.",
        "",
        f"| | | {' | '.join(heads)} |",
        "|---" * (2 + len(heads)) + "|",
    ]
    for scenario in (it for scenarios in themes.values() for it in scenarios):
        for world in scenario.worlds:
            of = {it: figures[scenario.name, world, it] for it in labels if (scenario.name, world, it) in figures}
            cells = [cell(what, of.get(it)) for what, those in columns.items() for it in those]
            if of:
                lines.append(f"| {scenario.name} | {world} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def cell(what: str, results: list[Result] | None) -> str:
    """A cell of the summary; empty for those who did not play, and for figures of outages where there was none."""
    if not results or (what in OF_OUTAGES and results[0].reached is None):
        return ""
    if what == "not served":
        return spread([it.not_served_well for it in results], percent)
    return COLUMNS[what](results)


def introduction(seeds: int, machine: str) -> str:
    """What this is, and how it came about."""
    today = dt.datetime.now(dt.UTC).date()
    speeds = sorted({it.speed for scenarios in THEMES.values() for it in scenarios})
    versions = [f"CPython {platform.python_version()}", *(f"{it} {version(it)}" for it in packages())]
    if NGINX is not None:
        said = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
        versions.append(said.strip().rpartition(" ")[2].replace("/", " "))
    return INTRODUCTION.format(
        date=f"{today.day} {today:%B %Y}",
        versions=", ".join(versions),
        machine=machine,
        seeds=seeds,
        speeds=f"{speeds[0]:g} to {speeds[-1]:g}",
    )


def packages() -> list[str]:
    """What the page names the versions of."""
    return ["grpcio", *(it for it in ("circuitbreaker", "grpc-client-kit") if installed(it))]


def installed(package: str) -> bool:
    """Whether a package is."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
