"""Labels as they come: class indices, one-hot, soft (label smoothing, mixup), multi-label; and which rows have a class.

Class signals are defined for rows of one class. So a row of a label matrix has the class that alone is positive, or
that label smoothing has made the largest; a mixture of classes (mixup, several positives) has none: it counts in totals
only, and is counted. Neural collapse of multi-label features is defined on rows of multiplicity one (Li et al., 2023,
"Neural Collapse in Multi-label Learning with Pick-all-label Loss", arXiv 2310.15903).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lightning_featgeo.rows.batches import LABEL_KEYS, Selector, find_labels, find_targets, select, summarize
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

LabelKind = Literal["classes", "soft", "multi-label", "binary", "targets", "none"]
_ALMOST = 1e-3  # what bf16 leaves of a sum of weights


@dataclass
class LabelReader:
    """Reads a batch's labels in one way, which its first batch decides.

    Args:
        selector: key, index or callable into the batch; "auto" finds the usual ones; None: there are none.
        num_classes: C, if known: a matrix of C columns of weights is labels, another one regression targets.
        ignore_index: class index of rows that have no class, besides all negative ones.
        groups: what the batch's groups are found by: those are no labels.
    """

    selector: Selector = "auto"
    num_classes: int | None = None
    ignore_index: int = -100
    groups: Selector = None
    kind: LabelKind | None = None
    notes: dict[str, None] = field(default_factory=dict)

    def read(self, batch: Any) -> tuple[Tensor | None, Tensor | None]:
        """Class of each row, (b,) or (b, t), −1 where there is none; and regression targets. Either may be None.

        Raises:
            ConfigurationError: if a named selector finds nothing.
        """
        batch = self._without_groups(batch)
        matrix = self._matrix(batch)
        if matrix is not None and self.kind in (None, "soft", "multi-label"):
            kind = self._kind_of(matrix) if self.kind is None else self.kind
            if kind in ("soft", "multi-label"):
                self.kind = kind
                self.notes[
                    f"labels {summarize(matrix)} are {kind}: rows of one class have it, mixtures of classes are left "
                    "out of class signals"
                ] = None
                return _one_class(matrix, kind == "soft"), None
        labels = find_labels(batch, self.selector)
        if labels is None and self.selector == "auto":
            self._note_candidates(batch)
        if labels is not None:
            self.kind = "classes"
            labels = labels.to(torch.int64)  # bytes have no −100, and 156 is a class of theirs
            return torch.where(labels == self.ignore_index, UNLABELLED, labels), None
        targets = find_targets(batch, self.selector)
        if targets is not None and self._is_binary(targets):
            self.kind = "binary"
            self.notes["targets of 0 and 1 with a single output are read as two classes"] = None
            return targets.reshape(-1).to(torch.int64), None
        if targets is not None and self.kind is None and self._is_another_input(targets):
            told = (
                f"{summarize(targets)} is not used as regression targets, because no head is known. If it is, name it "
                "with labels="
            )
            self.notes[told] = None
            return None, None
        self.kind = self.kind or ("targets" if targets is not None else None)
        return None, targets

    def _without_groups(self, batch: Any) -> Any:
        if self.groups is None or self.selector != "auto":
            return batch
        found = select(batch, self.groups, "groups")
        if isinstance(batch, Mapping):
            return {key: value for key, value in batch.items() if value is not found}
        return [value for value in batch if value is not found] if isinstance(batch, (tuple, list)) else batch

    def _note_candidates(self, batch: Any) -> None:
        """Say so where several parts could be labels, or where they could be those of tokens."""
        parts = list(batch[1:]) if isinstance(batch, Sequence) and not isinstance(batch, str) else []
        whole = [p for p in parts if isinstance(p, torch.Tensor) and not (p.is_floating_point() or p.is_complex())]
        if len(whole) == 1 and whole[0].ndim == 2:
            self.notes[f"{summarize(whole[0])} may be labels of tokens: if so, name them with labels=1"] = None
        elif len(whole) > 1:
            self.notes[f"{len(whole)} parts of the batch could be labels: name one of them, such as labels=1"] = None

    def _is_binary(self, targets: Tensor) -> bool:
        """Whether floating-point targets are the two classes of one output. Looked at once."""
        if self.kind is not None or targets.numel() != len(targets) or (self.num_classes or 2) != 2 or not len(targets):
            return self.kind == "binary"
        return bool(((targets == 0) | (targets == 1)).all())

    def _is_another_input(self, targets: Tensor) -> bool:
        """Whether nothing says that a matrix holds targets: no head is known whose output it could be."""
        wide = targets.ndim == 2 and targets.shape[1] > 1
        return wide and self.selector == "auto" and self.num_classes is None

    def _matrix(self, batch: Any) -> Tensor | None:
        """The one matrix of C columns that could be labels."""
        if self.selector is None or self.num_classes is None or self.num_classes < 2:
            return None
        if self.selector != "auto":
            found = [select(batch, self.selector, "labels")]
        elif isinstance(batch, Mapping):
            found = [batch[key] for key in LABEL_KEYS if key in batch]
        elif isinstance(batch, Sequence) and not isinstance(batch, str):
            found = list(batch[1:])
        else:
            found = []
        fitting = [
            v
            for v in found
            if isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[1] == self.num_classes and not v.is_complex()
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _kind_of(self, matrix: Tensor) -> LabelKind | None:
        """Looked at once: weights that add up to one, or marks of 0 and 1."""
        weights = matrix.float()
        in_range = ((weights >= 0) & (weights <= 1 + _ALMOST)).all() & (weights > 0).any()
        if len(weights) == 0 or not bool(in_range):
            return None  # a matrix of zeros says nothing yet
        if bool(((weights.sum(dim=1) - 1).abs() < _ALMOST).all()):
            return "soft"
        return "multi-label" if bool(((weights == 0) | (weights == 1)).all()) else None


def _one_class(matrix: Tensor, soft: bool) -> Tensor:
    """The class of each row of a label matrix; −1 for mixtures. Nothing waits for the device."""
    weights = matrix.float()
    top, best = weights.max(dim=1)
    if not soft:
        return torch.where((weights > 0).sum(dim=1) == 1, best, UNLABELLED)
    alone = top > 1 - _ALMOST
    one = (weights.sum(dim=1) - 1).abs() < _ALMOST  # else there are several, or none
    if matrix.shape[1] > 2:  # label smoothing spreads the rest evenly; of two classes, mixup looks the same
        rest = weights.scatter(1, best[:, None], torch.nan)
        low = rest.nan_to_num(nan=torch.inf).amin(dim=1)
        high = rest.nan_to_num(nan=-torch.inf).amax(dim=1)
        alone = alone | ((high - low < _ALMOST * top) & (top > high + _ALMOST))
    return torch.where(alone & one, best, UNLABELLED)
