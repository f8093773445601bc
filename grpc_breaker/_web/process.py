"""One process whose breakers are watched, and whether it can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from grpc_breaker.admin.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from grpc_breaker._web.row import Seen

CONNECTING: Final = "connecting"
CONNECTED: Final = "connected"
UNREACHABLE: Final = "unreachable"
GONE: Final = "gone"
_LONGEST_WHY: Final = 300


class Process:
    """What is known of it. Where another process answers at its target, it is gone."""

    def __init__(self, number: int, target: str, now: float) -> None:
        self.number = number
        self.target = target
        self.status: str = CONNECTING
        self.since = now
        """When it came into this status."""
        self.why = ""
        """Why it is not connected."""
        self.polled = False
        """It is asked again and again, because too many watch it already."""
        self.about: pb.Process | None = None
        """What it says of itself; `None` where it never answered."""
        self.breakers: dict[str, Seen] = {}

    def become(self, status: str, now: float, why: str = "") -> None:
        """Note whether it can be reached."""
        self.why = why[:_LONGEST_WHY]
        if status != self.status:
            self.status, self.since = status, now

    @property
    def connected(self) -> bool:
        """Whether what it said is true now."""
        return self.status == CONNECTED

    def is_same(self, about: pb.Process) -> bool:
        """Whether it is the process that says this of itself."""
        mine = self.about
        return mine is None or (mine.host, mine.pid, mine.started) == (about.host, about.pid, about.started)

    def as_dict(self) -> dict[str, Any]:
        """What the page shows of it."""
        about = self.about or pb.Process()
        return {
            "id": self.number,
            "target": self.target,
            "program": about.program,
            "pid": about.pid,
            "host": about.host,
            "version": about.version,
            "allow_changes": about.allow_changes,
            "status": self.status,
            "since": round(self.since, 1),
            "why": self.why,
            "polled": self.polled,
            "breakers": len(self.breakers),
        }
