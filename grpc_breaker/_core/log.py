"""The package's logger, what may be written to it, and the rule for trouble that repeats with every call: say it once.

A listener that raises, a classifier that raises, a defect of this package: each is logged the first time, with its
traceback, and never reaches the user's call. Nor does an error of a log handler.

Names and details come from outside, some from the peer of a call. Written to a log as they are, a line break in one
would make a line of its own, and an escape sequence would reach the reader's terminal.
"""

from __future__ import annotations

import logging
from typing import Final

from grpc_breaker._core.interrupts import passes_through

logger: Final = logging.getLogger("grpc_breaker")

_MAX_REMEMBERED: Final = 1000
_said: set[str] = set()


def log_once(message: str, *, exc_info: bool = True) -> None:
    """Log `message` as an error, the first time it is given; afterwards stay silent.

    Bounded: after a thousand different messages no more are logged, because by then the log is not what will help.
    """
    if message not in _said and len(_said) < _MAX_REMEMBERED:
        _said.add(message)
        _log(logging.ERROR, "%s (logged once)", printable(message), exc_info=exc_info)


def warn(message: str, *arguments: object) -> None:
    """Log a warning."""
    _log(logging.WARNING, message, *arguments)


def _log(level: int, message: str, *arguments: object, exc_info: bool = False) -> None:
    try:
        logger.log(level, message, *arguments, exc_info=exc_info)
    except Exception as error:  # a handler or filter of the application's
        if passes_through(error):
            raise


def printable(text: str) -> str:
    """The text with line breaks, escape sequences and other control characters written out, as `repr` writes them."""
    return text if text.isprintable() else "".join(it if it.isprintable() else repr(it)[1:-1] for it in text)
