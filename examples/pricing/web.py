"""What a web app answers to a request for a price: status, headers and body, whichever framework sends them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from examples.pricing import money
from examples.pricing.shop import LastKnownPrices, explain
from examples.pricing.v1.pricing_pb2 import Price
from grpc_breaker import BreakerRegistry, CircuitOpenError

RETRY_WHEN_UNTOLD: Final = 30
"""Seconds to ask a client to wait when the breaker was opened by an operator, and nobody knows for how long."""


DETAILS: Final = {
    502: "the pricing service cannot be asked",
    504: "the pricing service did not answer in time",
}
"""What a failed call says to the public."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, before a framework makes it one of its own."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict[str, str])


def told(price: Price, known: LastKnownPrices) -> Answer:
    """The pricing service told the price."""
    known.remember(price)
    return Answer(200, describe(price, stale=False))


def failed(product_id: str, error: grpc.RpcError, known: LastKnownPrices) -> Answer:
    """The pricing service did not tell it.

    An answer (NOT_FOUND) is passed on. An outage is hidden behind the last known price, where there is one; else a
    refusal is a 503 that says when to come back, an expired deadline a 504, anything else a 502.
    """
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return Answer(404, {"detail": str(error.details())})
    price = known.recall(product_id)
    if price is not None:
        return Answer(200, describe(price, stale=True))
    if isinstance(error, CircuitOpenError):
        return Answer(503, {"detail": explain(error)}, {"Retry-After": str(retry_after(error))})
    status = 504 if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else 502
    return Answer(status, {"detail": DETAILS[status]})  # the error's own words name hosts and ports


def states(breakers: BreakerRegistry) -> dict[str, dict[str, Any]]:
    """Every breaker's snapshot, by name. Of the last failures only the statuses: their details name hosts and ports."""
    return {
        name: {**snapshot, "last_failures": [failure["status"] for failure in snapshot["last_failures"]]}
        for name, snapshot in breakers.snapshot().items()
    }


def retry_after(refusal: CircuitOpenError) -> int:
    """The refusal's time as HTTP wants it: whole seconds, rounded up, from 1."""
    if refusal.retry_after is None:
        return RETRY_WHEN_UNTOLD
    return max(1, math.ceil(refusal.retry_after))


def describe(price: Price, *, stale: bool) -> dict[str, Any]:
    """A price as JSON. The amount is text: JSON's numbers are floating point."""
    return {
        "product_id": price.product_id,
        "price": money.text(price.amount).partition(" ")[0],
        "currency": price.amount.currency_code,
        "stale": stale,
    }
