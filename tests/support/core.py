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
    "admission.py",
    "breaker.py",
    "callables.py",
    "configuration.py",
    "counts.py",
    "delivery.py",
    "events.py",
    "generation.py",
    "holds.py",
    "holds_by_name.py",
    "interrupts.py",
    "limits.py",
    "last_good.py",
    "log.py",
    "machine.py",
    "names.py",
    "operators.py",
    "overview.py",
    "permit.py",
    "plain_code.py",
    "policy.py",
    "recording.py",
    "refusing.py",
    "registry.py",
    "snapshot.py",
    "succession.py",
    "retrying.py",
    "stack.py",
    "stacks.py",
    "target.py",
    "traffic.py",
    "window.py",
)
"""Files with code that a call, a change of state, a delivery or an operator runs."""

EXEMPT: Final = {
    "__init__.py": "empty",
    "checks.py": "run where a policy is made, by who makes it",
    "errors.py": "an exception class that only hands out what it was given",
    "fallback.py": "what is wanted, checked where it is made",
    "method_policy.py": "what is wanted, checked where it is made",
    "other_names.py": "a table of words for error messages",
    "spelling.py": "words for error messages",
    "state.py": "names and a table",
}
"""The other files, each with the reason."""

WATCHED: Final = {str(CORE / name) for name in WATCHED_NAMES}
"""The watched files as code objects name them."""
