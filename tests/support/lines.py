"""Something else at every line: what signal handlers, finalizers and other threads may do in the middle of some code.

The lines are those of given files, seen by a trace function on the thread that runs the code.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


def act_at(files: Collection[str], story: Callable[[], object], act: Callable[[], object], at: int) -> bool:
    """Run `story`, and call `act` just before its line number `at` in these files.

    Args:
        files: Names of source files, as their code objects have them.
        story: What to run.
        act: What to call once. What it raises is raised in the middle of the story, as a signal handler's exception is.
        at: Which line, from 1, counted as they are run.

    Returns:
        Whether the story had so many lines.
    """
    lines = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                act()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        story()
    finally:
        sys.settrace(before)
    return lines >= at


def lines_run(files: Collection[str], story: Callable[[], object]) -> Counter[str]:
    """How many lines of each of these files `story` runs: its cost, without a clock."""
    lines: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in files:
            return None
        lines[name] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        story()
    finally:
        sys.settrace(before)
    return lines
