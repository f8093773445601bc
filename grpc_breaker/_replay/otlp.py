"""Spans as OTLP/JSON: a document, or one on each line as the OpenTelemetry collector's file exporter writes them.

Only client spans of gRPC are calls. What the conventions have called things over the years is all read:

    method   rpc.service and rpc.method; or rpc.method alone, with the service; or the name of the span
    status   rpc.grpc.status_code (a number); rpc.response.status_code, rpc.status_code (a name or a number)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import Call, Notes, call_of, is_doubtful, note_doubts

if TYPE_CHECKING:
    from grpc_breaker._replay.reading import Lines

MOST_CHARACTERS: Final = 64 << 20
"""A document of many lines may have so many: it is held as a whole."""

_CLIENT: Final = frozenset({3, "3", "SPAN_KIND_CLIENT", "CLIENT"})
_ERROR: Final = frozenset({2, "2", "STATUS_CODE_ERROR"})
_STATUS_KEYS: Final = ("rpc.grpc.status_code", "rpc.response.status_code", "rpc.status_code")
_SAYS_WHO: Final = ("service.namespace", "service.name", "service.instance.id", "host.name", "process.pid")


def calls_of_documents(first: str, lines: Lines, notes: Notes) -> Iterator[tuple[Call, int]]:
    """The calls of OTLP/JSON; see `calls_of_lines`."""
    notes.sampled = True
    found = False
    for document, number in _documents(first, lines):
        for call in _calls(document, lines, notes):
            found = True
            yield call, number
    if not found:
        lines.fail("there is no client span of gRPC in it: kind 3, with rpc.system grpc, or with rpc.grpc.status_code")


def _documents(first: str, lines: Lines) -> Iterator[tuple[Any, int]]:
    """Each document, with the number of the line on which it begins."""
    begins = lines.number
    try:
        document = json.loads(first)
    except (ValueError, RecursionError):
        yield _whole(first, lines), begins
        return
    yield document, begins
    for line in lines:
        if line.isspace():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not lines.complete:
                lines.cut_off()
                return
            lines.fail(f"is not JSON: {error}")
        yield document, lines.number


def _whole(first: str, lines: Lines) -> Any:
    """One document of many lines."""
    parts, size = [first], len(first)
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > MOST_CHARACTERS:
            problem = (
                f"one document of more than {MOST_CHARACTERS} characters: write one on each line, as the collector does"
            )
            lines.fail(problem)
    try:
        return json.loads("".join(parts))
    except (ValueError, RecursionError) as error:
        lines.fail(f"is not JSON: {error}")


def _calls(document: Any, lines: Lines, notes: Notes) -> Iterator[Call]:
    """The calls in a document."""
    try:
        for resource in _list(document, "resourceSpans", "resource_spans"):
            attributes = _attributes(resource.get("resource") or {})
            who = ":".join(str(attributes[key]) for key in _SAYS_WHO if key in attributes)
            for scope in _list(resource, "scopeSpans", "scope_spans", "instrumentationLibrarySpans"):
                for span in _list(scope, "spans"):
                    call = _call(span, lines, notes)
                    if call is not None:
                        notes.process(who)
                        yield call
    except (AttributeError, TypeError) as error:  # something is of another kind than OTLP says
        lines.fail(f"is not as OTLP/JSON says: {error}")


def _call(span: dict[str, Any], lines: Lines, notes: Notes) -> Call | None:
    """The call of a span; `None` if it is none of gRPC, or not the client's."""
    if span.get("kind") not in _CLIENT:
        return None
    attributes = _attributes(span)
    status = next((attributes[key] for key in _STATUS_KEYS if key in attributes), None)
    system = attributes.get("rpc.system") or attributes.get("rpc.system.name")
    if system != "grpc" and (system is not None or "rpc.grpc.status_code" not in attributes):
        return None
    own: dict[str, Any] = span.get("status") or {}
    if status is None:
        notes.doubt("Spans without a gRPC status were played by the span's own: an error is UNKNOWN.", lines.where)
        status = "UNKNOWN" if own.get("code") in _ERROR else "OK"
    try:
        begins, ends = (_nanos(span, *names) for names in (_BEGINS, _ENDS))
        words = own.get("message") or ""
        call = call_of(begins / 1e9, _method(span, attributes), (ends - begins) / 1e9, status, details=words)
    except ValueError as error:
        lines.fail(f"span {span.get('spanId') or span.get('span_id') or ''}: {error}")
    if is_doubtful(call):
        note_doubts(call, lines.where, notes)
    return call


_BEGINS: Final = ("startTimeUnixNano", "start_time_unix_nano")
_ENDS: Final = ("endTimeUnixNano", "end_time_unix_nano")


def _nanos(span: dict[str, Any], *names: str) -> int:
    value = next((span[name] for name in names if name in span), None)
    try:
        nanos = int(str(value))
    except ValueError:
        nanos = -1
    if not 0 <= nanos < 1 << 64:
        message = f"{names[0]} must be nanoseconds since the epoch, got {printable(repr(value))[:60]}"
        raise ValueError(message)
    return nanos


def _method(span: dict[str, Any], attributes: dict[str, Any]) -> str:
    service, method = attributes.get("rpc.service"), attributes.get("rpc.method")
    if isinstance(method, str) and method:
        name = method.removeprefix("/")
        return f"{service}/{name}" if service and "/" not in name else name
    return str(span.get("name") or "").removeprefix("Sent.").removeprefix("/")


def _attributes(owner: dict[str, Any]) -> dict[str, Any]:
    """Attributes by key, of which OTLP writes integers as text.

    Raises:
        TypeError: One is none.
    """
    found: dict[str, Any] = {}
    for pair in owner.get("attributes") or ():
        value: dict[str, Any] = pair.get("value") or {}
        kind, plain = next(iter(value.items()), ("", None))
        key: Any = pair.get("key")
        if not isinstance(key, str):
            message = f"the key of an attribute must be text, got {printable(repr(key))[:60]}"
            raise TypeError(message)
        found[key] = _integer(plain) if kind in {"intValue", "int_value"} else plain
    return found


def _integer(value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        message = f"an intValue must be an integer, got {printable(repr(value))[:60]}"
        raise TypeError(message) from None


def _list(owner: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] | None = next((owner[name] for name in names if name in owner), None)
    return found or []
