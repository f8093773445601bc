"""Programs that are no Python packages, which some tests need."""

from __future__ import annotations

import os
import shutil

import pytest


def required(program: str, package: str) -> str:
    """Where a program is. Where it is not installed the test is skipped; with REQUIRE_PROGRAMS it fails.

    Args:
        program: Its name.
        package: Debian's package that has it.
    """
    path = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if path is None:
        reason = f"{program} is not installed (apt-get install {package})"
        if os.environ.get("REQUIRE_PROGRAMS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
