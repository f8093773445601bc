"""What all clients of the shop share: their service config, and what they do with a price or without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from os import PathLike
from pathlib import Path
from typing import Any, Final

import grpc

from examples.pricing import money
from examples.pricing.v1.pricing_pb2 import GetRecommendationsRequest, GetRecommendationsResponse, Price
from grpc_breaker import BreakerRegistry, CallRefusedError

DOCUMENT: Final = Path(__file__).with_name("resilience.json")
"""What is wanted of the calls of each method: deadlines, retries, breakers, bulkheads, fallbacks."""

BESTSELLERS: Final = ("espresso-beans", "filter-papers", "milk-jug")
"""What is recommended while the pricing service recommends nothing."""

MOST_PIECES: Final = 1_000_000
"""The largest quantity of one product in a basket."""


def breakers(document: str | PathLike[str] | Mapping[str, Any] = DOCUMENT) -> BreakerRegistry:
    """A registry for one program. Services that the document does not name, such as `Trouble`, are left alone."""
    return BreakerRegistry.from_service_config(document, functions={"bestsellers": bestsellers})


def bestsellers(request: GetRecommendationsRequest, error: grpc.RpcError) -> GetRecommendationsResponse:  # noqa: ARG001 - the signature of a fallback
    """The fallback of GetRecommendations: what sells best, whatever is in the basket."""
    return GetRecommendationsResponse(product_ids=[it for it in BESTSELLERS if it not in request.product_ids])


def fallback_of(trailing_metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """What answered a call in the place of the service, "last-good" or "function"; empty if the service did."""
    return next((str(value) for key, value in trailing_metadata or () if key == "grpc-breaker-fallback"), "")


@dataclass(frozen=True, slots=True)
class Item:
    """A product and a quantity."""

    product_id: str
    quantity: int = 1

    @classmethod
    def parse(cls, text: str) -> Item:
        """Read "grinder" or "filter-papers=3".

        Raises:
            ValueError: The quantity is not a whole number from 1 to `MOST_PIECES`.
        """
        product_id, equals, quantity = text.partition("=")
        if equals and not (quantity.isdecimal() and len(quantity) < 10 and 1 <= int(quantity) <= MOST_PIECES):
            message = f"a quantity must be a whole number from 1 to {MOST_PIECES}, got {text!r}"
            raise ValueError(message)
        return cls(product_id, int(quantity) if equals else 1)


class Source(StrEnum):
    """Where a line's price comes from."""

    FRESH = "fresh"
    """The pricing service returned it just now."""
    LAST_KNOWN = "last known"
    """The pricing service returned it earlier; now the call failed or was refused."""
    UNAVAILABLE = "price unavailable"
    """The call failed or was refused, and there is no last known price."""
    NOT_SOLD = "not sold here"
    """The pricing service does not know the product."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a receipt."""

    item: Item
    source: Source
    price: Price | None = None
    why: str = ""
    """Why the price is unavailable; empty when it is not."""

    @classmethod
    def priced(cls, item: Item, price: Price, fallback: str) -> Line:
        """The line of an item that has a price: a last known one if a fallback gave it."""
        return cls(item, Source.LAST_KNOWN if fallback else Source.FRESH, price)

    @classmethod
    def failed(cls, item: Item, error: grpc.RpcError) -> Line:
        """The line of an item that has no price, not even a last known one."""
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return cls(item, Source.NOT_SOLD)
        return cls(item, Source.UNAVAILABLE, why=explain(error))

    def __str__(self) -> str:
        """The line as text."""
        cost = money.text(money.times(self.price.amount, self.item.quantity)) if self.price else "-"
        return f"{self.item.quantity:>3} x {self.item.product_id:<16} {cost:>12}  {self.source}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A priced basket."""

    lines: Sequence[Line]
    offer: str = ""
    """What the shop recommends beside it, as text."""

    @property
    def complete(self) -> bool:
        """Whether every line has a price."""
        return all(line.price is not None for line in self.lines)

    def __str__(self) -> str:
        """The receipt as text: its lines, the total, why prices are unavailable, and the offer."""
        nanos = sum(money.nanos(line.price.amount) * line.item.quantity for line in self.lines if line.price)
        label = "total" if self.complete else "total of the lines that have a price"
        reasons = dict.fromkeys(f"because: {line.why}" for line in self.lines if line.why)
        total = f"{label}: {money.text(money.from_nanos(nanos))}"
        return "\n".join([*map(str, self.lines), total, *reasons, *filter(None, [self.offer])])


def offer(response: GetRecommendationsResponse, fallback: str) -> str:
    """Recommendations as text."""
    label = "bestsellers" if fallback else "goes well with it"
    return f"{label}: {', '.join(response.product_ids)}" if response.product_ids else ""


def explain(error: grpc.RpcError) -> str:
    """Why there was no response, in a few words: a refusal says what refused the call, a failure what went wrong."""
    if isinstance(error, CallRefusedError):
        return str(error.details())
    return f"{error.code().name}: {error.details()}"
