"""Exact arithmetic on the proto's `Money`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from examples.pricing.v1.pricing_pb2 import Money

BILLION: Final = 1_000_000_000
CURRENCY: Final = "EUR"
"""The one currency this shop sells in."""
LARGEST: Final = 1_000_000_000
"""Units. No price is higher, so a price times any quantity of a request (an int32) fits into the proto's int64."""

_TEXT: Final = re.compile(r"-?\d+(\.\d{1,9})?", re.ASCII)
_LONGEST_TEXT: Final = 28
"""Characters: as many digits as `Decimal` keeps exactly."""


def of(text: str) -> Money:
    """An amount in the shop's currency, from decimal text: `of("12.50")`.

    Raises:
        ValueError: The text is not a decimal number, has more than nine decimals, or is above `LARGEST` units.
    """
    total = int(Decimal(text).scaleb(9)) if _TEXT.fullmatch(text) and len(text) < _LONGEST_TEXT else None
    if total is None or abs(total) > LARGEST * BILLION:
        message = f"an amount of money must be a decimal number such as 12.50, got {text!r}"
        raise ValueError(message)
    return from_nanos(total)


def is_proper(amount: Money) -> bool:
    """Whether an amount is valid: in the shop's currency, from 0 to `LARGEST` units, its nanos below a unit."""
    return amount.currency_code == CURRENCY and 0 <= amount.units <= LARGEST and 0 <= amount.nanos < BILLION


def nanos(amount: Money) -> int:
    """The whole amount in billionths of a unit, as one exact integer."""
    return amount.units * BILLION + amount.nanos


def from_nanos(total: int) -> Money:
    """The amount of this many billionths of a unit; units and nanos have the same sign."""
    units, rest = divmod(abs(total), BILLION)
    sign = -1 if total < 0 else 1
    return Money(currency_code=CURRENCY, units=sign * units, nanos=sign * rest)


def times(amount: Money, quantity: int) -> Money:
    """The amount, multiplied by a quantity."""
    return from_nanos(nanos(amount) * quantity)


def text(amount: Money) -> str:
    """The amount as text with at least two decimals: "12.50 EUR"."""
    exact = Decimal(nanos(amount)) / BILLION
    rounded = exact.quantize(Decimal("0.01"))
    return f"{rounded if rounded == exact else exact.normalize()} {amount.currency_code}"
