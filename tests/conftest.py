"""Conditions that every test can be run under: another event loop, threads that are switched as often as can be."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable

import pytest

from grpc_breaker._core import log


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the conditions to pytest's command line."""
    group = parser.getgroup("conditions")
    group.addoption("--uvloop", action="store_true", help="run asyncio on uvloop")
    group.addoption("--switch-interval", type=float, metavar="SECONDS", help="how long a thread runs at most")
    group.addoption("--part", default="1/1", metavar="N/OF", help="run every OF-th test, from the Nth on")


def pytest_configure(config: pytest.Config) -> None:
    """Establish them. And Ctrl-C ends what it should, also where a shell began the tests with that signal ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a script runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--uvloop"):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    interval = config.getoption("--switch-interval")
    if interval:
        sys.setswitchinterval(interval)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one part of the tests, so that several processes can share them."""
    number, parts = map(int, config.getoption("--part").split("/"))
    items[:] = items[number - 1 :: parts]


@pytest.fixture
def nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have what is logged once be logged once in this test, whatever had been logged before; called, do so again."""

    def forget() -> None:
        monkeypatch.setattr(log, "_said", set())

    forget()
    return forget


def pytest_report_header(config: pytest.Config) -> str:
    """Say which loop and which grpcio are tested."""
    import grpc

    loop = asyncio.new_event_loop()
    loop.close()
    return f"grpcio {grpc.__version__}, {type(loop).__module__}, threads switched after {sys.getswitchinterval():g} s"
