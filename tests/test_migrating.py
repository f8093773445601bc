"""The page about migrating is true: both sides of its pairs run, against the same failures."""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import grpc_breaker
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitBreaker, CircuitOpenError, Permit, State
from tests.support import hand_written

PAGE = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
BLOCKS = {title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in SECTIONS.items()}
PAIRS = {title: blocks for title, blocks in BLOCKS.items() if len(blocks) == 2}
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # aiobreaker calls it

WRAPS_THE_LAST_FAILURE = {"pybreaker", "aiobreaker"}
"""Those whose refusal replaces the error of the call that opens the breaker."""


class Server:
    """What `fetch` calls: it fails as long as there is an error."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.calls = 0

    def fetch(self, product: str) -> str:
        """One call."""
        self.calls += 1
        if self.error is not None:
            raise self.error
        return f"price of {product}"


def client(code: str, server: Server) -> Callable[[], str]:
    """What the `shown` of an example shows, or the name of the error that it raises."""
    namespace: dict[str, Any] = {"fetch": server.fetch}
    exec(compile(code, "migrating.md", "exec"), namespace)
    shown = namespace["shown"]

    def call() -> str:
        try:
            found = shown("grinder")
            return str(asyncio.run(found) if inspect.iscoroutine(found) else found)
        except (ConnectionError, LookupError) as error:
            return type(error).__name__

    return call


@pytest.fixture(autouse=True)
def hand_written_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that a tutorial's readers have written."""
    monkeypatch.setitem(sys.modules, "circuit_breaker", hand_written)


def test_there_is_a_pair_for_each_library_of_python() -> None:
    """A pair of examples stands for each: the breaker written by hand, pybreaker, aiobreaker, circuitbreaker, purgatory."""
    written = {"A breaker written by hand", "pybreaker", "aiobreaker", "circuitbreaker", "purgatory"}
    assert PAIRS.keys() == written


@pytest.mark.parametrize("title", PAIRS)
def test_both_sides_open_after_five_failures(title: str) -> None:
    """Both sides send five of eight calls to a server that fails, and show the last known price for the others."""
    theirs, ours = PAIRS[title]
    for code in (theirs, ours):
        server = Server(ConnectionError())
        call = client(code, server)
        shown = [call() for _ in range(8)]
        failures = 4 if code is theirs and title in WRAPS_THE_LAST_FAILURE else 5
        assert shown == ["ConnectionError"] * failures + ["last known price"] * (8 - failures)
        assert server.calls == 5


@pytest.mark.parametrize("title", PAIRS)
def test_both_sides_show_prices(title: str) -> None:
    """Both sides show what a server returns that works, however often it is called."""
    for code in PAIRS[title]:
        call = client(code, Server(None))
        assert {call() for _ in range(8)} == {"price of grinder"}


def test_what_is_excluded_opens_neither() -> None:
    """Errors that pybreaker's `exclude` names open neither side, and are raised to the caller."""
    for code in PAIRS["pybreaker"]:
        call = client(code, Server(LookupError()))
        assert [call() for _ in range(8)] == ["LookupError"] * 8


def test_the_example_for_a_channel_runs() -> None:
    """The example with a channel guards the method of the policy."""
    (code,) = BLOCKS["Every one of them, for gRPC calls"]
    namespace: dict[str, Any] = {}
    exec(compile(code, "migrating.md", "exec"), namespace)
    policy = namespace["breakers"]["pricing.v1.Pricing/GetPrice"].snapshot()["policy"]
    assert (policy["consecutive_failures"], policy["reset_timeout"]) == (5, 30)
    namespace["channel"].close()


def test_our_words_are_ours() -> None:
    """What the right columns name in the way of a call, an attribute or a field is there."""
    known = {field.name for field in fields(BreakerPolicy)} | set(grpc_breaker.__all__) | {*State, *State.__members__}
    for kind in (BreakerRegistry, CircuitBreaker, CircuitOpenError, Permit):
        known |= set(dir(kind))
    for title, text in SECTIONS.items():
        for row in re.findall(r"^\| .* \| (.*) \|$", text, re.MULTILINE):
            for word in re.findall(r"`(?:\w+\.)?([A-Za-z_]\w*)(?:\([^`]*\))?(?:=[^`]*)?`", row):
                assert word in known, (title, word)
