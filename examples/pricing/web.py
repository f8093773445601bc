"""The HTTP responses of the web apps: status, headers and body, whichever framework sends them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from examples.pricing import money
from examples.pricing.shop import explain
from examples.pricing.v1.pricing_pb2 import Price
from grpc_breaker import BreakerRegistry, CallRefusedError

RETRY_AFTER_OPERATOR: Final = 30
"""Seconds to ask a client to wait when an operator opened the breaker, which may be for any time."""

DETAILS: Final = {
    502: "the pricing service cannot be reached",
    504: "the pricing service did not answer in time",
}
"""What the public sees of a failed call."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, for a framework to send."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict[str, str])


def priced(price: Price, fallback: str) -> Answer:
    """The response with a price: the last known one if a fallback gave it."""
    return Answer(200, describe(price, stale=bool(fallback)))


def failed(error: grpc.RpcError) -> Answer:
    """The response without a price, not even a last known one.

    NOT_FOUND is passed on. A refusal is a 503 that says when to retry, an expired deadline a 504, anything else a 502.
    """
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return Answer(404, {"detail": str(error.details())})
    if isinstance(error, CallRefusedError):
        return Answer(503, {"detail": explain(error)}, {"Retry-After": str(retry_after(error))})
    status = 504 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else 502
    return Answer(status, {"detail": DETAILS[status]})  # the error's details name hosts and ports


def states(breakers: BreakerRegistry) -> dict[str, dict[str, Any]]:
    """Every breaker's snapshot, by name. Of the last failures only the statuses: their details name hosts and ports."""
    return {
        name: {
            **snapshot,
            "last_failures": [failure["status"] for failure in snapshot["last_failures"]],
            "changes": [f"{it['previous']} -> {it['state']} ({it['reason']})" for it in snapshot["changes"]],
        }
        for name, snapshot in breakers.snapshot().items()
    }


def retry_after(refusal: CallRefusedError) -> int:
    """The value of Retry-After: whole seconds, rounded up, from 1."""
    if refusal.retry_after is None:
        return RETRY_AFTER_OPERATOR
    return max(1, math.ceil(refusal.retry_after))


def describe(price: Price, *, stale: bool) -> dict[str, Any]:
    """A price as JSON. The amount is text: JSON's numbers are floating point."""
    return {
        "product_id": price.product_id,
        "price": money.text(price.amount).partition(" ")[0],
        "currency": price.amount.currency_code,
        "stale": stale,
    }
