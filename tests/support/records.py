"""Records of the traffic of the laboratory's plays, to be played again with other policies.

A client with a breaker is recorded with that breaker at work: there are calls in it that were refused, and it says when
the breaker changed its state. A client without one is recorded by a breaker with the default policy that refuses
nothing (`enforcement_percentage=0`) and changes no call: that is the honest input for other policies, because each call
was made and has its own end. Its changes are those of a breaker on trial.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from grpc_breaker import BreakerPolicy, BreakerRegistry
from grpc_breaker.replay import TrafficRecorder

TRIAL: Final = BreakerPolicy(enforcement_percentage=0, reset_timeout_jitter=0)
"""Of a client without a breaker. Nothing is left to chance, so that a replay has the same changes."""
MOST_BYTES: Final = 1 << 30
"""One file for each play."""


def recorder_of(breakers: BreakerRegistry, folder: Path, *words: object) -> TrafficRecorder:
    """Records into a file of the folder that is called by these words. To be started and stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    name = ".".join(re.sub(r"[^a-z0-9]+", "-", str(word).lower()).strip("-") for word in words)
    path = folder / f"{name}.jsonl"
    path.unlink(missing_ok=True)
    return TrafficRecorder(breakers, path, max_bytes=MOST_BYTES)


def is_bare(name: str) -> bool:
    """Whether a record of this name is that of a client without a breaker."""
    return bool({"bare", "no-breaker", "nothing"} & set(name.split(".")))
