"""What is logged once is logged once in each test."""

from __future__ import annotations

import pytest

from grpc_breaker._core import log


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_said", set())
