"""From files to calls: opens them, tells their formats apart, and hands on one call after the other.

1.  A file is read once, from its beginning to its end, line by line, and never held: its size does not matter.
2.  gzip is known by its first bytes, the format by the first line, never by the file's name.
3.  A file that ends in the middle of a line, or of its gzip stream, was cut off: what there is is played, with a
    warning. Anything else that cannot be read is an error with its line.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from grpc_breaker._core.log import printable
from grpc_breaker._replay.calls import Call, Notes, RecordError
from grpc_breaker._replay.csv_rows import calls_of_rows
from grpc_breaker._replay.json_lines import calls_of_lines
from grpc_breaker._replay.otlp import calls_of_documents

STDIN: Final = "-"
LONGEST_LINE: Final = 64 << 20
"""Bytes that a line, or an OTLP document of many lines, may have."""

_GZIP: Final = b"\x1f\x8b"

Located = tuple[Call, int]
"""A call and the number of its line."""


class Lines:
    """The lines of a file, with what there is to say of its end."""

    def __init__(self, source: str, stream: BinaryIO, notes: Notes) -> None:
        self.source = source
        self.number = 0
        """Of the line that was read last, from 1."""
        self.complete = True
        """Whether the line that was read last ended with a line break."""
        self._stream = stream
        self._notes = notes

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = self._stream.readline(LONGEST_LINE + 1)
        except EOFError:
            if not self.number:
                raise RecordError(self.source, None, "is cut off: its gzip stream ends before the first line") from None
            self._notes.doubt("A file is cut off: its gzip stream has no end. The rest is missing.", self.where)
            raise StopIteration from None
        except (OSError, zlib.error) as error:
            problem = f"cannot be read after this line: {getattr(error, 'strerror', None) or error}"
            raise RecordError(self.source, self.number, problem) from error
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) > LONGEST_LINE:
            raise RecordError(self.source, self.number, f"a line has more than {LONGEST_LINE} bytes")
        self.complete = line.endswith(b"\n")
        try:
            return line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            if not self.complete:
                return "\ufffd"  # half a character of half a line
            self.fail(f"is not UTF-8: {error.reason} at byte {error.start} of the line")

    @property
    def where(self) -> str:
        """The line that was read last, for people."""
        return f"{printable(self.source)}:{self.number}"

    def fail(self, problem: str) -> NoReturn:
        """Say what is wrong with the line that was read last.

        Raises:
            RecordError: That.
        """
        raise RecordError(self.source, self.number, problem) from None

    def cut_off(self) -> None:
        """Note that the last line is half of one."""
        self._notes.doubt("A file ends in the middle of a line, which is left out.", self.where)


def calls_of(path: str | PathLike[str], notes: Notes) -> Iterator[Located]:
    """The calls of a file, in the order of its lines.

    Args:
        path: The file; "-" for the standard input.
        notes: What else is to be said of it.

    Raises:
        RecordError: The file or one of its lines cannot be read, or is wrong.
    """
    source = fspath(path)
    name = "standard input" if source == STDIN else source
    try:
        opened = _opened(source)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise RecordError(name, None, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    with opened as stream:
        lines = Lines(name, _plain(stream), notes)
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise RecordError(name, None, "is empty: a record begins with a header")
        yield from _reader_of(first, lines)(first, lines, notes)


def _opened(source: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(cast("BinaryIO", sys.stdin.buffer)) if source == STDIN else Path(source).open("rb")


def _plain(stream: BinaryIO) -> BinaryIO:
    """The stream without compression."""
    buffered: Any = stream if hasattr(stream, "peek") else io.BufferedReader(cast("Any", stream))
    compressed = buffered.peek(2)[:2] == _GZIP
    return cast(
        "BinaryIO", io.BufferedReader(cast("Any", gzip.GzipFile(fileobj=buffered)), 1 << 16) if compressed else buffered
    )


def _reader_of(first: str, lines: Lines) -> Callable[[str, Lines, Notes], Iterator[Located]]:
    """What reads a file that begins with this line.

    Raises:
        RecordError: It is none that is known.
    """
    text = first.lstrip()
    if not text.startswith(("{", "[")):
        return calls_of_rows
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        if text.rstrip() in {"{", "["} or "esourceSpans" in text:
            return calls_of_documents  # of many lines
        lines.fail("is neither JSON nor a header of a CSV file")
    if isinstance(document, dict):
        keys = cast("dict[str, Any]", document)
        if "resourceSpans" in keys or "resource_spans" in keys:
            return calls_of_documents
        if "data" in keys and isinstance(keys["data"], list):
            lines.fail("looks like JSON of Jaeger's own; what is read is OTLP/JSON, with resourceSpans")
    return calls_of_lines
