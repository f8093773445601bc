"""Every history of five steps with each part. `python -m tests.model.explore_parts --depth 7` goes further."""

from __future__ import annotations

import os

import pytest

from tests.model.explore_parts import SCOPES, explore

pytestmark = pytest.mark.timeout(600)  # minutes beside three other suites, with coverage

DEPTH = 4 if "MUTANT_UNDER_TEST" in os.environ else 7 if os.environ.get("LONG") else 5


@pytest.mark.parametrize("scope", SCOPES)
def test_every_history_with_parts_agrees_with_the_reference(scope: str) -> None:
    """In every state that so many steps can reach, the breaker and its parts do what the reference says."""
    states, transitions = explore(scope, DEPTH)
    assert states > 20
    assert transitions > states
