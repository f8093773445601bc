"""A short soak: the rules of `python -m tests.soak`, in ten seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.endings_table import OLD_GRPCIO


@pytest.mark.timeout(240)  # it waits for quiet, which other work on the machine may keep away
@pytest.mark.skipif(OLD_GRPCIO, reason="what the soak allows to be seen is what newer versions show")
@pytest.mark.parametrize(
    "parts", [pytest.param([], id="breaker"), pytest.param(["--parts"], id="all parts", marks=pytest.mark.once)]
)
def test_soak(parts: list[str]) -> None:
    """Guarded calls of every kind meet in random trouble only what bare ones meet, and leave nothing behind."""
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.1", "--seed", "1", *parts]
    folder = Path(__file__).parents[2]
    soak = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    assert "All checks passed" in soak.stdout
    assert "closed -> open" in soak.stdout
