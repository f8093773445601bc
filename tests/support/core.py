"""The files of the core, and which of them the tests of every line watch.

Each file of `grpc_breaker/_core` is in one of the two lists: `tests/model/test_watched_files.py` compares them with the
directory. So a new file with logic in it cannot stay unwatched unseen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc_breaker

CORE: Final = Path(grpc_breaker.__file__).parent / "_core"

WATCHED_NAMES: Final = (
    "breaker.py",
    "ledger.py",
    "one_step.py",
    "registry.py",
    "window.py",
)
"""Files with logic that threads, signal handlers and finalizers can meet in the middle of."""

EXEMPT: Final = {
    "__init__.py": "holds nothing",
    "callables.py": "looks at a function, and keeps nothing",
    "errors.py": "an exception class, which keeps nothing but what it is given",
    "events.py": "plain data; its loop over listeners runs them, and is watched as part of their delivery",
    "log.py": "writes to the log",
    "policy.py": "frozen data, checked when it is made",
    "state.py": "names and a table",
}
"""The other files, each with the reason."""

WATCHED: Final = {str(CORE / name) for name in WATCHED_NAMES}
"""The watched files as code objects name them."""
