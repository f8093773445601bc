"""How plots are drawn here: the same file for the same figures, with text that stays text, and names in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

IN_WORDS: Final = {
    "grpc_breaker, probe deadline, hung calls": "grpc_breaker, probe deadline,\nhung calls",
    "grpc_breaker, probe deadline, bulkhead": "grpc_breaker, probe deadline,\nbulkhead",
    "grpc_breaker, probe deadline, bulkhead, hung calls": "grpc_breaker, probe deadline,\nbulkhead, hung calls",
    "the recipe": "written by hand, as tutorials\nhave it (the recipe), a decorator",
    "`try` around `continuation`": "the recipe in an interceptor:\n`try` around `continuation`",
}
"""What a plot calls those whose names in the tables do not say what they are."""


def in_words(name: str) -> str:
    """What a plot calls a candidate."""
    return IN_WORDS.get(name, name)


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
