"""Running a function in a forked child, and handing back what it returned."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

PATIENCE = 30
"""Seconds after which a child that hangs is killed."""


def in_child(function: Callable[[], Any]) -> Any:
    """Fork, call `function` in the child, and return here what it returned, by way of JSON.

    Raises:
        AssertionError: The child raised, hung, or died.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(PATIENCE)
        try:
            said = {"returned": function()}
        except BaseException:
            said = {"raised": traceback.format_exc()}
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = json.loads(text) if text else {"raised": f"the child died: {status}"}
    assert "returned" in said, said["raised"]
    return said["returned"]
