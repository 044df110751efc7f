"""Rows that a loss leaves out although the batch has a label for them: a placeholder, or a class like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

PLACEHOLDER = (
    "the loss leaves out rows that the batch labels {label}, and not all that it labels so: {label} may stand for "
    "unknown classes. These rows have no label in training, and none has one where no loss tells. If a part of the "
    "batch marks the labelled ones, name it with mask=; if {label} is a class like others, name the labels with labels="
)
VARIED = (
    "the loss leaves out some rows, whose labels are like those of the others: they count here, too. If a part of the "
    "batch marks those that are to count, name it with mask="
)
LEAST = 8  # rows with one and the same label that tell a placeholder


@dataclass
class LeftOut:
    """What losses have told. ``label``: of all rows so far that were left out; ``are_varied``: they had several.

    Easy rows, or those of other sources, are left out as well: their labels differ, and are what they are.
    """

    label: int | None = None
    are_varied: bool = False
    rows: int = 0
    is_scored: bool = False  # whether other rows of that label were scored
    is_told: bool = False  # whether it is known which rows of the batch count

    @property
    def is_watched(self) -> bool:
        """Whether each loss is to be looked at."""
        return self.label is not None and not self.are_varied

    @property
    def are_placeholders(self) -> bool:
        """Whether these rows' label is none."""
        return self.is_watched and self.is_scored and self.rows >= LEAST and not self.is_told

    def learn(self, scored: Tensor, given: Tensor) -> bool:
        """From one batch, (n,) each: what the loss scores, and the batch's labels; −1: none. Whether more is known."""
        before, out = self.note, (scored < 0) & (given >= 0)
        if self.are_varied or self.is_told or not bool(out.any()):
            return False
        labels = given[out].unique()
        self.are_varied = len(labels) > 1 or self.label not in (None, int(labels[0]))
        self.label, self.rows = int(labels[0]), min(LEAST, self.rows + int(out.sum()))
        self.is_scored = self.is_scored or bool(((given == self.label) & (scored >= 0)).any())
        return self.note != before

    @property
    def note(self) -> str:
        """What is said of it; "" while nothing is known."""
        if self.are_varied:
            return VARIED
        return PLACEHOLDER.format(label=self.label) if self.are_placeholders else ""

    @property
    def told(self) -> tuple[int | None, bool, int, bool]:
        """What ranks have to agree on."""
        return self.label, self.are_varied, self.rows, self.is_scored

    def agree(self, others: Sequence[tuple[int | None, bool, int, bool]]) -> None:
        """As if this rank had seen what all of them have."""
        labels, varied, rows, scored = zip(*others, strict=True)
        known = [label for label in labels if label is not None]
        self.label = known[0] if known else None
        self.are_varied, self.is_scored = any(varied) or len(set(known)) > 1, any(scored)
        self.rows = min(LEAST, sum(rows))

    def of(self, scored: Tensor, given: Tensor) -> Tensor:
        """Labels of a batch that is trained on, without placeholders."""
        return torch.where(scored < 0, UNLABELLED, given) if self.are_placeholders else given
