"""What a batch came to: rows, one part a forward call."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_featgeo.rows.rows import Rows
from lightning_featgeo.rows.waiting import PlainRows


@dataclass(frozen=True)
class Assembled:
    """A batch's rows, one part a forward call.

    ``samples``: how many the batch has. ``present``: of "labels", "targets", "views", "groups", what it brings; and
    "tokens" if each row is one, of no class but a vocabulary's.
    """

    parts: list[Part]
    samples: int
    present: frozenset[str]


@dataclass(frozen=True)
class Part:
    """Rows of one forward call, and whether any can be of view 0 (known without asking the device)."""

    given: Rows | PlainRows
    may_hold_first_view: bool

    @property
    def rows(self) -> Rows:
        """With all columns."""
        return self.given.full() if isinstance(self.given, PlainRows) else self.given
