"""Visitors at every line: what a finalizer or a signal handler may do in the middle of the code of some files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any


def visit_at(files: Collection[str], story: Callable[[], object], visit: Callable[[], object], at: int) -> bool:
    """Tell a story, with a visit at its line number `at` in these files; answers whether it was that long."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                visit()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        story()
    finally:
        sys.settrace(before)
    return lines >= at
