"""How many instructions a whole call takes on the thread that makes it, and in which Python functions.

    python -m benchmarks.instructions [--only blocking|asyncio]

Needs valgrind, and for the tables by function Python 3.12. Each variant makes its calls in a process of its own, under
callgrind; the server runs outside of it. How busy the machine is matters only inside gRPC's C core, which polls for the
answer once more or once less; outside of it, two runs differ by a thousandth. So what an interceptor adds is counted
there alone, and its ratio is to the whole. A clock sees more: the kernel, and caches that are cold.

What is counted is one evaluation of the operator `@`, on its thread: `PyNumber_MatrixMultiply` is a C function by which
callgrind can be switched on, and which nothing else here calls.

With `-X perf` Python enters each Python function through a piece of machine code of its own, which callgrind sees, and
writes down which is which. So the instructions of a Python function, and of the C functions it calls, are kept apart
from those of its callers. This makes every call of a Python function dearer: the first table has the sums, the others
have the shares.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from benchmarks.timing import Loop
from benchmarks.whole_calls import AGAIN, NOTHING, OURS, aio_calls, aio_interceptors, sync_calls, sync_interceptors
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreakerInterceptor, aio
from tests.support.server import UNARY_UNARY, ServerProcess

ROOT = Path(__file__).parents[1]
POLICY = BreakerPolicy(window_seconds=3600)
"""So long that no part of the window ends meanwhile, which would be once in very many calls without callgrind."""
KINDS: dict[str, Callable[[], dict[str, list[Any]]]] = {
    "blocking": lambda: {
        **sync_interceptors(),
        OURS: [CircuitBreakerInterceptor(BreakerRegistry(default=POLICY))],
        f"{OURS}, telemetry off": [CircuitBreakerInterceptor(BreakerRegistry(default=POLICY), telemetry=False)],
    },
    "asyncio": lambda: {
        **aio_interceptors(),
        OURS: aio.interceptors(BreakerRegistry(default=POLICY)),
        f"{OURS}, telemetry off": aio.interceptors(BreakerRegistry(default=POLICY), telemetry=False),
    },
}
PARTS: dict[str, list[tuple[str, str, tuple[str, ...], tuple[str, ...]]]] = {
    "blocking": [
        (
            "grpcio's interceptors, with one that does nothing",
            NOTHING,
            ("grpc/_interceptor.py",),
            ("with_call:grpc/_channel.py",),
        ),
        ("grpc_breaker", OURS, ("grpc_breaker/",), ("continuation:grpc/_interceptor.py",)),
    ],
    "asyncio": [("grpc_breaker", OURS, ("grpc_breaker/",), ("_run_interceptor:grpc/aio/_interceptor.py",))],
}
"""What is shown by function: a title, a variant, the files that make the part, and the functions that are no part of it
though it calls them: the call itself."""
WARM_UP = 60
CALLS = 400
TURNS = 40
"""The sums are medians over so many turns."""
DEPTH = 16
"""How many C functions up callgrind keeps apart by their callers: more than lie between two Python functions."""
WORTH_A_LINE = 100
"""Instructions a call."""
PREFIX = re.compile(rf"{re.escape(str(ROOT))}/(?!\.venv)|.*/site-packages/|.*/lib/python[0-9.]+/")
"""What file names are shown without."""


# ── The process that is counted ───────────────────────────────────────────────────────────────────────────────────


class Counted:
    """What callgrind counts."""

    def __matmul__(self, function: Callable[[], None]) -> None:
        function()


def make_calls(kind: str, variant: str, target: str) -> None:
    """Make calls, the last of them counted."""
    interceptors = KINDS[kind]()[variant]
    if kind == "blocking":
        count(sync_calls(target, interceptors, UNARY_UNARY, b"ok"))
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # grpc.aio makes a channel for the current one
    calls = aio_calls(grpc.aio.insecure_channel(target, interceptors=interceptors))
    count(lambda many: loop.run_until_complete(calls(many)))


def count(calls: Loop) -> None:
    """Count some calls, the first ones excepted."""
    calls(WARM_UP)
    # Only now, because callgrind makes everything slower by far.
    switch_on = ["callgrind_control", "--instr=on", str(os.getpid())]
    subprocess.run(switch_on, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    calls(1)
    gc.freeze()
    for _ in range(TURNS):
        Counted() @ (lambda: calls(CALLS // TURNS))


def profile(kind: str, variant: str, target: str, folder: str, *options: str, python: Iterable[str] = ()) -> list[str]:
    """The lines of callgrind's profile of such a process."""
    out = Path(folder) / "profile"
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            "--toggle-collect=PyNumber_MatrixMultiply",
            f"--callgrind-out-file={out}",
            f"--log-file={folder}/log",
            "--compress-strings=no",
            "--compress-pos=no",
            *options,
            sys.executable,
            *python,
            "-m",
            "benchmarks.instructions",
            "--make-calls",
            kind,
            variant,
            target,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
    )
    return out.read_text("utf-8", "replace").splitlines()


# ── By Python function ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Spent:
    """What a Python function took, called by a certain other one."""

    own: int = 0
    """Instructions of its own, and of the C functions it calls."""
    whole: int = 0
    """With those of the Python functions it calls."""
    calls: int = 0


Key = tuple[str, ...]
"""A Python function, "name:file", and the one that calls it, where callgrind saw as far as that."""


