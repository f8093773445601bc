"""A replay of a million events: seconds of CPU and peak memory, by the policies and the length of the record.

`python -m benchmarks.replay [--calls N]`. Each measurement is a process of its own, which plays a record of JSON lines;
memory is the most that the process had. The record is made first, and takes as long again.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grpc_breaker.replay import replay, scenario, write_record

RATES = (100.0, 10_000.0)
"""Calls per second in the record: the more begin within the horizon, the more are held back at once."""
POLICIES = {1: ["default"], 4: ["default", "consecutive_failures=3", "failure_rate=0.2", "failure_threshold=50"]}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--play", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        _play(*options.play)
        return
    print("### A replay\n")
    print("| calls | per second | policies | seconds of CPU | µs a call | most memory, MB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for calls, rate in ((options.calls // 10, RATES[0]), *((options.calls, rate) for rate in RATES)):
            path = Path(folder) / "traffic.jsonl"
            write_record(scenario("oscillating", seconds=calls / rate, calls_per_second=rate), path)
            for policies in POLICIES:
                command = [sys.executable, "-m", "benchmarks.replay", "--play", str(path), str(policies)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                seconds, played, memory = map(float, re.findall(r"[\d.]+", printed))
                cells = f"{policies} | {seconds:.1f} | {seconds / played * 1e6:.1f} | {memory:.0f}"
                print(f"| {played:,.0f} | {rate:,.0f} | {cells} |", flush=True)


def _play(path: str, policies: str) -> None:
    """Play a record, and print seconds, calls and megabytes."""
    from grpc_breaker._replay.policies import parsed  # noqa: PLC0415

    began = time.process_time()
    report = replay(path, {text: parsed(text) for text in POLICIES[int(policies)]})
    seconds = time.process_time() - began
    print(seconds, report.calls, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
