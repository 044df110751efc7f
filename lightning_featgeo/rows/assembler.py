"""From what a tap caught and what the batch says to rows that know their sample, view and label.

Two views of an image must not become two samples: ``layouts`` says which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.assembled import Assembled, Part
from lightning_featgeo.rows.batches import Selector, batch_size, find_groups
from lightning_featgeo.rows.calls import MIXED, REORDERED, Call, grows, joined
from lightning_featgeo.rows.chosen import Chosen, refuse_parts
from lightning_featgeo.rows.draw import by_id, drawn
from lightning_featgeo.rows.evidence import Evidence
from lightning_featgeo.rows.grouped import NOTE, ungrouped
from lightning_featgeo.rows.label_rows import fitting, labels_of, targets_of
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.masks import MaskReader
from lightning_featgeo.rows.places import arranged
from lightning_featgeo.rows.pooling import ALL_TOKENS, Pooled, Tokens, pool_rows, usual_pool
from lightning_featgeo.rows.role import ATTRIBUTE, USUAL_ROLE, Role, is_attribute
from lightning_featgeo.rows.rows import UNLABELLED, build_rows
from lightning_featgeo.rows.scoring import Scoring
from lightning_featgeo.rows.splits import of_stage
from lightning_featgeo.rows.usual import Usual, learned
from lightning_featgeo.rows.view_grammar import Views
from lightning_featgeo.rows.views import Layout, Layouts
from lightning_featgeo.types import Tensor

MOST_PARTS = 32  # tensors of a batch that are compared


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
        role: what the watched layer is in its model.
        scoring: what losses tell of its rows' labels; None: it is not what the head reads.
    """

    pool: str | None = None
    labels: LabelReader = field(default_factory=LabelReader)
    mask: Selector = "auto"
    views: Views = "auto"
    groups: Selector = None
    width: int | None = None
    tokens: Tokens = ALL_TOKENS
    seed: int = 0
    role: Role = USUAL_ROLE
    scoring: Scoring | None = None
    chosen_pool: str | None = None
    notes: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layouts = Layouts(self.views, self.notes, self.role.is_classifier)
        self.evidence = Evidence(self.notes, self.role)
        self._usual: Usual | None = None
        self.unlabelled = ""  # why rows were given no label
        self._version = 0  # of what losses tell, as it was last read in full
        self.masks = MaskReader(self.mask, self.notes, self.role.decodes)

    def assemble(
        self,
        calls: Sequence[Call | Tensor],
        batch: Any,
        first_sample: int,
        ranks: Ranks | None = None,
        count_fresh: Callable[[int], int | None] | None = None,
        ids: Tensor | None = None,
    ) -> Assembled:
        """Rows of each call, how many samples the batch has, and what else it brings.

        Args:
            calls: what was caught, one a forward call.
            batch: what the step got.
            first_sample: samples of this rank before this batch.
            ranks: rank r of W numbers its samples r, r + W, …, so that no two ranks share a number.
            count_fresh: of so many samples, how many from the start count; those behind them are repeats. None: all.
            ids: (samples,) what numbers the batch's samples instead.

        Raises:
            ConfigurationError: if a selector, a pattern or the mask doesn't fit, or nobody knows what the rows are.
        """
        stale = self.scoring is not None and self._version != self.scoring.version
        usual, ranks = None if ids is not None or stale else self._usual, ranks or Ranks.alone()
        rows = None if usual is None else usual.again(calls, batch, first_sample, ranks, count_fresh)
        if usual is None or rows is None:
            return self._in_full(calls, batch, first_sample, ranks, count_fresh, ids)
        self.evidence.batches += 1
        return Assembled([Part(rows, True)], len(rows.features), usual.present)

    def _in_full(
        self, calls: Sequence[Call | Tensor], batch: Any, first_sample: int, ranks: Ranks,
        count_fresh: Callable[[int], int | None] | None, ids: Tensor | None,
    ) -> Assembled:  # fmt: skip
        if self.scoring is not None:
            self.scoring.begin(self.labels)
        labels, targets = self.labels.read(batch)
        groups = find_groups(batch, self.groups)
        size = batch_size(batch) if self.pool == "tokens" else None
        chosen = [arranged(one, self.pool, size, self.role) for one in calls]
        if self.scoring is not None:
            chosen, labels = self.scoring.see(chosen, labels, batch, self.labels, self.role.trains)
        self.notes.update(self.labels.notes)
        if self.layouts.said.is_auto and grows(chosen):
            self.notes[f"{len(chosen)} calls, each one place longer (a decoder generates?): the last one counts"] = None
            chosen = chosen[-1:]
        elif self.layouts.said.is_auto and (whole := joined(chosen)) is not None:
            self.notes[f"{len(chosen)} calls of one place each (a decoder goes step by step?) are one sequence"] = None
            chosen = [whole]
        named = self.pool is not None or self.labels.is_named
        if labels is not None and not named and is_attribute(self.role, labels, [one.features for one in chosen]):
            labels, self.labels.ignored, self.notes[ATTRIBUTE] = None, True, None
        tensors = [(path, t) for path, t in tree.tensors(batch) if t.ndim > 0][:MOST_PARTS]
        size = self._samples(chosen, labels, batch)
        apart = ungrouped(labels, tensors, chosen, self.role) if self.layouts.said.is_auto else None
        if apart is not None:
            (labels, size, tensors), self.notes[NOTE] = apart, None
        found = self._choose(chosen, tensors, batch, labels, size)
        if any(one.call.is_reordered for one in found) and labels is not None:
            self.notes[REORDERED], self.unlabelled = None, REORDERED
            targets = groups = None
        if any(one.call.is_mixed for one in found):
            self.notes[MIXED], self.unlabelled = None, MIXED
        others = self._other_samples(found, tensors, size)
        if others is not None:
            size, labels, targets, groups = others, None, None, None
        pooled = [self._pool(one, labels, batch) for one in found]
        inputs = [p.inputs for p in pooled]
        if self.layouts.said.is_auto:
            for one, n in zip(found, inputs, strict=True):
                refuse_parts(n, one.call, size, one.origin is None, ranks.size)
        if self.layouts.is_flattened(inputs, size, labels):
            size, (labels, targets, groups) = self.layouts.once_a_sample(size, labels, targets, groups)
        targets = fitting(targets, size, self.labels.awaits_mixtures and self.role.trains and labels is not None)
        own = self._own_samples(batch, tensors, size)
        device = pooled[0].rows.device if pooled else torch.device("cpu")
        layouts = self._layouts(found, inputs, size, batch, device, labels is not None)
        fresh = None if count_fresh is None else count_fresh(size)
        parts: list[Part] = []
        present = {self.labels.meaning} if targets is not None else set()
        present |= {"tokens"} if self.chosen_pool == "tokens" and not self._classifies_tokens(labels) else set()
        present |= {"groups"} if groups is not None else set()
        present |= {"views"} if len(layouts) > 1 and not all(one.may_hold_first_view for one in layouts) else set()
        for one, part, layout in zip(found, pooled, layouts, strict=True):
            origin, view = layout.origin[part.sample], layout.view[part.sample]
            label = None
            if labels is not None:
                known_as = self.chosen_pool, self.notes, self.views is None, self.labels.stated
                label = labels_of(part, labels.to(device), origin, layout.origin, *known_as)
            read = label = None if label is None else one.labels(label, part.sample)
            if label is not None and self.scoring is not None:
                self.scoring.left_out.is_told = own is not None
                label = self.scoring.labels(one, part, label, self.labels, self.role.trains)
                self.unlabelled = self.scoring.withheld or self.unlabelled
            present |= {"labels"} if label is not None else set()
            present |= {"views"} if layout.several_views else set()
            known = (origin >= 0) & (not (one.call.is_reordered or one.call.is_mixed))
            at = torch.where(known & (origin < size), origin, 0)
            told = known | ((origin >= 0) & (self.labels.names_mixtures and not one.call.is_reordered))
            keep = part.keep
            if layout.keep is not None:
                keep = layout.keep[part.sample] if keep is None else keep & layout.keep[part.sample]
            if fresh is not None and fresh < size:
                keep = origin < fresh if keep is None else keep & (origin < fresh)
            if own is not None:
                of_others = known & ~own.to(device)[at]
                keep = ~of_others if keep is None else keep & ~of_others
            lost = (one.call.is_reordered or one.call.is_mixed) and not one.call.scored  # then nobody knows which
            if read is not None and labels is not None and labels.ndim == 2 and not lost:
                mine = label if one.call.is_reordered and label is not None else read
                keep = mine >= 0 if keep is None else keep & (mine >= 0)  # tokens: the loss reads no others
            number = (first_sample + torch.where(known, origin, part.sample)) * ranks.size + ranks.rank
            number = number if ids is None else by_id(number, at, known, size, ids)
            if self.chosen_pool == "tokens" or part.grouped:
                keep = drawn(number, part.position, keep, part.inputs, self.tokens.per_sequence, self.seed + 1)
            rows = build_rows(
                part.rows,
                labels=label,
                # Samples nobody can place get numbers below zero: distinct, and never of one group.
                sample_index=torch.where(known, number, -1 - number),
                view=view,
                position=part.position,
                keep=keep,
                targets=None if targets is None else targets_of(told, targets.to(device), origin),
                groups=None if groups is None else torch.where(known, groups.to(device)[at], UNLABELLED),
            )
            parts.append(Part(rows, layout.may_hold_first_view))
        self.notes.update(self.labels.notes)
        self._version = 0 if self.scoring is None else self.scoring.version
        plain = self.scoring is None or self.scoring.is_plain
        all_count = plain and apart is None and others is None and own is None and (fresh is None or fresh >= size)
        if all_count and self.layouts.said.is_auto and self.groups is None and not self.role.time_first:
            self._usual = learned(
                batch, found, pooled, frozenset(present), self.labels, self.evidence.usual, self.chosen_pool or ""
            )
        return Assembled(parts, size, frozenset(present))

    # --- whose rows ------------------------------------------------------------------------------------------

    def _choose(
        self, calls: list[Call], tensors: list[tuple[tree.Path, Tensor]], batch: Any, labels: Tensor | None, size: int
    ) -> list[Chosen]:
        if not self.layouts.said.is_auto:
            self.evidence.summary = f"taken as views={self.views!r} says"
            return [Chosen(call) for call in calls]
        home = self.labels.home(batch) if labels is not None else None
        return self.evidence.choose(calls, tensors, home, labels is not None, size)

    def _other_samples(self, found: list[Chosen], tensors: list[tuple[tree.Path, Tensor]], size: int) -> int | None:
        """How many samples the batch has, where they are not those of its labels (nodes of labelled graphs)."""
        if len(found) != 1 or found[0].origin is None or not isinstance(found[0].origin.part, int):
            return None
        n = tensors[found[0].origin.part][1].shape[0]
        if n == size or self.layouts.said.count is not None:
            return None
        self.notes[
            f"{n} samples entered the network, and the batch has {size} labels or targets: they are of something else "
            "(graphs, sets), and rows are unlabelled"
        ] = None
        return n

    def _own_samples(self, batch: Any, tensors: list[tuple[tree.Path, Tensor]], size: int) -> Tensor | None:
        """(size,) which samples the stage is about; None: all."""
        found = of_stage(batch, tensors, self.role.stage, size, self.mask)
        if found is None:
            return None
        self.notes[f"of each batch only the samples that {found[1]} marks are rows"] = None
        return found[0]

    def _classifies_tokens(self, labels: Tensor | None) -> bool:
        """Whether each token has a class, as names and parts of speech have: the next token is none."""
        return labels is not None and labels.ndim == 2 and self.role.is_classifier and not self.role.predicts_tokens

    def _layouts(
        self, found: list[Chosen], inputs: list[int], size: int, batch: Any, device: torch.device, labelled: bool
    ) -> list[Layout]:
        known = [one.origin is not None and one.origin.rows == n for one, n in zip(found, inputs, strict=True)]
        if not all(known) or not found:
            return self.layouts.of(inputs, size, batch, device, labelled)
        layouts = []
        for one in found:
            assert one.origin is not None
            index = torch.arange(one.origin.rows, device=device)
            origin = index if one.origin.samples is None else one.origin.samples.to(device)
            several = isinstance(one.view, torch.Tensor)
            view = one.view.to(device) if isinstance(one.view, torch.Tensor) else torch.full_like(index, one.view)
            keep = None if one.origin.samples is None or one.origin.changed else origin >= 0
            if one.keep is not None:
                keep = one.keep.to(device) if keep is None else keep & one.keep.to(device)
            layouts.append(Layout(origin, view, several or bool(one.view == 0), several, keep))
        return layouts

    def _samples(self, calls: list[Call], labels: Tensor | None, batch: Any) -> int:
        if self.views is None:
            return sum(int(call.features.shape[0]) for call in calls)
        if labels is not None:
            return int(labels.shape[0])
        known = batch_size(batch)
        return known if known is not None else (int(calls[0].features.shape[0]) if calls else 0)

    # --- pooling and labels ----------------------------------------------------------------------------------

    def _pool(self, one: Chosen, labels: Tensor | None, batch: Any) -> Pooled:
        call, samples = one.call.features, one.origin.samples if one.origin is not None else None
        if call.ndim == 1 and self.width is not None and self.width > 1 and call.shape[0] == self.width:
            call = call[None]  # an axis of one sample that was squeezed away
        if self.chosen_pool is None:
            size = batch_size(batch) if labels is None else len(labels)
            self.chosen_pool = self.pool or usual_pool(call, labels, size, self.width, self.role, self.notes)
        if self.tokens.skip and (call.ndim != 3 or "->" in self.chosen_pool):
            self.notes[
                f"Tokens(skip={self.tokens.skip}): features of shape {tuple(call.shape)} are not taken as tokens, so "
                "none is ignored"
            ] = None
        mask = None
        if one.call.real is not None:
            mask = one.call.real
        elif call.ndim == 3:
            fits = samples is not None and one.origin is not None and one.origin.rows == call.shape[0]
            mask = self.masks.read(batch, tuple(call.shape[:2]), samples if fits else None, one.call.entered)
        return pool_rows(call, self.chosen_pool, mask, self.tokens.skip)
