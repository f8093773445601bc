"""How plots are drawn here: the same file for the same figures, with text that stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def pyplot() -> Any:
    """matplotlib, set up; imported only where something is drawn."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only for plots

    plt.rcParams.update({"svg.hashsalt": "grpc_breaker", "svg.fonttype": "none", "font.size": 9})
    return plt


def save(figure: Any, path: Path) -> None:
    """Write a figure, its folder too, and let go of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot().close(figure)
