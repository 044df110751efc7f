"""Labels as they come: class indices, one-hot, soft (label smoothing, mixup), multi-label; and which rows have a class.

Class signals are defined for rows of one class. So a row of a label matrix has the class that alone is positive, or
that label smoothing has made the largest; a mixture of classes (mixup, several positives) has none: it counts in totals
only, and is counted. Neural collapse of multi-label features is defined on rows of multiplicity one (Li et al., 2023,
"Neural Collapse in Multi-label Learning with Pick-all-label Loss", arXiv 2310.15903).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.batches import Selector, beyond, find_labels, find_targets, select, summarize
from lightning_featgeo.rows.label_rows import is_whole_type, kind_of_matrix, mixtures_of, one_class, repeats
from lightning_featgeo.rows.label_search import LABEL_KEYS, is_list_of_samples, label_parts
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

LabelKind = Literal["classes", "soft", "multi-label", "binary", "whole", "targets", "none"]


@dataclass
class LabelReader:
    """Reads a batch's labels in one way, which its first batch decides.

    Args:
        selector: key, index or callable into the batch; "auto" finds the usual ones; None: there are none.
        num_classes: C, if known: a matrix of C columns of weights is labels, another one regression targets.
        ignore_index: class index of rows that have no class, besides all negative ones.
        groups: what the batch's groups are found by: those are no labels.
        outputs: of the head, if it is known.
        stated: whether the user gave num_classes: then labels that are found are believed.
        reads_mixtures: whether soft labels have targets, (n, 3), as ``mixtures_of`` reads them.
        awaits_mixtures: also where the first batch has none: they were asked for.
        ignored: the loss shows that labels, if there are any, are not what is learned.
    """

    selector: Selector = "auto"
    num_classes: int | None = None
    ignore_index: int = -100
    groups: Selector = None
    outputs: int | None = None
    stated: bool = True
    reads_mixtures: bool = False
    awaits_mixtures: bool = False
    ignored: bool = False
    kind: LabelKind | None = None
    shifted: bool | None = None
    column: int | None = None
    path: tree.Path | None = None
    scored: bool | None = None  # whether labels are the classes already that a step makes of others; None: unknown
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def is_named(self) -> bool:
        """Whether the user has said where labels are, or that there are some."""
        return self.selector != "auto" or self.stated

    @property
    def names_mixtures(self) -> bool:
        """Whether the user has said what is mixed: features may be, too."""
        return self.reads_mixtures and self.selector != "auto"

    @property
    def meaning(self) -> str:
        """What the second part of :meth:`read` is."""
        return "mixtures" if self.kind in ("soft", "classes") else "targets"

    def read(self, batch: Any) -> tuple[Tensor | None, Tensor | None]:
        """Class of each row, (b,), (b, t) or (b, h, w), −1 where there is none; and regression targets; or None.

        Raises:
            ConfigurationError: if a named selector finds nothing.
        """
        if self.ignored:
            return None, None
        batch = self._without_groups(batch)
        matrix = self._matrix(batch)
        late = matrix is not None and self.kind == "classes" and self._find(batch) is None  # mixup that begins late
        if matrix is not None and (late or self.kind in (None, "soft", "multi-label")):
            kind = kind_of_matrix(matrix) if late or self.kind is None else self.kind
            if kind == "soft" or (kind == "multi-label" and not late):
                self.kind = self.kind if late else kind
                self.notes[
                    f"labels {summarize(matrix)} are {kind}: rows of one class have it, mixtures of classes are left "
                    "out of class signals"
                ] = None
                self.awaits_mixtures |= not late and self.reads_mixtures and kind == "soft"
                mixtures = mixtures_of(matrix) if self.awaits_mixtures and kind == "soft" else None
                return one_class(matrix, kind == "soft"), mixtures
        labels = self._find(batch)
        if labels is None and self.selector == "auto":
            labels = self._only_one_that_fits(batch)
        if labels is None and self.selector == "auto":
            self._note_candidates(batch)
        targets = None if self.path is not None and self.outputs != 1 else self._targets(batch, labels)
        if labels is None and targets is None and self.selector == "auto":
            labels = self._booleans(batch)
        if labels is not None and (targets is None or self.selector != "auto") and self._fit(labels, batch):
            self.kind = "classes"
            return self._next_token(labels, batch), None
        if targets is not None and self._is_binary(targets):
            self.kind = "binary"
            self.notes["targets of 0 and 1 with a single output are read as two classes"] = None
            return targets.reshape(-1).to(torch.int64), None
        if targets is not None and self._is_whole(targets):
            self.kind = "whole"
            self.notes["labels are whole numbers of a floating-point type below the head's outputs: classes"] = None
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

    def _find(self, batch: Any) -> Tensor | None:
        """Class labels, where they were in the batch before if they still are."""
        if self.path is not None:
            try:
                found = tree.at(batch, self.path)
                if isinstance(found, torch.Tensor) and found.ndim == 1 and is_whole_type(found):
                    return found
            except KeyError:
                pass
            self.path = None
        found = find_labels(batch, self.selector)
        if found is not None and found.ndim == 1 and self.selector == "auto":
            home = self.home(batch)
            if home is not None and tree.at(batch, home) is found:
                self.path = home
        return found

    def home(self, batch: Any) -> tree.Path | None:
        """Where the labels are in the batch; None where that can't be told."""
        if self.path is not None:
            return self.path
        if self.selector == "auto":
            found = label_parts(batch)
            return found[0][0] if found and not is_list_of_samples(batch) else None
        if callable(self.selector) or self.selector is None:
            return None
        return tuple(self.selector.split(".")) if isinstance(self.selector, str) else (self.selector,)

    def _targets(self, batch: Any, labels: Tensor | None) -> Tensor | None:
        """Regression targets. Beside a single output, a floating-point column beats one of integers: a time beats the
        flag of a censored row, a value the index of its sample."""
        found = find_targets(batch, self.selector, beside_labels=self.outputs == 1)
        if labels is None or found is None:
            return found
        if found.numel() != len(found) or labels.ndim != 1 or self.selector != "auto":
            return None
        self.notes[
            f"{summarize(found)} is taken for the targets of the head's one output, and {summarize(labels)} beside it "
            "not for classes. If it is, name it with labels="
        ] = None
        return found

    def _fit(self, labels: Tensor, batch: Any) -> bool:
        """Whether what was found as classes can be those of the head. Looked at once; what was named is believed."""
        if self.is_named or self.num_classes is None or self.kind == "classes":
            return True
        if self.kind is not None or not labels.numel():
            return self.kind is None
        real = labels.to(torch.int64)
        real = real[(real != self.ignore_index) & (real >= 0)]
        if not real.numel() or int(real.max()) < max(self.num_classes, 1):
            return True
        self.kind = "none"
        self.notes[beyond(labels, real, self.num_classes, self.outputs)] = None
        return False

    def _next_token(self, labels: Tensor, batch: Any) -> Tensor:
        """Labels as indices; those of a language model, which are its input, shifted to the token that comes next."""
        labels = labels.to(torch.int64)
        labels = torch.where(labels == self.ignore_index, UNLABELLED, labels)
        if labels.ndim != 2:
            return labels
        if self.shifted is None and labels.shape[1] > 1:
            alike = [(p, t) for p, t in tree.tensors(batch) if t.shape == labels.shape and not t.is_floating_point()]
            home = self.home(batch)
            self.shifted = len(alike) > 1 and any(repeats(labels, t) for path, t in alike if path != home)
        if not self.shifted:
            return labels
        self.notes[
            "labels are the input itself, as in a causal language model: each token's label is the next token"
        ] = None
        last = torch.full_like(labels[:, :1], UNLABELLED)
        return torch.cat([labels[:, 1:], last], dim=1)

    def _is_whole(self, targets: Tensor) -> bool:
        """Whether floating-point numbers are indices of the classes of several outputs. Looked at once."""
        if self.kind is not None or targets.numel() != len(targets) or (self.outputs or 0) < 3 or not len(targets):
            return self.kind == "whole"
        whole = (targets == targets.round()) & (targets >= 0) & (targets < (self.outputs or 0))
        return bool(whole.all())

    def _without_groups(self, batch: Any) -> Any:
        if self.groups is None or self.selector != "auto":
            return batch
        found = select(batch, self.groups, "groups")
        if tree.is_mapping(batch):
            return {key: value for key, value in tree.children(batch) if value is not found}
        return [value for value in batch if value is not found] if isinstance(batch, (tuple, list)) else batch

    def _note_candidates(self, batch: Any) -> None:
        """Say so where several parts could be labels, or where they could be those of tokens; of a dict, the keys."""
        if tree.is_mapping(batch) and (self.outputs or 0) > 1:
            keys = [
                key
                for key, v in tree.children(batch)
                if isinstance(v, torch.Tensor) and v.ndim == 1 and is_whole_type(v)
            ]
            if keys:
                told = f"the batch has whole numbers by sample at {', '.join(map(repr, keys))}"
                self.notes[f"{told}: if these are the classes, say labels={keys[0]!r}"] = None
        parts = list(batch[1:]) if isinstance(batch, (tuple, list)) else []
        whole = [p for p in parts if isinstance(p, torch.Tensor) and not (p.is_floating_point() or p.is_complex())]
        if len(whole) == 1 and whole[0].ndim == 2:
            self.notes[f"{summarize(whole[0])} may be labels of tokens: if so, name them with labels=1"] = None
        elif len(whole) > 1:
            self.notes[f"{len(whole)} parts of the batch could be labels: name one of them, such as labels=1"] = None

    def _only_one_that_fits(self, batch: Any) -> Tensor | None:
        """Of several columns of integers, the one that alone can be classes of the head (others: indices, lengths)."""
        parts = list(batch[1:]) if isinstance(batch, (tuple, list)) else []
        whole = [p for p in parts if isinstance(p, torch.Tensor) and p.ndim == 1 and is_whole_type(p)]
        if any(isinstance(p, torch.Tensor) and p.ndim > 1 and is_whole_type(p) for p in parts):
            return None  # labels of a sequence, and lengths
        if self.column is None and len(whole) > 1 and self.num_classes is not None and len(whole[0]):
            fitting = [i for i, p in enumerate(whole) if int(p.max()) < self.num_classes]
            self.column = fitting[0] if len(fitting) == 1 else -1
            if self.column >= 0:
                self.notes[
                    f"of {len(whole)} columns of integers, one alone fits the head's {self.num_classes} outputs: it is "
                    f"taken for the labels, as labels={_place(batch, whole[self.column])} would"
                ] = None
        usable = self.column is not None and 0 <= self.column < len(whole)
        return whole[self.column] if usable and self.column is not None else None

    def _booleans(self, batch: Any) -> Tensor | None:
        """The only column of booleans behind the input, beside a head of one or two outputs; or one of a usual name."""
        found = [
            value.to(torch.int64).reshape(-1)
            for path, value in tree.tensors(batch)
            if value.dtype == torch.bool and value.ndim in (1, 2) and value.numel() == len(value) and path
            and (str(path[-1]).lower() in LABEL_KEYS or (path[0] != 0 and len(path) == 1 and self.num_classes == 2))
        ]  # fmt: skip
        return found[0] if len(found) == 1 else None

    def _is_binary(self, targets: Tensor) -> bool:
        """Whether floating-point targets are the two classes of one output. Looked at once."""
        if self.outputs is not None and self.outputs > 2:
            return False
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
        elif tree.is_sequence(batch):
            found = list(batch[1:])
        else:
            found = [v for path, v in tree.tensors(batch) if path and str(path[-1]).lower() in LABEL_KEYS]
        fitting = [
            v
            for v in found
            if isinstance(v, torch.Tensor) and v.ndim == 2 and v.shape[1] == self.num_classes and not v.is_complex()
        ]
        return fitting[0] if len(fitting) == 1 else None


def _place(batch: Any, part: Tensor) -> int:
    return next((i for i, one in enumerate(batch) if one is part), -1)
