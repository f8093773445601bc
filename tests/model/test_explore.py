"""Every history of seven steps, in each small scope. `python -m tests.model.explore --depth 10` goes further."""

from __future__ import annotations

import os

import pytest

from tests.model.explore import SCOPES, explore

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage


DEPTH = 5 if "MUTANT_UNDER_TEST" in os.environ else 7
"""Mutants run through so many switches that seven steps take them minutes."""


@pytest.mark.parametrize("scope", SCOPES)
def test_every_history_agrees_with_the_reference(scope: str) -> None:
    """In every state that seven steps can reach, the breaker is what the reference says."""
    states, transitions = explore(scope, DEPTH)
    assert states > 50
    assert transitions > states
