"""Rows that wait to be added together: thirty-two small batches cost little more than one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from lightning_featgeo.rows.rows import UNLABELLED, Rows
from lightning_featgeo.types import Float, Tensor

OTHER_COLUMNS = 48  # bytes a row: of six columns that are no features
MOST_BATCHES = 256  # that wait side by side: each is an object or ten, however small its rows are
ON_A_GPU = 16  # times the limit may wait there: handing work to it costs more than memory does
_SPARE = 2**12  # bytes that a view may keep alive beside its own


@dataclass(frozen=True)
class PlainRows:
    """Rows of which nothing is to be said but their labels: each a sample of its own, in order, and all count.

    ``label``: None where none has one; ``ignored``: the class index of those without a class. Sample i of the batch is
    number (``first`` + i) · ``ranks`` + ``rank``.
    """

    features: Float[Tensor, "n d"]
    label: Tensor | None
    ignored: int
    first: int
    ranks: int
    rank: int

    def full(self) -> Rows:
        """With all columns."""
        x = self.features
        n, device = x.shape[0], x.device
        index = torch.arange(self.first, self.first + n, device=device)
        zeros, unknown = torch.zeros_like(index), torch.full_like(index, UNLABELLED)
        label = unknown
        if self.label is not None:
            label = self.label.to(torch.int64)
            label = torch.where(label == self.ignored, UNLABELLED, label).clamp(min=UNLABELLED)
        return Rows(
            features=x, sample=index * self.ranks + self.rank, view=zeros, position=zeros, label=label,
            keep=torch.ones(n, dtype=torch.bool, device=device), group=unknown,
            target=x.new_empty(n, 0, dtype=torch.float32),
        )  # fmt: skip

    def goes_on(self, other: PlainRows) -> bool:
        """Whether another batch comes right behind this one, and both can be one."""
        return (
            other.first == self.first + len(self.features)
            and (other.label is None) == (self.label is None)
            and (other.ignored, other.ranks, other.rank) == (self.ignored, self.ranks, self.rank)
        )


@dataclass
class Waiting:
    """Batches that were seen and not yet added to anything.

    Args:
        limit: bytes that may wait; with a batch that would exceed it, all are due.
    """

    limit: int
    batches: list[Rows | PlainRows] = field(default_factory=list)
    held: int = 0

    def admits(self, rows: Rows | PlainRows) -> bool:
        """Whether these rows can wait beside those that are here: of the same type and place, and within the limit."""
        if not self.has_room_for(rows, self.held):
            return False
        return not self.batches or _kind(rows) == _kind(self.batches[-1])

    def has_room_for(self, rows: Rows | PlainRows, beside: int = 0) -> bool:
        """Whether so many rows could wait, beside so many bytes of others."""
        return beside + size_of(rows) <= self.limit * (ON_A_GPU if rows.features.is_cuda else 1)

    def add(self, rows: Rows | PlainRows) -> None:
        """Keep rows, as they are: nobody may write into them from now on."""
        if len(self.batches) >= MOST_BATCHES:
            self.batches = [_plain(self.batches) or joined(self.batches)]
        self.batches.append(rows)
        self.held += size_of(rows)

    def take(self) -> Rows | None:
        """Hand them out as one batch, in the order in which they came; None: there are none."""
        batches, self.batches, self.held = self.batches, [], 0
        return joined(batches) if batches else None

    def forget(self) -> None:
        """Let go of them."""
        self.batches, self.held = [], 0


def size_of(rows: Rows | PlainRows) -> int:
    """Bytes of the features, and of what else rows may have: the same whether they are plain, so that a resumed run
    adds the same rows together."""
    x = rows.features
    return x.numel() * x.element_size() + OTHER_COLUMNS * len(x)


def compact(rows: Rows | PlainRows) -> Rows | PlainRows:
    """Rows that keep no more memory alive than they take: a view of something larger is copied."""
    views = {name: one for name, one in vars(rows).items() if isinstance(one, Tensor) and _is_a_part(one)}
    return type(rows)(**{**vars(rows), **{name: one.clone() for name, one in views.items()}}) if views else rows


def _is_a_part(one: Tensor) -> bool:
    held = one.untyped_storage().nbytes()
    return held > _SPARE and held > 2 * one.numel() * one.element_size()


def joined(batches: Sequence[Rows | PlainRows]) -> Rows:
    """Several batches as one."""
    whole = _plain(batches)
    if whole is not None:
        return whole.full()
    parts = [one.full() if isinstance(one, PlainRows) else one for one in batches]
    if len(parts) == 1:
        return parts[0]
    return Rows(**{name: torch.cat([getattr(one, name) for one in parts]) for name in Rows.__dataclass_fields__})


def _plain(batches: Sequence[Rows | PlainRows]) -> PlainRows | None:
    """Batches of plain rows that came one after the other, as one; None: they are others."""
    plain = [one for one in batches if isinstance(one, PlainRows)]
    if len(plain) < len(batches) or not all(one.goes_on(other) for one, other in pairwise(plain)):
        return None
    if len(plain) == 1:
        return plain[0]
    labels = [one.label for one in plain if one.label is not None]
    return replace(
        plain[0], features=torch.cat([one.features for one in plain]), label=torch.cat(labels) if labels else None
    )


def copied(rows: Rows) -> Rows:
    """The same rows in memory of their own."""
    return Rows(**{name: getattr(rows, name).clone() for name in Rows.__dataclass_fields__})


def _kind(rows: Rows | PlainRows) -> tuple[object, ...]:
    x = rows.features
    if isinstance(rows, PlainRows):
        return x.dtype, x.device, x.shape[1], torch.float32, 0
    return x.dtype, x.device, x.shape[1], rows.target.dtype, rows.target.shape[1]
