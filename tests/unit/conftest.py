"""What is logged once is logged once in each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _afresh(nothing_logged_yet: None) -> None:
    """In every test of this folder."""
