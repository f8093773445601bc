"""What is logged once, and the name under which a user's function is logged."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest

from grpc_breaker import BreakerPolicy, BreakerRegistry, State
from grpc_breaker._core.callables import name_of
from grpc_breaker._core.log import log_once, printable


def test_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The same message is one error record, with its traceback, however often it comes."""
    for _ in range(3):
        try:
            raise LookupError
        except LookupError:
            log_once("trouble")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == ("trouble (logged once)", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing was raised, there is no traceback; a message may hold what a format would choke on."""
    log_once("100 %s", exc_info=False)
    (record,) = caplog.records
    assert record.getMessage() == "100 %s (logged once)"
    assert not record.exc_info


def test_logged_at_most_a_thousand_times(caplog: pytest.LogCaptureFixture) -> None:
    """After a thousand different messages no more are logged."""
    for n in range(1010):
        log_once(f"trouble {n}", exc_info=False)
    assert len(caplog.records) == 1000


def test_log_that_raises() -> None:
    """A log handler of the user's that raises reaches neither code that logs, nor operators, nor who looks for a breaker."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(record)

    handler = Broken()
    logging.getLogger("grpc_breaker").addHandler(handler)
    try:
        log_once("trouble with the log itself")
        breakers = BreakerRegistry({"pkg.S/GetPrize": BreakerPolicy()}, max_breakers=1)
        assert breakers.breaker_for("/pkg.S/GetPrice") is not None
        for number in range(20):
            breakers[f"pkg.S/M{number}"].force_open()
        assert {breaker.state for breaker in breakers if breaker.name.startswith("pkg.S/M")} == {State.FORCED_OPEN}
    finally:
        logging.getLogger("grpc_breaker").removeHandler(handler)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("plain \u00e9\\", "plain \u00e9\\"),
        ("a\\b\nc", r"a\b\nc"),
        ("\x1b[31mred'\u2028\"", "\\x1b[31mred'\\u2028\""),
        ("", ""),
    ],
)
def test_control_characters_are_written_out(text: str, printed: str) -> None:
    """Control characters are written out as in source code; everything else stays as it is."""
    assert printable(text) == printed


class Listener:
    def __call__(self) -> None: ...

    def method(self) -> None: ...


class Bare:
    """What has none of the usual attributes."""

    def __getattribute__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (test_logged_at_most_a_thousand_times, "tests.unit.test_log.test_logged_at_most_a_thousand_times:"),
        (Listener().method, "tests.unit.test_log.Listener.method:"),
        (Listener(), "tests.unit.test_log.Listener"),
        (functools.partial(print), "functools.partial"),
        (print, "builtins.print"),
        ([].append, "builtins.list.append"),
        (Bare(), "tests.unit.test_log.Bare"),
    ],
)
def test_names(function: Any, name: str) -> None:
    """A function is named so that its user finds it: module, name, and the line where there is one."""
    found = name_of(function)
    assert found.rstrip("0123456789") == name
    assert found.endswith(":") is False
