"""What watched layers are called: in logs, in words; loader names as segments of logged names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lightning_featgeo.errors import ConfigurationError


@dataclass(frozen=True)
class Layer:
    """One watched layer: its name in logs (None for the first), path, in words, and the width the head takes in."""

    name: str | None
    path: str
    described: str
    width: int | None = None


def segment(name: str) -> str:
    """A module path or loader name as a segment of a logged name: ``[a-z0-9_]``."""
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "x"


def unique_segments(names: Iterable[str], what: str) -> list[str]:
    """Names as segments of logged names.

    Raises:
        ConfigurationError: if two of them become the same: their values would be averaged.
    """
    made: dict[str, str] = {}
    for name in names:
        other = made.setdefault(segment(name), name)
        if other != name or list(names).count(name) > 1:
            raise ConfigurationError(
                f"{what} {other!r} and {name!r} would both be logged as {segment(name)!r}; rename one"
            )
    return list(made)
