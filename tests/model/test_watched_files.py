"""The tests of every line watch every file of the core that has logic in it."""

from __future__ import annotations

from tests.support.core import CORE, EXEMPT, WATCHED_NAMES


def test_every_file_of_the_core_is_watched_or_exempt() -> None:
    """Each file of the core is watched, or exempt for a reason, and no file is listed that is not there."""
    present = {path.name for path in CORE.iterdir() if path.suffix == ".py"}
    assert {*WATCHED_NAMES, *EXEMPT} == present
    assert not set(WATCHED_NAMES) & EXEMPT.keys()
    assert all(EXEMPT.values())
