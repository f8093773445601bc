"""Celery without a broker: messages and results are files in a folder, and both are JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery


def connected_to(folder: Path) -> Any:
    """An application whose messages and results are in this folder."""
    for name in ("messages", "results", "control"):
        (folder / name).mkdir(exist_ok=True)
    app = Celery("shop", broker="filesystem://", backend=f"file://{folder / 'results'}")
    app.conf.update(
        broker_transport_options={
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "control_folder": str(folder / "control"),
        },
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
    )
    return app
