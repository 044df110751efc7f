"""Where the rows of one call come from, and what a call was about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_featgeo.types import Tensor

BY_MEMORY, BY_CONTENT, BY_CORRELATION = "the batch's own memory", "equal content", "equal up to a scale and a shift"
BY_LIKENESS = "likeness (changed copies of the batch)"


@dataclass(frozen=True)
class Origin:
    """Where the rows of one call come from.

    Attributes:
        samples: (m,) index of each row's sample in the batch, −1 where it is none of them; None: row r is sample r.
        part: which tensor of the batch, one for all rows or one a row.
        piece: which piece of the sample (a view, a frame), one for all rows or one a row.
        rows: m.
        how: in words.
        changed: what entered is not the sample itself, but resembles it (augmented).
        is_mixed: rows are mixtures of two samples: they have no class; of all, or (m,) of each.
        span: (first, step) where samples are first, first + step, …; None where they are told one by one.
    """

    samples: Tensor | None
    part: int | Tensor
    piece: int | Tensor
    rows: int
    how: str
    changed: bool = False
    is_mixed: bool | Tensor = False
    span: tuple[int, int] | None = None

    @property
    def is_identity(self) -> bool:
        """Whether row r is sample r throughout."""
        one = isinstance(self.part, int) and isinstance(self.piece, int)
        return self.samples is None and one and not self.has_mixed

    def taken(self, rows: Tensor) -> Origin:
        """The origin of features of which these rows were taken, in this order."""
        index = torch.arange(self.rows, device=rows.device) if self.samples is None else self.samples.to(rows.device)
        part = self.part if isinstance(self.part, int) else self.part.to(rows.device)[rows]
        piece = self.piece if isinstance(self.piece, int) else self.piece.to(rows.device)[rows]
        mixed = self.is_mixed if isinstance(self.is_mixed, bool) else self.is_mixed.to(rows.device)[rows]
        return Origin(index[rows], part, piece, len(rows), self.how, self.changed, mixed)

    @property
    def has_mixed(self) -> bool:
        """Whether any row is a mixture."""
        return bool(self.is_mixed) if isinstance(self.is_mixed, bool) else bool(self.is_mixed.any())

    @property
    def unmixed(self) -> bool | Tensor:
        """Whether rows are of one sample each; of all, or (m,) of each."""
        return not self.is_mixed if isinstance(self.is_mixed, bool) else ~self.is_mixed

    @property
    def lacks_some(self) -> bool:
        """Whether rows are none of the batch's samples, beside others that are."""
        told = self.samples is not None and self.span is None and self.how != BY_MEMORY
        return told and bool((self.samples < 0).any()) if self.samples is not None else False


def main_inputs(entered: Sequence[Tensor]) -> list[Tensor]:
    """What a call was about, of all that it was given: not a time step, a length or a condition beside the input."""
    if len(entered) == 1:
        return list(entered) if entered[0].numel() and entered[0].ndim else []
    most = max((x.numel() for x in entered), default=0)
    return [x for x in sorted(entered, key=lambda x: -x.numel()) if x.ndim > 0 and 2 * x.numel() >= most > 0]
