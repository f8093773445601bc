"""A short soak: the rules of `python -m tests.soak`, in ten seconds."""

from __future__ import annotations

from tests.soak import markdown, soak


def test_soak() -> None:
    """Guarded calls of every kind meet in random trouble only what bare ones meet, and leave nothing behind."""
    report = soak(seed=1, rounds=3, seconds=1.0)
    assert not report.failures, markdown(report)
    assert report.calls > 1000
    assert report.transitions["closed -> open"]
