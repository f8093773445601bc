"""How much memory a piece of work leaves behind."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable


def memory_grown(work: Callable[[range], object], first: range, then: range) -> int:
    """Bytes that `work(then)` leaves behind, after `work(first)` has filled what is bounded."""

    def in_use_after(numbers: range) -> int:
        work(numbers)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = in_use_after(first)
        return in_use_after(then) - before
    finally:
        tracemalloc.stop()
