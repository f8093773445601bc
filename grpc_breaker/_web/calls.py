"""Asks the processes that have a breaker, all at once: for its details, and to hold or reset it.

One process that does not answer delays the others by nothing, and the answer by a few seconds at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value

from grpc_breaker._commands.targets import TIMEOUT, trouble_of
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.process import Process
from grpc_breaker._web.requests import Order
from grpc_breaker._web.row import STATES, UNKNOWN, Seen, seconds_of
from grpc_breaker.admin.v1 import admin_pb2 as pb

MOST_ASKED: Final = 64
"""Of so many processes the details are asked for, the worst first."""
_GONE: Final = "it is gone"


class Calls:
    """What asks."""

    def __init__(self, fleet: Fleet, stub: Callable[[str], Any], timeout: float = TIMEOUT) -> None:
        self._fleet = fleet
        self._stub = stub
        self._timeout = timeout

    def details(self, name: str) -> dict[str, Any] | None:
        """Everything about a breaker, by process; `None` where no process has it."""
        having = self._fleet.having(name)
        if not having:
            return None
        asked = having[:MOST_ASKED]
        request = pb.GetBreakerRequest(name=name)
        answers = self._ask([it for it, _ in asked], "GetBreaker", request)
        now = self._fleet.now()
        return {
            "name": name,
            "now": now,
            "processes": [_details(*it, *answer, now) for it, answer in zip(asked, answers, strict=True)],
            "left_out": len(having) - len(asked),
        }

    def give(self, order: Order) -> list[dict[str, Any]] | None:
        """Give an order to all processes that have the breaker.

        Returns:
            What each said; `None` where no process has it.
        """
        having = [process for process, _ in self._fleet.having(order.name)]
        if not having:
            return None
        return [
            {
                "process": process.number,
                "breakers": [] if error else list(response.breakers),
                "error": error,
            }
            for process, (response, error) in zip(having, self._ask(having, *_request(order)), strict=True)
        ]

    def _ask(self, processes: list[Process], method: str, request: object) -> list[tuple[Any, str]]:
        """What each answers: a response and no error, or why there is none."""
        calls: list[Any] = []
        for process in processes:
            stub = self._stub(process.target)
            calls.append(None if stub is None else getattr(stub, method).future(request, timeout=self._timeout))
        return [_answer(it) for it in calls]


def _request(order: Order) -> tuple[str, object]:
    if order.what == "reset":
        return "Reset", pb.ResetRequest(name=order.name)
    ttl = Duration()
    ttl.FromNanoseconds(round(order.ttl * 1e9))
    if order.what == "disable":
        return "Disable", pb.DisableRequest(name=order.name, ttl=ttl, reason=order.reason)
    return "ForceOpen", pb.ForceOpenRequest(name=order.name, ttl=ttl, reason=order.reason)


def _answer(call: Any) -> tuple[Any, str]:
    try:
        return (None, _GONE) if call is None else (call.result(), "")
    except grpc.RpcError as error:
        return None, trouble_of(error)
    except grpc.FutureCancelledError:
        return None, _GONE


def _details(
    process: Process, seen: Seen, answer: pb.GetBreakerResponse | None, error: str, now: float
) -> dict[str, Any]:
    """What one process says of a breaker: what it answered, or else what it said last."""
    response = pb.GetBreakerResponse(breaker=seen.said) if answer is None else answer
    said, snapshot = response.breaker, plain(response.snapshot)
    calls, failures, refusals = seen.rates.read(now)
    return {
        "process": process.number,
        "error": error,
        "state": STATES.get(said.state, UNKNOWN),
        "since": seconds_of(said.since) if said.HasField("since") else None,
        "condition": said.condition,
        "retry_after": said.retry_after.ToMilliseconds() / 1000 if said.HasField("retry_after") else None,
        "refusals": refusals,
        "failures": failures,
        "calls": calls,
        "in_flight": said.in_flight,
        "hung": said.hung,
        "window": [said.window_calls, said.window_failures, said.window_slow],
        "trial": not said.enforced,
        "hold": seen.hold(),
        "last_failures": snapshot.get("last_failures") or [],
        "policy": snapshot.get("policy"),
        "changes": [_change(it) for it in response.changes],
    }


def _change(change: pb.StateChange) -> dict[str, Any]:
    return {
        "time": seconds_of(change.time),
        "previous": STATES.get(change.previous, UNKNOWN),
        "state": STATES.get(change.state, UNKNOWN),
        "reason": change.reason,
        "method": change.method,
        "calls": change.calls,
        "failures": change.failures,
        "status": change.status,
        "details": change.details,
    }


def plain(value: Struct | Value) -> Any:
    """What a struct holds. JSON has no infinite numbers, so these become text."""
    if isinstance(value, Struct):
        return {name: plain(it) for name, it in value.fields.items()}
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [plain(it) for it in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        if number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124 - not a number
            return str(number)
        return int(number) if number.is_integer() else number
    return None if kind is None or kind == "null_value" else getattr(value, kind)
