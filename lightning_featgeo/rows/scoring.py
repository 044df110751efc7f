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
from lightning_featgeo.rows.remade import Remade
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

FIRST, EVERY = 3, 64  # losses that are looked at: the first ones, then one in so many, and where rows were taken
LEAST = 4  # rows of a batch that can tell an order
ALIKE = 0.75  # share of equal classes from which two targets are no two orders of the labels
OTHER_PART = "the loss scores {part} of the batch{other}: it holds the labels"
MAPPED = "the loss scores other numbers than the batch's labels, always the same one for each: those are the labels"
PENDING = (
    "the loss scores other numbers than the batch's labels: too few batches have shown which one for each, or these may"
    " be such numbers already. Labels are left out; a function says what they are: labels=lambda batch: batch[1] - 1"
)
MOVED = (
    "in training, these rows were in another order than the batch's labels (sorted or shuffled), which can't be "
    "followed here: none has a label. Return the features in the batch's order from the step, and name them with "
    "features="
)


@dataclass
class Scoring:
    """What losses have told of the rows before one head. One for all windows of a run.

    ``in_place``: whether the head's rows are in the batch's order. ``followed``: whether the labels that other evidence
    gave them were those that the loss scored. None: nobody knows. ``misled``: whether other evidence saw another order
    where they were in place (sorted, and sorted back). ``turned``: whether training's rows were in
    another order than the batch's, by what entered. ``path``: of the batch's part that it scores. ``made``: what the
    step makes of the labels. ``version``: goes up when any of it changes.
    """

    in_place: bool | None = None
    followed: bool | None = None
    misled: bool = False
    turned: bool = False
    path: tree.Path | None = None
    made: Remade = field(default_factory=Remade)
    version: int = 0
    found: bool = False
    withheld: str = ""  # why rows of an evaluation have no label
    notes: dict[str, None] = field(default_factory=dict)
    _losses: dict[Hashable, int] = field(default_factory=dict)
    _mixtures: dict[Hashable, bool] = field(default_factory=dict)  # form of a loss -> whether it is of mixtures
    _form: Hashable = None
    _labels: Tensor | None = None  # of the batch that is read

    def is_due(self, taken: bool, form: Hashable = None) -> bool:
        """Whether to look at the loss that comes.

        Args:
            taken: rows were taken on the way to the head.
            form: of the loss, such as one term or two: of each one, the first are looked at.
        """
        self._form = form
        count = self._losses[form] = self._losses.get(form, 0) + 1
        regular = count <= FIRST or count % EVERY == 0
        more = taken or self.in_place is False or self._mixtures.get(form, False) or self.made.is_watched
        return regular or (self.found and more)

    @property
    def wants_more(self) -> bool:
        """Whether some of the first losses are still to be looked at, and they are of classes."""
        seen, grows = sum(self._losses.values()), self.made.is_pending or self.made.grew
        return self.found and (seen < FIRST or (grows and seen < EVERY))

    @property
    def is_plain(self) -> bool:
        """Whether labels are those of the batch, in its order, as far as anybody knows."""
        moved = self.misled or self.followed is False or self.in_place is False
        return not moved and not self.made.is_watched

    @property
    def told(self) -> tuple[Any, ...]:
        """What ranks have to agree on."""
        return self.in_place, self.followed, self.misled, self.turned, self.path, self.made.table, self.made.varies

    def agree(self, others: Sequence[tuple[Any, ...]]) -> None:
        """All ranks read labels in one way: what some have seen is taken for all, and what they contradict is not."""
        if len(set(map(repr, others))) == 1:
            return
        places, follows, misled, turned, paths, tables, varies = zip(*others, strict=True)
        in_place = None if not any(one is not None for one in places) else all(one is not False for one in places)
        followed = None if not any(one is not None for one in follows) else all(one is not False for one in follows)
        self.made.agree(tables, any(varies))
        known = {one for one in paths if one is not None}
        path = known.pop() if len(known) == 1 else None
        self._set(in_place=in_place, followed=followed, misled=any(misled), turned=any(turned), path=path)
        self.version += 1

    def begin(self, reader: LabelReader) -> None:
        """Before a batch is read: where its labels are."""
        if reader.selector == "auto":
            reader.path = self.path if self.path is not None else reader.path
            reader.notes.update(self.notes)

    def see(
        self, calls: Sequence[Call], labels: Tensor | None, batch: Any, reader: LabelReader, trains: bool
    ) -> tuple[list[Call], Tensor | None]:
        """The calls and labels, in the light of what the loss scores.

        Args:
            calls: of the head.
            labels: of the batch, as they were read.
            batch: what the step got.
            reader: of the labels.
            trains: whether the batch is trained on.
        """
        scored = _one_a_row(calls[0]) if len(calls) == 1 else None
        if labels is None and scored is not None and reader.selector == "auto" and not reader.ignored:
            labels = self._find(scored, batch, reader)
        if scored is not None and labels is not None and labels.ndim == 1 and _tells(scored):
            labels = self._look(scored.to(labels.device), labels, batch, reader)
            if self.in_place and any(one.is_reordered or _moves(one.rows) for one in calls):
                self._set(misled=True)
        if labels is not None and labels.ndim == 1 and reader.selector == "auto":
            if not trains and self.made.table is not None and reader.scored is None:
                reader.scored = self.made.are_classes(labels)
            labels = self.made.of(labels, False if trains else reader.scored)
        self._labels = labels
        if self.in_place and self.misled:
            calls = [replace(one, rows=None, rows_of=None, is_reordered=False, in_place=True) for one in calls]
        return list(calls), labels

    def labels(self, one: Chosen, part: Pooled, given: Tensor, reader: LabelReader, trains: bool) -> Tensor:
        """The label of each row: the one that the loss scored, where it told; else as ``given`` by other evidence."""
        if not trains:
            moved = self.in_place is False or self.turned
            lost = self.in_place is not True and (self.followed is False or (moved and not one.origin))
            waits = self.made.is_pending or (self.made.table is not None and reader.scored is None)
            self.withheld = MOVED if lost else PENDING if waits and reader.selector == "auto" else ""
            if lost:
                reader.notes[MOVED] = None
            return torch.full_like(given, UNLABELLED) if lost else given
        if one.origin is not None and _goes_back(one.origin.samples) and not self.turned:
            self._set(turned=True)
        if len(one.call.scored) > 1:
            seen = one.origin is not None and one.origin.has_mixed  # row by row: some may have met themselves
            return given if seen else self._of_several(one.call, part, given, reader.notes)
        scored = _one_a_row(one.call)
        if scored is None or not len(given):
            return given
        rows = _row_labels(scored, part, given, reader.ignore_index)
        if rows is None or self._labels is None or not _is_of(rows, self._labels):
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
        """Two losses of one output against two orders of the labels: the rows are mixtures of samples."""
        first, *others = [t.reshape(-1) for t in call.scored]
        if any(t.shape != first.shape for t in others) or len(part.rows) != part.inputs:
            return given
        if all(torch.equal(t, first) for t in others):
            return given
        alike = max(float((t == first).double().mean()) for t in others)
        permuted = all(torch.equal(t.sort().values, first.sort().values) for t in others)
        # another target (a teacher's, a second task's) may have the same classes in a batch by chance, and agrees more
        mixed = self._mixtures[self._form] = permuted and alike < ALIKE and self._mixtures.get(self._form, True)
        if mixed:
            notes[MIXED] = None
        return torch.full_like(given, UNLABELLED) if mixed else given

    def _look(self, scored: Tensor, labels: Tensor, batch: Any, reader: LabelReader) -> Tensor:
        if scored.shape != labels.shape:
            return labels
        scored = _without_ignored(scored, reader.ignore_index)
        place = _without_ignored(labels.to(scored.dtype), reader.ignore_index)
        is_same = torch.equal(place, scored)
        if not is_same and torch.equal(place.sort().values, scored.sort().values):
            self._set(in_place=False)
            return labels
        if reader.selector != "auto":  # what the user has named is believed
            self._set(in_place=True if is_same and self.in_place is not False else self.in_place)
            return labels
        found = None if is_same else self._find(scored, batch, reader)
        if found is not None:
            return found
        before = self.made.table, self.made.is_pending
        self.made.learn(place, scored)
        if before != (self.made.table, self.made.is_pending):
            self.version += 1
        for holder in (self.notes, reader.notes):
            if self.made.table:
                holder[MAPPED] = None
            else:
                holder.pop(MAPPED, None)
        if is_same or self.made.table:
            self._set(in_place=self.in_place is not False)
        return labels

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


def _is_of(scored: Tensor, labels: Tensor) -> bool:
    """Whether no class is scored more often than the batch has it: else these are other numbers than its labels."""
    some = scored[scored >= 0]
    if not some.numel():
        return True
    size = int(max(some.max(), labels.max())) + 1
    there = torch.bincount(labels[labels >= 0].to(some), minlength=size)
    return bool((torch.bincount(some, minlength=size) <= there).all())


def _moves(rows: Tensor | None) -> bool:
    return rows is not None and not torch.equal(rows, torch.arange(len(rows), device=rows.device))


def _goes_back(samples: Tensor | None) -> bool:
    """Whether a later row is of an earlier sample."""
    return samples is not None and bool((samples[1:] < samples[:-1]).any())


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


def _called(path: tree.Path) -> str:
    first = path[0] if len(path) == 1 else tree.dotted(path)
    return f"part {first}" if isinstance(first, int) else repr(first)
