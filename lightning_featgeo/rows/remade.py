"""What a training step makes of the batch's labels: always the same class of each, as far as its losses have shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

KNOWN = 0.95  # share of a batch's labels of which it has been seen what they become, from which the others are left out
REPEATS = 2  # rows for each label, and batches, that have to show what becomes of it
DISTINCT = 16  # rows of a batch whose labels are all different: they are no classes
CHANGES = 1  # of a class that a label becomes: a curriculum may merge or split classes once


class Remade:
    """Learned batch by batch; ``table``: label -> class, None while labels are what is scored, or nobody knows.

    ``is_pending``: other numbers than the labels are scored, and too little has been seen. ``varies``: a label is not
    always the same class (episodes, noise, tasks one after the other): then labels are what the batch says.
    """

    def __init__(self) -> None:
        self.varies = False
        self._pairs: dict[int, int] = {}
        self._rows = self._batches = self._changes = 0
        self.grew = False  # whether the last batch had a label that none before had
        self._merges = False  # whether two labels of one batch became one class
        self._makes_others = False  # whether a label is not the class that is scored

    @property
    def _is_shown(self) -> bool:
        return self._batches >= REPEATS and self._rows >= REPEATS * len(self._pairs)

    @property
    def table(self) -> dict[int, int] | None:
        """What becomes of each label."""
        return dict(self._pairs) if self.is_watched and self._is_shown else None

    @property
    def is_pending(self) -> bool:
        """Whether it is still to be seen."""
        return self.is_watched and not self._is_shown

    @property
    def is_watched(self) -> bool:
        """Whether each batch is to be looked at: labels are not what is scored."""
        return self._makes_others and not self.varies

    def learn(self, labels: Tensor, scored: Tensor) -> None:
        """From one batch, (n,) each, −1 where there is none: a label may be made to have no class."""
        if self.varies:
            return
        there = labels >= 0
        pairs = torch.unique(
            torch.stack([labels[there], scored[there].to(labels).clamp(min=UNLABELLED)]), dim=1
        ).tolist()
        fresh = dict(zip(*pairs, strict=True)) if pairs else {}
        several = bool(pairs) and len(fresh) < len(pairs[0])  # a label became more than one class
        if several or len(fresh) == int(there.sum()) >= DISTINCT:  # or they are numbers of samples
            self.varies = True
            return
        changed = {label for label, to in fresh.items() if self._pairs.get(label, to) != to}
        classes = [to for to in fresh.values() if to >= 0]
        self._merges = self._merges or len(set(classes)) < len(classes)
        others = {to for label, to in self._pairs.items() if label not in fresh and to >= 0}
        reused = any(label not in self._pairs and to in others for label, to in fresh.items())
        if reused and not self._merges:  # one task after the other, each from class 0 on
            self.varies = True
            return
        if changed:
            self._changes += 1
            self.varies = self._changes > CHANGES
            self._pairs, self._rows, self._batches = {}, 0, 0
        self.grew = not set(fresh) <= set(self._pairs)
        self._pairs.update(fresh)
        self._makes_others = any(label != to for label, to in self._pairs.items())
        self._rows += int(there.sum())
        self._batches += 1

    def agree(self, tables: Sequence[dict[int, int] | None], varies: bool) -> None:
        """What several ranks have seen."""
        pairs: dict[int, int] = {}
        for table in tables:
            for label, to in (table or {}).items():
                varies = varies or pairs.setdefault(label, to) != to
        self.varies, self._pairs = varies, pairs or self._pairs
        self._makes_others = any(label != to for label, to in self._pairs.items())
        self._rows, self._batches = max(self._rows, REPEATS * len(pairs)), max(self._batches, REPEATS if pairs else 0)

    def of(self, labels: Tensor, are_classes: bool | None) -> Tensor:
        """The classes of labels; −1 while that is pending, and for labels of which nothing was seen.

        Args:
            labels: of a batch.
            are_classes: whether they are classes already; None: that can't be told, and none has a class.
        """
        if self.is_pending or (self.table is not None and are_classes is None):
            return torch.full_like(labels, UNLABELLED)
        table = self.table
        if table is None or are_classes:
            return labels
        known = torch.tensor(sorted(table), dtype=labels.dtype, device=labels.device)
        some = labels[labels >= 0]
        if some.numel() and float(torch.isin(some, known).double().mean()) < KNOWN:
            return torch.full_like(labels, UNLABELLED)
        to = torch.full((int(known.max()) + 2,), UNLABELLED, dtype=labels.dtype)
        for label, other in table.items():
            to[label] = other
        inside = (labels >= 0) & (labels <= int(known.max()))
        return to.to(labels.device)[torch.where(inside, labels, int(known.max()) + 1)]

    def are_classes(self, labels: Tensor) -> bool | None:
        """Whether an evaluation's labels are classes already: by one that is no label, or that is no class."""
        table = self.table or {}
        if all(to in (label, UNLABELLED) for label, to in table.items()):
            return False  # some have no class: the others are what they were
        given = {int(label) for label in labels.unique().tolist() if label >= 0}
        classes = {to for to in table.values() if to >= 0}
        if classes == set(table):
            return True  # another order of the same classes: the samples of each stay together
        if given & (set(table) - classes):
            return False
        return True if given & (classes - set(table)) else None
