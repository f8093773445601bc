"""How things are timed here: in turns, so that a noisy machine is noisy for everyone.

A machine that others use changes its pace for seconds at a time. So a ratio is not that of two medians, which may be of
different times, but the median of the ratios within each round. Times are medians with their middle half.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping

Loop = Callable[[int], None]
"""Does the thing so many times."""


def interleaved(
    loops: Mapping[str, Loop], *, rounds: int = 31, seconds: float = 0.025, least: int = 1
) -> dict[str, list[float]]:
    """Time each loop `rounds` times, in turns; returns microseconds for one pass, by round.

    A turn has as many passes as take `seconds`, and no fewer than `least`.
    """
    counts = {name: _calibrate(loop, seconds, least) for name, loop in loops.items()}
    samples: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            gc.collect()
            began = time.perf_counter()
            loop(counts[name])
            samples[name].append((time.perf_counter() - began) / counts[name] * 1e6)
    return samples


def _calibrate(loop: Loop, seconds: float, least: int) -> int:
    count = least
    while True:
        began = time.perf_counter()
        loop(count)
        if time.perf_counter() - began > seconds:
            return count
        count *= 2


def table(title: str, samples: Mapping[str, list[float]], against: str) -> str:
    """The samples as a Markdown table: median, the middle half, and the median of the rounds' ratios to one of them."""
    lines = [f"### {title}", "", f"| | median µs | middle half | ratio to {against} |", "|---|---|---|---|"]
    for name, values in samples.items():
        low, median, high = statistics.quantiles(values)
        ratio = statistics.median(value / base for value, base in zip(values, samples[against], strict=True))
        lines.append(f"| {name} | {median:.3f} | {low:.3f} to {high:.3f} | {ratio:.2f} |")
    return "\n".join([*lines, ""])
