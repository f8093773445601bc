"""Telling an exception that merely passes through from one that a hook or this package raised.

The package catches what its own bookkeeping or a user's hook raises, so that neither can break a call. But a signal
handler may raise between any two lines, Celery's soft time limit for one, and so may `PyThreadState_SetAsyncExc`. Such
an exception belongs to the caller and must reach it. What is no `Exception` always does: Ctrl-C, an exit, asyncio's
cancellation. For the others the traceback tells the two apart:

1.  A signal handler is called with the frame that it interrupted. So a function that holds, among its variables, a
    frame that comes before its own in the traceback is one: nothing else is given such a frame, but trace functions.
2.  An exception that is injected into a thread has no frame of its own: its traceback ends in a line of this package.
    Otherwise only built-in exceptions end there, this package's own, and those of protobuf, whose code in C has no
    frame either.

An injected exception of a built-in class cannot be distinguished from a defect of this package, nor one that lands in
a hook from one that the hook raised.
"""

from __future__ import annotations

from types import FrameType
from typing import Final, cast

_PACKAGE: Final = __name__.partition(".")[0]
_WITHOUT_FRAME: Final = frozenset({"builtins", "google.protobuf.message"})
"""The modules of exceptions that code without a frame raises in a line of this package."""


def passes_through(error: BaseException) -> bool:
    """Whether `error` was raised by neither a hook nor this package, but by a signal handler or from another thread.

    True of everything that is no `Exception`.
    """
    if not isinstance(error, Exception):
        return True
    frames: list[FrameType] = []
    seen: set[int] = set()
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if any(id(held) in seen for held in _held_by(frame)):
            return True
        frames.append(frame)
        seen.add(id(frame))
        trace = trace.tb_next
    raised_here = bool(frames) and _is_ours(frames[-1].f_globals.get("__name__"))
    module = type(error).__module__
    return raised_here and module not in _WITHOUT_FRAME and not _is_ours(module)


def _held_by(frame: FrameType) -> list[object]:
    """What a frame's variables hold, and their tuples: a handler may be `def handler(*args)`."""
    held: list[object] = []
    for value in tuple(frame.f_locals.values()):
        if type(value) is tuple:
            held.extend(cast("tuple[object, ...]", value))
        else:
            held.append(value)
    return held


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == _PACKAGE
