"""Files of lines that are rotated by their size: `traffic.jsonl`, `traffic.jsonl.1` before it, and so on.

Each file begins with a header and ends with a whole line, also after a disk was full. What is written is with the
system when `write` returns: no buffer holds a part of it, which a forked child would write a second time. That, and the
header, is why this is no `logging.handlers.RotatingFileHandler`, which keeps a buffer and knows lines alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
"""On Windows a line would else end in two characters."""


class RotatedFile:
    """The file that is written to, and those before it. For one thread."""

    def __init__(self, path: Path, max_bytes: int, backups: int, header: Callable[[], str]) -> None:
        """Begin a new file; one that is there already, and not empty, becomes the first of those before it.

        Args:
            path: The file.
            max_bytes: How large a file may become.
            backups: How many files before it are kept.
            header: Makes the first line of each file.

        Raises:
            OSError: The file cannot be written.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._header = header
        self._file = -1
        self._size = 0
        self.lines = 0
        """How many lines were written."""
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        self._open()
        if self._size:
            self._rotate()
        else:
            self._begin()

    def write(self, lines: Iterable[str]) -> None:
        """Write lines, each ending in a line break; one that is longer than a file may be is left out.

        Raises:
            OSError: They could not be written, or not all of them; the file ends with a whole line.
        """
        self._begin()
        pending, size = list[bytes](), 0
        for line in lines:
            encoded = line.encode()
            if self._size + size + len(encoded) > self._max_bytes:
                self._append(pending)
                pending, size = [], 0
                self._rotate()
                if self._size + len(encoded) > self._max_bytes:
                    continue
            pending.append(encoded)
            size += len(encoded)
        self._append(pending)

    def close(self) -> None:
        """Close the file. Does nothing the second time."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _open(self) -> None:
        self._file = os.open(self._path, _FLAGS, 0o644)
        self._size = os.fstat(self._file).st_size

    def _begin(self) -> None:
        """See to it that there is an open file with a header, which a full disk may have prevented."""
        if self._file < 0:
            self._open()
        if not self._size:
            self._append([self._header().encode()])
            self.lines -= 1

    def _rotate(self) -> None:
        self.close()
        for number in reversed(range(self._backups)):
            newer = self._numbered(number)
            if newer.exists():
                newer.replace(self._numbered(number + 1))
        self._begin()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def _append(self, lines: list[bytes]) -> None:
        data, written = b"".join(lines), 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += written
        self.lines += len(lines)
