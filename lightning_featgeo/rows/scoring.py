"""What a training loss tells of labels: it keeps the classes that it scores, row by row as they leave the network.

That is the strongest evidence there is, and the only one that sees through layers: whether rows still are in the
batch's order at the head (sorted for a packed sequence, and sorted back), which part of the batch holds the classes,
and whether the step makes others of them. It is taken where a graph is, and holds for evaluation as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.calls import MIXED, Call
from lightning_featgeo.rows.chosen import Chosen
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.pooling import Pooled
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

FIRST, EVERY = 3, 64  # losses that are looked at: the first ones, then one in so many, and where rows were taken
LEAST = 4  # rows of a batch that can tell an order
OTHER_PART = "the loss scores {part} of the batch{other}: it holds the labels"
MAPPED = "the loss scores other numbers than the batch's labels, always the same one for each: those are the labels"
MOVED = (
    "in training, the loss scored these rows in another order than that of the batch's labels, which can't be followed "
    "here: none has a label. Return the features in the batch's order from the step, and name them with features="
)


@dataclass
class Scoring:
    """What losses have told of the rows before one head. One for all windows of a run.

    ``in_place``: whether the head's rows are in the batch's order. ``followed``: whether the labels that other evidence
    gave them were those that the loss scored. None: nobody knows. ``misled``: whether other evidence saw another order
    where they were in place (sorted, and sorted back). ``path``: of the batch's part that it scores.
    ``table``: what the step makes of each label. ``version``: goes up when any of it changes.
    """

    in_place: bool | None = None
    followed: bool | None = None
    misled: bool = False
    path: tree.Path | None = None
    table: dict[int, int] | None = None
    version: int = 0
    found: bool = False
    withheld: str = ""  # why rows of an evaluation have no label
    notes: dict[str, None] = field(default_factory=dict)
    _losses: dict[Hashable, int] = field(default_factory=dict)
    _mixes: set[Hashable] = field(default_factory=set)  # forms of losses of mixtures
    _form: Hashable = None

    def is_due(self, taken: bool, form: Hashable = None) -> bool:
        """Whether to look at the loss that comes.

        Args:
            taken: rows were taken on the way to the head.
            form: of the loss, such as one term or two: of each one, the first are looked at.
        """
        self._form = form
        count = self._losses[form] = self._losses.get(form, 0) + 1
        regular = count <= FIRST or count % EVERY == 0
        return regular or (self.found and (taken or self.in_place is not True or form in self._mixes))

    @property
    def is_plain(self) -> bool:
        """Whether labels are those of the batch, in its order, as far as anybody knows."""
        return self.table is None and not self.misled and self.followed is not False and self.in_place is not False

    def begin(self, reader: LabelReader) -> None:
        """Before a batch is read: where its labels are."""
        if self.path is not None and reader.selector == "auto":
            reader.path = self.path
        if reader.selector == "auto":
            reader.notes.update(self.notes)

    def see(
        self, calls: Sequence[Call], labels: Tensor | None, batch: Any, reader: LabelReader
    ) -> tuple[list[Call], Tensor | None]:
        """The calls and labels, in the light of what the loss scores.

        Args:
            calls: of the head.
            labels: of the batch, as they were read.
            batch: what the step got.
            reader: of the labels.
        """
        scored = _one_a_row(calls[0]) if len(calls) == 1 else None
        if labels is None and scored is not None and reader.selector == "auto" and not reader.ignored:
            labels = self._find(scored, batch, reader)
        if scored is not None and labels is not None and labels.ndim == 1 and _tells(scored):
            labels = self._look(scored.to(labels.device), labels, batch, reader)
            if self.in_place and any(one.is_reordered or _moves(one.rows) for one in calls):
                self._set(misled=True)
        elif labels is not None and self.table is not None and reader.selector == "auto":
            labels = _mapped(labels, self.table)
        if self.in_place and self.misled:
            calls = [replace(one, rows=None, rows_of=None, is_reordered=False, in_place=True) for one in calls]
        return list(calls), labels

    def labels(self, one: Chosen, part: Pooled, given: Tensor, reader: LabelReader, trains: bool) -> Tensor:
        """The label of each row: the one that the loss scored, where it told; else as ``given`` by other evidence."""
        if not trains:
            lost = self.in_place is not True and (self.followed is False or (self.in_place is False and not one.origin))
            if lost:
                reader.notes[MOVED], self.withheld = None, MOVED
            return torch.full_like(given, UNLABELLED) if lost else given
        if len(one.call.scored) > 1:
            seen = one.origin is not None and one.origin.has_mixed  # row by row: some may have met themselves
            return given if seen else self._of_several(one.call, part, given, reader.notes)
        scored = _one_a_row(one.call)
        if scored is None or not len(given):
            return given
        rows = _row_labels(scored, part, given, reader.ignore_index)
        if rows is None:
            return given
        both = (rows >= 0) & (given >= 0)
        if reader.selector != "auto" and not torch.equal(rows[both].sort().values, given[both].sort().values):
            return given  # the user has named other labels than those that are learned
        if bool(both.any()):
            agrees = bool((rows == given)[both].all())
            misled = self.misled or (bool(self.in_place) and not agrees)
            self._set(followed=agrees and self.followed is not False, misled=misled)
        has_none = one.call.is_mixed or one.is_labelled is False
        return given if has_none else torch.where(given >= 0, rows, rows if one.call.is_reordered else given)

    def _of_several(self, call: Call, part: Pooled, given: Tensor, notes: dict[str, None]) -> Tensor:
        """Two losses of one output against two permutations of the labels: the rows are mixtures of samples."""
        first, *others = [t.reshape(-1) for t in call.scored]
        same = all(t.shape == first.shape for t in others)
        if not same or all(torch.equal(t, first) for t in others) or len(part.rows) != part.inputs:
            return given
        if not all(torch.equal(t.sort().values, first.sort().values) for t in others):
            return given  # another target: a teacher's, or that of a second task
        notes[MIXED] = None
        self._mixes.add(self._form)
        return torch.full_like(given, UNLABELLED)

    def _look(self, scored: Tensor, labels: Tensor, batch: Any, reader: LabelReader) -> Tensor:
        if scored.shape != labels.shape:
            return labels
        scored = _without_ignored(scored, reader.ignore_index)
        place = _without_ignored(labels.to(scored.dtype), reader.ignore_index)
        if torch.equal(place, scored):
            self._set(in_place=self.in_place is not False)
            return labels
        if reader.selector != "auto" or torch.equal(place.sort().values, scored.sort().values):
            self._set(in_place=False)
            return labels
        found = self._find(scored, batch, reader)
        if found is not None:
            return found
        table = _table(place, scored)
        known = {} if self.table is None else self.table
        if table is None or any(known.get(label, to) != to for label, to in table.items()):
            self._set(in_place=False, table=None)
            return labels
        self.notes[MAPPED] = reader.notes[MAPPED] = None
        self._set(table={**known, **table}, in_place=self.in_place is not False)
        return _mapped(labels, {**known, **table})

    def _find(self, scored: Tensor, batch: Any, reader: LabelReader) -> Tensor | None:
        """The part of the batch that is what the loss scores."""
        for path, x in tree.tensors(batch) if _tells(scored) else ():
            if x.shape == scored.shape and not x.is_floating_point() and torch.equal(x.to(scored), scored):
                home = reader.home(batch)
                other = f", and not {_called(home)}" if home is not None else ""
                told = OTHER_PART.format(part=_called(path), other=other)
                self.notes[told] = reader.notes[told] = None
                reader.path, reader.kind = path, "classes"
                self._set(path=path, in_place=self.in_place is not False)
                return x.to(torch.int64)
        return None

    def _set(self, **told: Any) -> None:
        if any(getattr(self, name) != value for name, value in told.items()):
            self.version += 1
        for name, value in told.items():
            setattr(self, name, value)


def _one_a_row(call: Call) -> Tensor | None:
    """What the loss scores the rows of a call against, where it is one class a row, or one a token."""
    if len(call.scored) != 1 or call.features.ndim < 2:
        return None
    (scored,) = call.scored
    if scored.ndim != 1 or scored.is_floating_point():
        return None
    fits = scored.shape[0] in (call.features.shape[0], call.features.shape[:-1].numel())
    return scored if fits else None


def _moves(rows: Tensor | None) -> bool:
    return rows is not None and not torch.equal(rows, torch.arange(len(rows), device=rows.device))


def _tells(scored: Tensor) -> bool:
    """Whether an order of these can be told from another one."""
    return len(scored) >= LEAST and bool((scored != scored[0]).any())


def _without_ignored(labels: Tensor, ignored: int) -> Tensor:
    return torch.where((labels == ignored) | (labels < 0), UNLABELLED, labels)


def _row_labels(scored: Tensor, part: Pooled, given: Tensor, ignored: int) -> Tensor | None:
    """(n,) of each pooled row."""
    scored = _without_ignored(scored.to(given.device), ignored)
    if len(scored) == part.inputs and len(part.rows) == part.inputs:
        return scored[part.sample].to(given.dtype)
    if part.inputs and len(scored) == len(part.rows) and len(scored) % part.inputs == 0:
        return scored.reshape(part.inputs, -1)[part.sample, part.position].to(given.dtype)
    return None


def _table(labels: Tensor, scored: Tensor) -> dict[int, int] | None:
    """What each label becomes, if that is always the same, and seen more than once on average; else None."""
    pairs = torch.unique(torch.stack([labels, scored]), dim=1).tolist()
    few = len(pairs[0]) < 2 or 2 * len(pairs[0]) > len(labels) or len(set(pairs[1])) < 2
    if few or len(set(pairs[0])) < len(pairs[0]):
        return None
    return dict(zip(*pairs, strict=True))


def _mapped(labels: Tensor, table: dict[int, int]) -> Tensor:
    size = max(table, default=0) + 1
    to = torch.full((size + 1,), UNLABELLED, dtype=labels.dtype)
    for label, other in table.items():
        if label >= 0:
            to[label] = other
    known = torch.where((labels >= 0) & (labels < size), labels, size)
    return to.to(labels.device)[known]


def _called(path: tree.Path) -> str:
    first = path[0] if len(path) == 1 else tree.dotted(path)
    return f"part {first}" if isinstance(first, int) else repr(first)
