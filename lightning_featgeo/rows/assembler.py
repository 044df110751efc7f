"""From what a tap caught and what the batch says to rows that know their sample, view and label.

Two views of an image must not become two samples: ``layouts`` says which is which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.cuda_ext.reference import EMPTY_PRIORITY
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.batches import Selector, batch_size, find_groups, find_mask, summarize
from lightning_featgeo.rows.draw import priorities
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.pooling import ALL_TOKENS, Pooled, Tokens, infer, pool_rows
from lightning_featgeo.rows.rows import UNLABELLED, Rows, build_rows
from lightning_featgeo.rows.view_grammar import Views
from lightning_featgeo.rows.views import Layouts
from lightning_featgeo.types import Tensor


@dataclass
class RowAssembler:
    """Turns one batch's calls into rows, always in the same way; the choices it made are there to be printed.

    Args:
        pool: a pooling name or pattern; None infers it from the first batch.
        labels: what reads a batch's labels.
        mask: selector (see ``batches``).
        views: "auto", the number of views stacked in a call (2 or "2 b": view after view; "b 2": sample by sample),
            "v b" or "b v" (the same, the number told by the batch), a callable on the batch giving each row's view, or
            None (every call brings new samples).
        groups: selector of what should not matter (site, scanner); no "auto".
        width: what the head takes in, if known: tells channels-first from channels-last.
        tokens: with ``pool="tokens"``, which of them count.
        seed: of the draw of tokens.
    """

    pool: str | None = None
    labels: LabelReader = field(default_factory=LabelReader)
    mask: Selector = "auto"
    views: Views = "auto"
    groups: Selector = None
    width: int | None = None
    tokens: Tokens = ALL_TOKENS
    seed: int = 0
    chosen_pool: str | None = None
    notes: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layouts = Layouts(self.views, self.notes)

    def assemble(
        self,
        calls: list[Tensor],
        batch: Any,
        first_sample: int,
        ranks: Ranks | None = None,
        count_fresh: Callable[[int], int | None] | None = None,
    ) -> Assembled:
        """Rows of each call, how many samples the batch has, and what else it brings.

        Args:
            calls: what was caught, a tensor a forward call.
            batch: what the step got.
            first_sample: samples of this rank before this batch.
            ranks: rank r of W numbers its samples r, r + W, …, so that no two ranks share a number.
            count_fresh: of so many samples, how many from the start count; those behind them are repeats. None: all.

        Raises:
            ConfigurationError: if a selector, a pattern or the mask doesn't fit.
        """
        labels, targets = self.labels.read(batch)
        self.notes.update(self.labels.notes)
        groups = find_groups(batch, self.groups)
        size = self._samples(calls, labels, batch)
        pooled = [self._pool(call, labels, batch) for call in calls]
        if self.layouts.is_flattened([p.inputs for p in pooled], size, labels):
            size, (labels, targets, groups) = self.layouts.once_a_sample(size, labels, targets, groups)
        targets = None if targets is None or targets.shape[0] != size else targets
        device = pooled[0].rows.device if pooled else torch.device("cpu")
        layouts = self.layouts.of([p.inputs for p in pooled], size, batch, device, labels is not None)
        ranks, fresh = ranks or Ranks.alone(), None if count_fresh is None else count_fresh(size)
        parts: list[Part] = []
        present = {"targets"} if targets is not None else set()
        present |= {"tokens"} if self.chosen_pool == "tokens" else set()
        present |= {"groups"} if groups is not None else set()
        present |= {"views"} if len(layouts) > 1 and not all(one.may_hold_first_view for one in layouts) else set()
        for part, layout in zip(pooled, layouts, strict=True):
            origin, view = layout.origin[part.sample], layout.view[part.sample]
            label = None if labels is None else self._labels_of(part, labels.to(device), origin)
            present |= {"labels"} if label is not None else set()
            present |= {"views"} if layout.several_views else set()
            known = origin >= 0
            at = torch.where(known & (origin < size), origin, 0)
            keep = part.keep
            if fresh is not None and fresh < size:
                keep = origin < fresh if keep is None else keep & (origin < fresh)
            number = torch.where(known, first_sample + origin, first_sample + part.sample) * ranks.size + ranks.rank
            keep = self._drawn(number, part, keep)
            rows = build_rows(
                part.rows,
                labels=label,
                # Samples nobody can place get numbers below zero: distinct, and never of one group.
                sample_index=torch.where(known, number, -1 - number),
                view=view,
                position=part.position,
                keep=keep,
                targets=None if targets is None else _where_known(known, targets.to(device), at),
                groups=None if groups is None else torch.where(known, groups.to(device)[at], UNLABELLED),
            )
            parts.append(Part(rows, layout.may_hold_first_view))
        return Assembled(parts, size, frozenset(present))

    def _drawn(self, number: Tensor, part: Pooled, keep: Tensor | None) -> Tensor | None:
        """Which tokens count where only so many of a sequence do: those with the smallest hashes of their place."""
        most, length = self.tokens.per_sequence, len(number) // max(1, part.inputs)
        if most is None or self.chosen_pool != "tokens" or length <= most:
            return keep
        order = priorities(number, part.position, self.seed + 1)  # not the bank's own draw
        order = order if keep is None else torch.where(keep, order, EMPTY_PRIORITY)
        order = order.reshape(part.inputs, length)
        # not kthvalue: on CUDA it is an error under torch.use_deterministic_algorithms(True)
        last = order.topk(most, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
        drawn = (order <= last).reshape(-1)
        return drawn if keep is None else drawn & keep

    def _samples(self, calls: list[Tensor], labels: Tensor | None, batch: Any) -> int:
        if self.views is None:
            return sum(int(call.shape[0]) for call in calls)
        if labels is not None:
            return int(labels.shape[0])
        known = batch_size(batch)
        return known if known is not None else (int(calls[0].shape[0]) if calls else 0)

    def _pool(self, call: Tensor, labels: Tensor | None, batch: Any) -> Pooled:
        if self.chosen_pool is None:
            tokens = labels is not None and labels.ndim == 2 and call.ndim == 3 and labels.shape[1] == call.shape[1]
            self._refuse_time_first(call, labels, batch)
            self.chosen_pool = self.pool or infer(tuple(call.shape), self.width, tokens)
        mask = find_mask(batch, self.mask) if call.ndim == 3 else None
        if self.mask == "auto" and mask is not None and mask.shape != call.shape[:2]:
            told = f"the mask {summarize(mask)} does not fit tokens {tuple(call.shape[:2])}: padding counts too"
            self.notes[told], mask = None, None
        if self.tokens.skip and (call.ndim != 3 or "->" in self.chosen_pool):
            self.notes[
                f"Tokens(skip={self.tokens.skip}): features of shape {tuple(call.shape)} are not taken as tokens, so "
                "none is ignored"
            ] = None
        return pool_rows(call, self.chosen_pool, mask, self.tokens.skip)

    def _refuse_time_first(self, call: Tensor, labels: Tensor | None, batch: Any) -> None:
        """(t, b, d) as an LSTM makes it would be pooled over the batch and its labels mixed, in silence."""
        size = batch_size(batch) if labels is None else int(labels.shape[0])
        views = bool(size) and call.ndim == 3 and call.shape[0] % max(1, size or 1) == 0
        if self.pool is None and call.ndim == 3 and size is not None and not views and size == call.shape[1]:
            raise ConfigurationError(
                f"features are {tuple(call.shape)} and the batch has {size} samples: axis 1 seems to be the batch. "
                "Paste: FeatureGeometryMonitor(pool='t b d -> b d')"
            )

    def _labels_of(self, pooled: Pooled, labels: Tensor, origin: Tensor) -> Tensor | None:
        """The label of each row, or None where the labels are not one class a row."""
        if labels.ndim == 2 and self.chosen_pool == "tokens" and labels.numel() == len(pooled.rows):
            return labels.reshape(-1)
        if labels.ndim != 1:
            self.notes[f"labels {summarize(labels)} are not one class a row: they are left out"] = None
            return None
        if labels.numel() == 0:
            return torch.full_like(origin, UNLABELLED)
        known = (origin >= 0) & (origin < len(labels)) if self.views is None else origin >= 0
        return torch.where(known, labels[origin.clamp(0, len(labels) - 1)], UNLABELLED)


@dataclass(frozen=True)
class Assembled:
    """A batch's rows, one part a forward call.

    ``samples``: how many the batch has. ``present``: of "labels", "targets", "views", "groups", what it brings; and
    "tokens" if each row is one.
    """

    parts: list[Part]
    samples: int
    present: frozenset[str]


@dataclass(frozen=True)
class Part:
    """Rows of one forward call, and whether any can be of view 0 (known without asking the device)."""

    rows: Rows
    may_hold_first_view: bool


def _where_known(known: Tensor, targets: Tensor, at: Tensor) -> Tensor:
    """Each row's target as (n, t); NaN where it can't be told."""
    table = targets[:, None] if targets.ndim == 1 else targets
    found = table[at] if len(table) else table.new_zeros(len(at), table.shape[1])
    return torch.where(known[:, None], found, torch.nan)
