"""A file of lines that is only appended to, and that a crash or a full disk can't damage."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class LineFile:
    """Appends whole lines. What could not be written waits, and is tried again with the next line.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[str] = []

    @property
    def waiting(self) -> int:
        """Lines that are not on disk yet."""
        return len(self._waiting)

    def append(self, line: str) -> OSError | None:
        """Write what waits and this line, which has no end of its own; returns what kept them from it."""
        self._waiting.append(line + "\n")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write("".join(self._waiting).encode())
        except OSError as error:
            return error
        self._waiting.clear()
        return None

    def _write(self, data: bytes) -> None:
        """All of it or nothing, and never behind half a line: one cut by a crash would take ours with it."""
        with self.path.open("ab+", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            if start:
                file.seek(-1, os.SEEK_END)
                data = data if file.read(1) == b"\n" else b"\n" + data
            done = 0
            try:
                while done < len(data):
                    done += file.write(data[done:]) or 0
            except OSError:
                with contextlib.suppress(OSError):
                    if os.fstat(file.fileno()).st_size == start + done:  # nobody else has written behind it
                        file.truncate(start)
                raise
