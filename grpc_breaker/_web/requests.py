"""Which requests to the page are refused, and what the accepted ones order.

The page is on loopback, where every page of every site in the operator's browser, and every user of the machine, can
send requests to it. So each request must name this server as its host (or else a site whose name was bound anew to
127.0.0.1 could read the answers), must not come from another origin, and must show the token of this run in a header,
which other sites can neither know nor send. What changes something is sent by POST as JSON.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final, cast

TOKEN: Final = "X-Breaker-Token"  # noqa: S105 - the name of a header
LONGEST_BODY: Final = 4096
LONGEST_NAME: Final = 1000
LONGEST_REASON: Final = 200
LONGEST_TTL: Final = 7 * 24 * 3600.0
ORDERS: Final = ("force-open", "disable", "reset")
_UNNAMED: Final = 80
"""The port that browsers leave out."""
_FIELDS: Final = {"force-open": {"name", "ttl", "reason"}, "disable": {"name", "ttl", "reason"}, "reset": {"name"}}


class RefusedError(Exception):
    """A request is refused, with an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Order:
    """What is done to a breaker."""

    what: str
    """One of `ORDERS`."""
    name: str
    ttl: float = 0.0
    """For how many seconds."""
    reason: str = ""


def check_origin(headers: Message[str, str], port: int, *, changes: bool) -> None:
    """See that a request is for this server, and from this page or from no page at all.

    Raises:
        RefusedError: It is not.
    """
    names = {"127.0.0.1", "localhost", "[::1]"}
    hosts = {f"{name}:{port}" for name in names}
    if port == _UNNAMED:
        hosts |= names
    host, origin = headers.get("Host", ""), headers.get("Origin")
    if host.lower() not in hosts:
        raise RefusedError(403, f"this server is 127.0.0.1:{port} and no other; the request was for {host!r}")
    if origin is None:
        if changes:
            raise RefusedError(403, "a request that changes something must say where it comes from (Origin)")
    elif origin != f"http://{host}":
        raise RefusedError(403, f"requests from {origin!r} are refused")


def check_token(headers: Message[str, str], token: str) -> None:
    """See that a request shows the token of this run.

    Raises:
        RefusedError: It does not.
    """
    if not hmac.compare_digest(headers.get(TOKEN, "").encode("utf-8", "replace"), token.encode()):
        raise RefusedError(403, f"the header {TOKEN} is missing or wrong; open the address that the command printed")


def body_length(headers: Message[str, str]) -> int:
    """How long the body of a POST is.

    Raises:
        RefusedError: It is no JSON, too long, or of unknown length.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, f"the body must be application/json, got {kind!r}")
    length = headers.get("Content-Length", "")
    if not (length.isascii() and length.isdigit()):
        raise RefusedError(411, "the length of the body must be said (Content-Length)")
    if len(length) > 9 or int(length) > LONGEST_BODY:
        raise RefusedError(413, f"the body must have at most {LONGEST_BODY} bytes")
    return int(length)


def read_order(what: str, body: bytes) -> Order:
    """What a POST orders.

    Raises:
        RefusedError: Something is wrong with it; the message says everything that is.
    """
    data: Any
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is no JSON") from None
    if not isinstance(data, dict):
        raise RefusedError(400, "the body must be a JSON object")
    fields = cast("dict[str, Any]", data)
    wrong = [f"unknown field {field!r:.50}" for field in sorted(fields.keys() - _FIELDS[what])]
    name, reason, ttl = (fields.get(it) for it in ("name", "reason", "ttl"))
    if not _is_text(name, LONGEST_NAME):
        wrong.append(f"name must be a text of 1 to {LONGEST_NAME} characters")
    if what != "reset":
        if not _is_text(reason, LONGEST_REASON):
            wrong.append(f"reason must be a text of 1 to {LONGEST_REASON} characters")
        if not _is_time(ttl):
            wrong.append(f"ttl must be a number of seconds above 0 and at most {LONGEST_TTL:.0f}")
    if wrong:
        raise RefusedError(400, "; ".join(wrong))
    return Order(what, str(name)) if what == "reset" else Order(what, str(name), float(cast("float", ttl)), str(reason))


def _is_text(value: Any, longest: int) -> bool:
    """Whether it is a text that is not blank, and that UTF-8 can carry."""
    if not (isinstance(value, str) and value.strip() and len(value) <= longest):
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= LONGEST_TTL  # false for what is not a number, or has too many digits for a float
