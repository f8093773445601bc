"""Visitors at every line: what a finalizer or a signal handler may do in the middle of a function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any


def at_each_line(functions: set[str], story: Callable[[], object], visit: Callable[[], object]) -> Iterator[int]:
    """Run a story once for each line of these functions that it executes; at that line comes a visitor, once."""
    tracing = sys.gettrace()
    for line in count(1):
        lines = count(1)

        def trace(frame: Any, event: str, argument: Any, lines: Any = lines, line: int = line) -> Any:
            if event == "line" and next(lines) == line:
                sys.settrace(None)
                visit()
                return None
            return trace

        def enter(frame: Any, event: str, argument: Any, trace: Any = trace) -> Any:
            name = frame.f_code.co_name.split("ǁ")[-1].split("__mutmut")[0]  # a mutant's has words around it
            return trace if name in functions else None

        sys.settrace(enter)
        try:
            story()
        finally:
            sys.settrace(tracing)
        if next(lines) <= line:
            return
        yield line