def names(lines: list[str]) -> dict[str, str]:
    """The Python functions by the addresses of their entries, from the file that Python writes."""
    pid = next(line.removeprefix("pid: ") for line in lines if line.startswith("pid: "))
    path = Path(f"/tmp/perf-{pid}.map")
    by_address = {}
    for line in path.read_text("utf-8").splitlines():
        address, _, name = line.split(" ", 2)
        function, _, file = name.removeprefix("py::").rpartition(":")
        by_address[f"0x{int(address, 16):016x}"] = f"{function}:{PREFIX.sub('', file)}"
    path.unlink()
    return by_address


def spent(lines: list[str]) -> dict[Key, Spent]:
    """What was spent where, from a profile."""
    by_address = names(lines)
    functions: dict[Key, Spent] = defaultdict(Spent)
    function, is_entry, calls = Spent(), False, 0
    for line in lines:
        if line.startswith("fn="):  # a C function and its callers, innermost first
            chain = line.removeprefix("fn=").split("'")
            python = [by_address[it] for it in chain if it in by_address]
            function, is_entry = functions[tuple(python[:2])], chain[0] in by_address
        elif line.startswith("calls="):  # the next line is what it calls, not what it does
            calls = int(line.removeprefix("calls=").split()[0])
        elif line[:1].isdigit():
            instructions = int(line.split()[1])
            if not calls:
                function.own += instructions
            if is_entry:
                function.whole += instructions
                function.calls += calls
            calls = 0
    return functions


def part(functions: dict[Key, Spent], files: tuple[str, ...], leave_out: tuple[str, ...]) -> list[str]:
    """The rows of what the functions of `files` took with what they call, as a tree, but for what is left out."""

    shown = set()

    def rows(key: Key, depth: int) -> tuple[int, list[str]]:
        """How much is left out below a function, and the rows of the rest."""
        shown.add(key)
        left_out, below = 0, []
        for callee in sorted(functions, key=lambda it: -functions[it].whole):
            if callee[1:] != key[:1] or callee in shown:
                continue
            if callee[0].endswith(leave_out):
                left_out += functions[callee].whole
            else:
                more, them = rows(callee, depth + 1)
                left_out += more
                below += them
        it = functions[key]
        whole = (it.whole - left_out) / CALLS
        cells = f"{it.calls / CALLS:.2f} | {whole:,.0f} | {it.own / CALLS:,.0f}"
        return left_out, [f"| {'· ' * depth}`{key[0]}` | {cells} |"] * (whole >= WORTH_A_LINE) + below

    table = []
    for key in sorted(functions, key=lambda it: -functions[it].whole):
        if len(key) == 2 and files_of(key[0], files) and not files_of(key[1], files) and key not in shown:
            table += rows(key, 0)[1]
    return table


def files_of(function: str, files: tuple[str, ...]) -> bool:
    """Whether a function is of one of the files, or of a folder that ends with a slash."""
    return function.rpartition(":")[2].startswith(files)


def parts(kind: str, target: str, folder: str) -> str:
    """What each part took, by function."""
    lines = []
    for title, variant, files, leave_out in PARTS[kind]:
        profiled = profile(kind, variant, target, folder, f"--separate-callers={DEPTH}", python=("-X", "perf"))
        lines += [f"### {kind}: {title}", "", "| | entered | instructions | its own |", "|---|---|---|---|"]
        lines += [*part(spent(profiled), files, leave_out), ""]
    return "\n".join(lines)


# ── The tables ────────────────────────────────────────────────────────────────────────────────────────────────────


def by_core(path: Path) -> tuple[int, int]:
    """How many of a profile's instructions are those of gRPC's C core, and how many are not."""
    inside = outside = 0
    in_core = of_callee = False
    for line in path.read_text("utf-8", "replace").splitlines():
        if line.startswith("ob="):
            in_core = "cygrpc" in line
        elif line.startswith("calls="):  # the next line is what is called, which has lines of its own
            of_callee = True
        elif line[:1].isdigit():
            if not of_callee:
                inside += int(line.split()[1]) * in_core
                outside += int(line.split()[1]) * (not in_core)
            of_callee = False
    return inside, outside


def sums(kind: str, target: str, folder: str) -> str:
    """The instructions of a whole call, by variant."""
    counts = {}
    for variant in (it for it in KINDS[kind]() if it != AGAIN):
        profile(kind, variant, target, folder, "--dump-after=PyNumber_MatrixMultiply")
        turns = list(Path(folder).glob("profile.*"))
        medians = [statistics.median(them) / (CALLS / TURNS) for them in zip(*map(by_core, turns), strict=True)]
        counts[variant] = medians
        for path in turns:
            path.unlink()
    inside, outside = counts[NOTHING]
    lines = [
        f"### {kind}: a whole call, on the thread that makes it",
        "",
        f"| | in gRPC's C core | outside of it | more than {NOTHING} | ratio |",
        "|---|---|---|---|---|",
    ]
    for variant, (core, rest) in counts.items():
        more = rest - outside
        lines.append(f"| {variant} | {core:,.0f} | {rest:,.0f} | {more:+,.0f} | {1 + more / (inside + outside):.3f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions")
    parser.add_argument("--only", choices=KINDS, help="calls of one kind")
    parser.add_argument("--make-calls", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_calls:
        make_calls(*arguments.make_calls)
        return
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    with ServerProcess() as server, tempfile.TemporaryDirectory() as folder:
        for kind in [arguments.only] if arguments.only else KINDS:
            print(sums(kind, server.target, folder), flush=True)
            if sys.version_info >= (3, 12):
                print(parts(kind, server.target, folder), flush=True)


if __name__ == "__main__":
    main()
