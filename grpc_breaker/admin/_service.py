"""The methods of the admin service, for both kinds of servers: what they answer, as bytes, and what they refuse.

Nothing here waits for a caller of a breaker, nor does one wait for what is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from grpc_breaker._core.breaker import CircuitBreaker
from grpc_breaker._core.log import printable, warn
from grpc_breaker._core.overview import summary_of
from grpc_breaker._core.spelling import nearest
from grpc_breaker._registry import BreakerRegistry
from grpc_breaker.admin._messages import breaker_message, change_message, process_message, snapshot_message, text
from grpc_breaker.admin._overviews import OverviewCache
from grpc_breaker.admin._requests import RefusedError, hold_of, name_of, recorded_by, wanted_by
from grpc_breaker.admin._traffic import TrafficWatcher
from grpc_breaker.admin._watchers import Listening, Watcher, Watchers
from grpc_breaker.admin.v1 import admin_pb2

NAME: Final = admin_pb2.DESCRIPTOR.services_by_name["BreakerAdmin"].full_name

_NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND


class AdminService:
    """The breakers of a registry, for operators."""

    def __init__(
        self, breakers: BreakerRegistry, *, allow_changes: bool, hide_details: bool, max_watchers: int
    ) -> None:
        """Look at nothing yet. The arguments are those of `add_breaker_admin_servicer`.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: `max_watchers` is below 0.
        """
        if not isinstance(breakers, BreakerRegistry):
            message = f"breakers must be a BreakerRegistry, got {breakers!r}"
            raise TypeError(message)
        for name, flag in (("allow_changes", allow_changes), ("hide_details", hide_details)):
            if not isinstance(flag, bool):
                message = f"{name} must be True or False, got {flag!r}"
                raise TypeError(message)
        message = f"max_watchers must be an integer, 0 or more, got {max_watchers!r}"
        if isinstance(max_watchers, bool) or not isinstance(max_watchers, int):
            raise TypeError(message)
        if max_watchers < 0:
            raise ValueError(message)
        self._breakers = breakers
        self._allow_changes = allow_changes
        self._hide = hide_details
        self._process = process_message(allow_changes)
        self._overviews = OverviewCache(breakers, hide_details)
        self.watchers = Watchers(breakers, self._overviews, max_watchers)
        """Those who watch."""

    @property
    def unary(self) -> dict[str, Callable[[Any, str], bytes]]:
        """The methods with one response, by name: they take a request and who asks.

        Raises:
            RefusedError: The request is refused.
        """
        return {
            "ListBreakers": self._list,
            "GetBreaker": self._get,
            "ForceOpen": self._force_open,
            "Disable": self._disable,
            "Reset": self._reset,
        }

    @property
    def streaming(self) -> dict[str, Callable[[Any, Callable[[], object], Callable[[], object]], Listening]]:
        """The methods with many responses, by name: they take a request, and what wakes and cancels who asks.

        Raises:
            RefusedError: The request is refused.
        """
        return {"WatchBreakers": self._watcher, "RecordTraffic": self._recorder}

    def _watcher(self, request: Any, wake: Callable[[], object], cancel: Callable[[], object]) -> Listening:
        """One who watches what a request says, and is to be woken from now on.

        Raises:
            RefusedError: The request is refused.
        """
        interval = request.interval if request.HasField("interval") else None
        wanted, seconds = wanted_by(self._breakers, request.filter, interval=interval)
        first = admin_pb2.WatchBreakersResponse(process=self._process).SerializeToString()
        watcher = Watcher(self._overviews, wanted, seconds, first, wake, cancel)
        self.watchers.add(watcher)
        return watcher

    def _recorder(self, request: Any, wake: Callable[[], object], cancel: Callable[[], object]) -> Listening:
        """One who records the traffic that a request says, from now on.

        Raises:
            RefusedError: The request is refused.
        """
        recorder = TrafficWatcher(self._breakers, recorded_by(self._breakers, request), wake, cancel)
        self.watchers.add(recorder)
        try:
            recorder.begin()
        except BaseException:  # a clock of the user's
            self.watchers.remove(recorder)
            raise
        return recorder

    def _list(self, request: Any, _who: str) -> bytes:
        wanted, _ = wanted_by(self._breakers, request.filter)
        parts = [it.encoded() for it in wanted.among(self._overviews.refresh().entries.values())]
        return b"".join([admin_pb2.ListBreakersResponse(process=self._process).SerializeToString(), *parts])

    def _get(self, request: Any, _who: str) -> bytes:
        name = request.name.removeprefix("/")
        breaker = next((it for it in self._breakers if text(it.name) == name), None)
        if breaker is None:
            near = nearest(name, sorted(text(it.name) for it in self._breakers))
            hint = f"; did you mean {near!r}?" if near else ""
            raise RefusedError(_NOT_FOUND, f"there is no breaker {name!r}{hint}")
        return self._everything_about(breaker).SerializeToString()

    def _everything_about(self, breaker: CircuitBreaker) -> admin_pb2.GetBreakerResponse:
        return admin_pb2.GetBreakerResponse(
            process=self._process,
            breaker=breaker_message(breaker, summary_of(breaker), self._hide),
            snapshot=snapshot_message(breaker.snapshot(), self._hide),
            changes=[change_message(it, self._hide) for it in breaker.changes],
        )

    def _force_open(self, request: Any, who: str) -> bytes:
        return admin_pb2.ForceOpenResponse(breakers=self._hold("force_open", request, who)).SerializeToString()

    def _disable(self, request: Any, who: str) -> bytes:
        return admin_pb2.DisableResponse(breakers=self._hold("disable", request, who)).SerializeToString()

    def _hold(self, order: str, request: Any, who: str) -> list[str]:
        self._check_allowed()
        name, ttl, reason = hold_of(request, self._breakers)
        give = self._breakers.force_open if order == "force_open" else self._breakers.disable
        try:
            held = give(name, ttl=ttl, reason=reason)
        except ValueError as error:  # all else was looked at
            raise RefusedError(_NOT_FOUND, str(error)) from None
        warn("%s asked to %s %s for %g s (%s): %s", who, order, printable(name), ttl, reason, _so_many(held))
        return [text(it) for it in held]

    def _reset(self, request: Any, who: str) -> bytes:
        self._check_allowed()
        name = name_of(request, self._breakers)
        try:
            closed = self._breakers.reset(name)
        except ValueError as error:
            raise RefusedError(_NOT_FOUND, str(error)) from None
        warn("%s asked to reset %s: %s", who, printable(name), _so_many(closed))
        return admin_pb2.ResetResponse(breakers=[text(it) for it in closed]).SerializeToString()

    def _check_allowed(self) -> None:
        if not self._allow_changes:
            message = "this process allows no changes: it serves its breakers without allow_changes=True"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, message)


def requests() -> dict[str, Callable[[bytes], Any]]:
    """How the request of each method is read, by the method's name."""
    methods = admin_pb2.DESCRIPTOR.services_by_name["BreakerAdmin"].methods
    return {it.name: getattr(admin_pb2, it.input_type.name).FromString for it in methods}


def refuse(context: Any, refused: RefusedError) -> None:
    """Set the status of a call that returns now, with whatever response.

    Not by `abort`: after that, `stop` of an older grpc.aio server waits for all its grace (grpc/grpc#37239).
    """
    context.set_code(refused.code)
    context.set_details(refused.details)


def who(context: Any) -> str:
    """Who asks, for the log: where from, and by which certificate."""
    names = [it.decode("utf-8", "replace") for it in context.peer_identities() or ()]
    return printable(" ".join([context.peer(), *names]))


def _so_many(breakers: tuple[str, ...]) -> str:
    return "1 breaker" if len(breakers) == 1 else f"{len(breakers)} breakers"
