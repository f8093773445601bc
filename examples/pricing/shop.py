"""What all clients of the shop share: the policies of their breakers, and what they do with a price or without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import grpc

from examples.pricing import money
from examples.pricing.v1.pricing_pb2 import Price
from grpc_breaker import BreakerPolicy, BreakerRegistry, CircuitOpenError

PATIENCE: Final = 0.5
"""Seconds to wait for one price: the deadline of each unary call."""

MOST_PIECES: Final = 1_000_000
"""The largest quantity of one product in a basket."""

POLICIES: Final = {
    # Each method of the service has a breaker of its own with this policy.
    "pricing.v1.Pricing": BreakerPolicy(consecutive_failures=5, failure_rate=0.5, minimum_calls=20, reset_timeout=10.0),
    # Price lists are uploaded rarely. A few failures in a row must be enough, and one success proves recovery.
    "pricing.v1.Pricing/UploadPrices": BreakerPolicy(consecutive_failures=2, half_open_max_calls=1),
}


def breakers() -> BreakerRegistry:
    """A registry for one program. Services without a policy, such as `pricing.v1.Trouble`, have no breaker."""
    return BreakerRegistry(POLICIES, default=None)


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
    """The pricing service returned it earlier; the call failed now."""
    UNAVAILABLE = "price unavailable"
    """The call failed, and no earlier one returned a price."""
    NOT_SOLD = "not sold here"
    """The pricing service does not know the product."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a receipt."""

    item: Item
    source: Source
    price: Price | None = None
    why: str = ""
    """Why the price is not fresh; empty when it is."""

    def __str__(self) -> str:
        """The line as text."""
        cost = money.text(money.times(self.price.amount, self.item.quantity)) if self.price else "-"
        return f"{self.item.quantity:>3} x {self.item.product_id:<16} {cost:>12}  {self.source}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """A priced basket."""

    lines: Sequence[Line]

    @property
    def complete(self) -> bool:
        """Whether every line has a price."""
        return all(line.price is not None for line in self.lines)

    def __str__(self) -> str:
        """The receipt as text: its lines, the total, and why prices are not fresh."""
        nanos = sum(money.nanos(line.price.amount) * line.item.quantity for line in self.lines if line.price)
        label = "total" if self.complete else "total of the lines that have a price"
        reasons = dict.fromkeys(f"because: {line.why}" for line in self.lines if line.why)
        return "\n".join([*map(str, self.lines), f"{label}: {money.text(money.from_nanos(nanos))}", *reasons])


@dataclass(slots=True)
class LastKnownPrices:
    """The last price of each product that the service returned. Safe between threads: single reads and writes."""

    _prices: dict[str, Price] = field(default_factory=dict[str, Price])

    def remember(self, price: Price) -> None:
        """Keep a price that the service returned."""
        self._prices[price.product_id] = price

    def recall(self, product_id: str) -> Price | None:
        """The last price that the service returned; `None` if it never did."""
        return self._prices.get(product_id)

    def fresh(self, item: Item, price: Price) -> Line:
        """The line of an item whose price the service has just returned."""
        self.remember(price)
        return Line(item, Source.FRESH, price)

    def failed(self, item: Item, error: grpc.RpcError) -> Line:
        """The line of an item whose price the service did not return."""
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return Line(item, Source.NOT_SOLD)
        price = self.recall(item.product_id)
        return Line(item, Source.LAST_KNOWN if price else Source.UNAVAILABLE, price, explain(error))


def explain(error: grpc.RpcError) -> str:
    """Why there was no response, in a few words: a refusal says when the next probe is, a failure what went wrong."""
    if isinstance(error, CircuitOpenError):
        return str(error.details())
    return f"{error.code().name}: {error.details()}"
