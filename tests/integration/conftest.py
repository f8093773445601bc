"""What old versions of grpcio do that newer ones do not."""

from __future__ import annotations

import pytest

from tests.integration.endings_table import OLD_GRPCIO


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Old asyncio calls behind interceptors complain in their own finalizers when their loop is gone."""
    if OLD_GRPCIO:
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
