"""Layouts: which sample of the batch each input of a forward call shows, and which view of it.

Each call of the batch's size is a view; a call of v times that size holds v stacked views; calls that add up to the
batch are its pieces; and a batch may itself hold each sample once a view. Two views that are taken for two samples are
each other's neighbours, and every dimension and density curve collapses: what is said and can't be is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.view_grammar import Views, parse_views
from lightning_featgeo.types import Tensor


@dataclass(frozen=True)
class Layout:
    """Per input of a call: which sample of the batch it shows (−1: can't be told), and which view of it.

    ``keep``: False for inputs that are no sample of the batch; None: all are.
    """

    origin: Tensor
    view: Tensor
    may_hold_first_view: bool
    several_views: bool
    keep: Tensor | None = None


@dataclass
class Layouts:
    """Finds the layout of each call, in the same way in every batch.

    Args:
        views: as ``RowAssembler`` takes it.
        notes: what was assumed, to be printed.
        is_classifier: the layer feeds a classifier: rows beyond the batch's samples are none of them.
    """

    views: Views = "auto"
    notes: dict[str, None] = field(default_factory=dict)
    is_classifier: bool = False
    flattened: bool | None = None

    def __post_init__(self) -> None:
        self.said = parse_views(self.views)

    def of(self, sizes: list[int], size: int, batch: Any, device: torch.device, labelled: bool) -> list[Layout]:
        """Where each call's inputs come from. Made on the rows' device: nothing is copied to it, nothing waits."""
        total = sum(sizes)
        if self.said.of_batch is not None:
            given = torch.as_tensor(self.said.of_batch(batch), device=device)
            if given.shape != (total,):
                raise ConfigurationError(
                    f"views(batch) must give one integer a row, {total} in all, got shape {tuple(given.shape)}"
                )
            parts = given.to(torch.int64).split(sizes)
            return [
                Layout(self._cycle(n, size, device), view, True, True) for n, view in zip(sizes, parts, strict=True)
            ]
        in_pieces = self.said.is_none or (len(sizes) > 1 and total == size)
        if len(sizes) > 1 and not in_pieces:
            self.notes[
                f"{len(sizes)} calls in a batch are taken as views of the same samples; signals of one view use the "
                "first"
            ] = None
        self._refuse_halved_views(sizes, size, labelled)
        samples = self._samples_a_view(sizes, size)
        layouts: list[Layout] = []
        before = first_view = 0
        for n in sizes:
            index = torch.arange(n, device=device)
            if in_pieces:
                layouts.append(Layout(before + index, torch.zeros_like(index), True, False))
            else:
                per_view = max(1, samples)
                origin = self._cycle(n, per_view, device)
                view = first_view + torch.where(origin >= 0, index // per_view, 0)
                if self.said.by_sample and n % per_view == 0:
                    origin, view = index // (n // per_view), first_view + index % (n // per_view)
                elif self.said.is_auto and self.is_classifier and n > per_view and n % per_view == 0:
                    self.notes[
                        f"a call of the classifier holds {n} rows for {size} samples: the first {size} count. If they "
                        "are views, say so with views="
                    ] = None
                    layouts.append(Layout(origin, torch.zeros_like(view), True, False, index < per_view))
                    before += n
                    continue
                elif self.said.is_auto and n > per_view and n % per_view == 0:
                    self.notes[
                        f"{n} rows for {size} samples are taken as {n // per_view} views, one after the other; if "
                        'the views of a sample lie next to each other, give views="b v"'
                    ] = None
                layouts.append(Layout(origin, view, first_view == 0, n > per_view))
                first_view += max(1, n // per_view)
            before += n
        return layouts

    def _samples_a_view(self, sizes: list[int], size: int) -> int:
        """The batch's samples; where only the views' number tells, those of the first call: later ones may be crops."""
        count = self.said.count
        if count is None or not sizes or any(n == count * size for n in sizes) or sizes[0] % count:
            return size
        return sizes[0] // count

    def is_flattened(self, sizes: list[int], size: int, labels: Tensor | None) -> bool:
        """Whether the batch itself holds each sample once a view, labels and all. Looked at in the first batch."""
        count, by_sample = self.said.count, self.said.by_sample
        if count is None or count < 2 or not sizes or sizes[0] != size or size == 0 or size % count:
            return False
        if any(n % (size // count) for n in sizes):  # crops come as multiples of it
            return False
        if self.flattened is None and labels is not None and labels.ndim == 1:
            views = labels.reshape(-1, count).T if by_sample else labels.reshape(count, -1)
            self.flattened = bool((views == views[:1]).all())
        if labels is None:
            return len(sizes) == 1 or any(n != size for n in sizes)  # calls that are all alike: each may be a view
        return bool(self.flattened)

    def once_a_sample(self, size: int, *columns: Tensor | None) -> tuple[int, list[Tensor | None]]:
        """What a flattened batch brings, once a sample."""
        count, by_sample = self.said.count, self.said.by_sample
        assert count is not None
        pick = slice(None, None, count) if by_sample else slice(0, size // count)
        return size // count, [None if column is None else column[pick] for column in columns]

    def _refuse_halved_views(self, sizes: list[int], size: int, labelled: bool) -> None:
        """Views that are said to be stacked in a call of the batch's own size aren't."""
        count = self.said.count
        as_many = size > 0 and bool(sizes) and all(n == size for n in sizes)
        if as_many and self.said.stacked and count is None:
            number = "b 2" if self.said.by_sample else "2 b"
            raise ConfigurationError(
                f"views={self.views!r} says that a call stacks views, but it has as many rows as the batch has samples "
                f"({size}). If the batch itself holds each sample twice, say so with views={number!r}; if each call is "
                'a view, with views="auto"'
            )
        if as_many and count is not None and count > 1 and (labelled or len(sizes) > 1):
            raise ConfigurationError(
                f"views={self.views!r} says that a call stacks {count} views of each sample, but a call has {size} "
                f'rows and the batch {size} samples with labels of their own; views="auto" takes each call as a view'
            )

    def _cycle(self, n: int, size: int, device: torch.device) -> Tensor:
        """0…size−1 again and again; −1 throughout if n rows are no multiple of that."""
        if size > 0 and n % size == 0:
            return torch.arange(n, device=device) % size
        self.notes[f"{n} rows can't be divided by the batch's {size} samples: they are treated as unlabelled"] = None
        return torch.full((n,), -1, device=device)
