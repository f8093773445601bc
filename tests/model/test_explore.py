"""Every history of seven steps, in each small scope. `python -m tests.model.explore --depth 10` goes further."""

from __future__ import annotations

import pytest

from tests.model.explore import SCOPES, explore


@pytest.mark.parametrize("scope", SCOPES)
def test_every_history_agrees_with_the_reference(scope: str) -> None:
    """In every state that seven steps can reach, the breaker is what the reference says."""
    states, transitions = explore(SCOPES[scope], depth=7)
    assert states > 100
    assert transitions > states
