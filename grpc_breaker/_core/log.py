"""The package's logger, and the rule for trouble that would repeat with every call: say it once.

A listener that raises, a classifier that raises, a defect of our own: each is logged the first time, with its
traceback, and never reaches the user's call. Nor does trouble of the log itself: a handler that raises would make of
every net that logs what it caught a way into the call it guards.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

logger: Final = logging.getLogger("grpc_breaker")

_MAX_REMEMBERED: Final = 1000
_said: set[str] = set()


def log_once(message: str, *, exc_info: bool = True) -> None:
    """Log `message` as an error, the first time it is given; afterwards stay silent.

    Bounded: after a thousand different messages no more are logged, because by then the log is not what will help.
    """
    if message not in _said and len(_said) < _MAX_REMEMBERED:
        _said.add(message)
        with suppress(Exception):
            logger.error("%s (logged once)", message, exc_info=exc_info)
