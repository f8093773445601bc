"""How things are timed here: interleaved, so that a noisy machine is noisy for everyone; medians, with the spread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Loop = Callable[[int], None]
"""Does the thing so many times."""


def interleaved(loops: Mapping[str, Loop], *, rounds: int = 15, seconds: float = 0.05) -> dict[str, list[float]]:
    """Time each loop `rounds` times, in turns; answers microseconds for one pass, sorted."""
    counts = {name: _calibrate(loop, seconds) for name, loop in loops.items()}
    samples: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            gc.collect()
            began = time.perf_counter()
            loop(counts[name])
            samples[name].append((time.perf_counter() - began) / counts[name] * 1e6)
    return {name: sorted(values) for name, values in samples.items()}


def _calibrate(loop: Loop, seconds: float) -> int:
    count = 1
    while True:
        began = time.perf_counter()
        loop(count)
        if time.perf_counter() - began > seconds:
            return count
        count *= 2


def table(title: str, samples: Mapping[str, list[float]], against: str) -> str:
    """The samples as a Markdown table: median, the middle half, and the ratio to one of them."""
    base = statistics.median(samples[against])
    lines = [f"### {title}", "", f"| | median µs | middle half | ratio to {against} |", "|---|---|---|---|"]
    for name, values in samples.items():
        median = statistics.median(values)
        quarter = len(values) // 4
        spread = f"{values[quarter]:.3f} to {values[-1 - quarter]:.3f}"
        lines.append(f"| {name} | {median:.3f} | {spread} | {median / base:.2f} |")
    return "\n".join([*lines, ""])
