"""A Celery application whose tasks make guarded calls; what the worker runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from celery.exceptions import SoftTimeLimitExceeded

from tests.clients.support import shop
from tests.clients.support.celery_folders import connected_to

FOLDER: Final = "SHOP_FOLDER"
"""The variable with the folder that the application and its clients share."""

app = connected_to(Path(os.environ[FOLDER]))


@app.task
def call(script: str) -> str:
    """Make a call, and let its error be the task's."""
    return shop.call(script)


@app.task
def outcome(script: str) -> str:
    """Make a call."""
    return shop.outcome(script)


@app.task(soft_time_limit=1)
def call_with_a_limit(script: str) -> str:
    """Make a call that the soft time limit interrupts."""
    try:
        return shop.call(script)
    except SoftTimeLimitExceeded:
        return "interrupted"


@app.task
def facts() -> dict[str, Any]:
    """What the worker reports."""
    return shop.facts()
