"""What a training loss tells of labels: it keeps the classes that it scores, row by row as they leave the network.

That is the strongest evidence there is, and the only one that sees through layers: whether rows still are in the
batch's order at the head (sorted for a packed sequence, and sorted back), which part of the batch holds the classes,
and whether the step makes others of them. It is taken where a graph is, and holds for evaluation as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.calls import MIXED, Call
from lightning_featgeo.rows.chosen import Chosen
from lightning_featgeo.rows.evaluated import lost_labels
from lightning_featgeo.rows.labels import LabelReader
from lightning_featgeo.rows.left_out import LeftOut
from lightning_featgeo.rows.pooling import Pooled
from lightning_featgeo.rows.remade import Remade
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.rows.scored_calls import ScoredCalls, scored_part
from lightning_featgeo.rows.scored_rows import (
    are_alike,
    are_orders,
    called,
    goes_back,
    is_function,
    is_of,
    is_of_before,
    is_the_same,
    maps_scored,
    moves,
    one_a_row,
    row_labels,
    tells,
    without_ignored,
)
from lightning_featgeo.rows.words import MAPPED, OTHER_PART, OTHERS_SCORED, PENDING
from lightning_featgeo.types import Tensor

L = TypeVar("L", Tensor, None)
FIRST, EVERY = 3, 64  # losses that are looked at: the first ones, then one in so many, and where rows were taken


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
    calls: ScoredCalls = field(default_factory=ScoredCalls)
    left_out: LeftOut = field(default_factory=LeftOut)
    is_late: bool = False  # a step trained on other samples than its batch's
    turns_maps: bool = False  # whether a training step moves maps of labels, together with their images
    _losses: dict[Hashable, int] = field(default_factory=dict)
    _mixtures: dict[Hashable, bool] = field(default_factory=dict)  # form of a loss -> whether it is of mixtures
    _form: Hashable = None
    _again: int = 0  # losses of this epoch that are still to be looked at
    _for_order: bool = False  # whether this one is looked at for that alone: the order of rows, not their classes
    _labels: Tensor | None = None  # of the batch that is read, as it has them
    trained: Tensor | None = None  # of the last batch that was trained on
    _before: Tensor | None = None  # and of the one before it
    _maps: bool = False  # whether they are one a sample, and nobody has said which ones

    def is_due(self, taken: bool, form: Hashable = None) -> bool:
        """Whether to look at the loss that comes. ``taken``: rows were taken on the way to the head.
        ``form``: of the loss, such as one term or two: of each one, the first are looked at."""
        self._form = form
        count = self._losses[form] = self._losses.get(form, 0) + 1
        regular, again = count <= FIRST or count % EVERY == 0, self._again > 0
        self._again = max(0, self._again - 1)
        more = taken or self.calls.is_watched or self.turns_maps or self.is_late or self.in_place is False
        more = more or self._mixtures.get(form, False) or self.made.is_watched or self.left_out.is_watched
        self._for_order = again and not (regular or more)
        return regular or again or (self.found and more)

    def begin_epoch(self) -> None:
        """Loaders may have another order from now on: the first losses are looked at anew."""
        self._again = FIRST

    @property
    def wants_more(self) -> bool:
        """Whether some of the first losses are still to be looked at, and they are of classes."""
        seen, grows = sum(self._losses.values()), self.made.is_pending or self.made.grew
        return self.found and (seen < FIRST or (grows and seen < EVERY))

    @property
    def is_plain(self) -> bool:
        """Whether labels are those of the batch, in its order, as far as anybody knows."""
        watched = self.made.is_watched or self.calls.is_watched or self.left_out.is_watched or self.turns_maps
        return not (watched or self.is_late or self.misled or self.followed is False or self.in_place is False)

    @property
    def told(self) -> tuple[Any, ...]:
        """What ranks have to agree on."""
        made, calls = self.made, self.calls
        seen = self.misled, self.turned, made.varies, self.turns_maps, calls.had_parts, calls.is_cut
        return self.in_place, self.followed, self.path, made.table, calls.only, seen, self.left_out.told

    def agree(self, others: Sequence[tuple[Any, ...]]) -> None:
        """All ranks read labels in one way: what some have seen is taken for all, and what they contradict is not."""
        if len(set(map(repr, others))) == 1:
            return
        places, follows, paths, tables, only, seen, left_out = zip(*others, strict=True)
        misled, turned, varies, turns, parts, cut = (any(each) for each in zip(*seen, strict=True))
        in_place = None if not any(one is not None for one in places) else all(one is not False for one in places)
        followed = None if not any(one is not None for one in follows) else all(one is not False for one in follows)
        self.made.agree(tables, varies)
        self.calls.agree(only, parts, cut)
        self.left_out.agree(left_out)
        known = {one for one in paths if one is not None}
        path = known.pop() if len(known) == 1 else None
        self._set(in_place=in_place, followed=followed, misled=misled, turned=turned, path=path, turns_maps=turns)
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
        if labels is not None and labels.ndim == 1 and reader.selector == "auto":
            part = scored_part(calls)
            if part is not None and not (part.shape == labels.shape and torch.equal(part.to(labels), labels)):
                labels = self._find(part, batch, reader, labels)
            calls = self.calls.choose(calls, labels, reader.ignore_index, trains, reader.notes)
        if labels is not None and labels.ndim > 1 and reader.selector == "auto":
            maps = maps_scored(calls, labels, reader.ignore_index) if trains else None
            self.turns_maps, labels = self.turns_maps or maps is not None, labels if maps is None else maps
        scored = one_a_row(calls[0]) if len(calls) == 1 else None
        if labels is None and scored is not None and reader.selector == "auto" and not reader.ignored:
            labels = self._find(scored, batch, reader, None)
        if scored is not None and labels is not None and labels.ndim == 1 and tells(scored):
            labels = self._look(scored.to(labels.device), labels, batch, reader)
            if self.in_place and any(one.is_reordered or moves(one.rows) for one in calls):
                self._set(misled=self.misled or is_the_same(scored, labels, reader.ignore_index))
        self._maps = labels is not None and labels.ndim == 1 and reader.selector == "auto"
        if self._maps and labels is not None and not trains and self.made.table is not None and reader.scored is None:
            reader.scored = self.made.are_classes(labels)
        self._labels = labels
        if trains:
            self._before, self.trained = self.trained, labels
        if self.in_place and self.misled:
            calls = [replace(one, rows=None, rows_of=None, is_reordered=False, in_place=True) for one in calls]
        return list(calls), labels

    def labels(self, one: Chosen, part: Pooled, given: Tensor, reader: LabelReader, trains: bool) -> Tensor:
        """The class of each row that the loss scored, where it told; else what the step makes of ``given``, the label
        by other evidence."""
        if not trains:
            lost = lost_labels(self, one, reader)
            waits = self.made.is_pending or (self.made.table is not None and reader.scored is None)
            self.withheld = lost or (PENDING if waits and reader.selector == "auto" else "")
            reader.notes.update({lost: None} if lost else {})
            return torch.full_like(given, UNLABELLED) if lost else self._classes(given, reader.scored)
        if not self.turned and one.origin is not None and one.origin.span is None and goes_back(one.origin.samples):
            self._set(turned=True)
        if len(one.call.scored) > 1:
            seen = one.origin is not None and one.origin.has_mixed  # row by row: some may have met themselves
            given = self._classes(given)
            return given if seen else self._of_several(one.call, part, given, reader.notes)
        scored = one_a_row(one.call)
        rows = None if scored is None or not len(given) else row_labels(scored, part, given, reader.ignore_index)
        if rows is None or self._labels is None:
            return self._classes(given)
        if self._maps and not self._for_order:
            self._learn(rows, given, reader)
            self.version += self.left_out.learn(rows, given)
            reader.notes.update({self.left_out.note: None} if self.left_out.note else {})
            given = self.left_out.of(rows, given)
        return self._followed(one, rows, self._classes(given), reader)

    def _followed(self, one: Chosen, rows: Tensor, given: Tensor, reader: LabelReader) -> Tensor:
        """The classes that the loss scored, ``rows``, if they are another order of those that the batch has."""
        both = (rows >= 0) & (given >= 0)
        has_none = one.call.is_mixed or one.is_labelled is False
        if self.calls.in_parts:
            self._set(followed=bool((rows == given)[both].all()) and self.followed is not False)
            return rows
        if bool(both.any()):
            if self._for_order and are_alike(rows[both], given[both]) and not torch.equal(rows[both], given[both]):
                return given  # noise: a few labels were changed
            if not has_none and torch.equal(rows.sort().values, given.sort().values):
                both = torch.ones_like(both)  # samples without a class, too, are in other places
            elif not torch.equal(rows[both].sort().values, given[both].sort().values):
                if self._maps and one.origin is None and is_of_before(rows, self._before):
                    self.is_late, reader.notes[OTHERS_SCORED] = True, None
                    return rows  # of other samples than the batch's: those of the step before
                return given  # other classes: those that a user has named, or of episodes and tasks
            agrees = bool((rows == given)[both].all())
            self._set(
                followed=agrees and self.followed is not False,
                misled=self.misled or (bool(self.in_place) and not agrees),
            )
            return given if has_none else torch.where(both, rows, given)
        whole = self._classes(self._labels) if self._labels is not None else rows
        return rows if one.call.is_reordered and not has_none and is_of(rows, whole) else given

    def _classes(self, labels: Tensor, are_classes: bool | None = False) -> Tensor:
        """What the step makes of labels."""
        return self.made.of(labels, are_classes) if self._maps else labels

    def _learn(self, rows: Tensor, given: Tensor, reader: LabelReader) -> None:
        """What the step makes of labels: from rows whose labels are known by other evidence, or by their place."""
        before = self.made.table, self.made.is_pending
        there, place = given >= 0, self._labels
        by_place = False
        if place is not None and place.shape == rows.shape and not (bool(there.any()) and is_function(given, rows)):
            place = without_ignored(place.to(rows), reader.ignore_index)
            by_place = is_function(place, rows)
            if by_place and not torch.equal(place, rows):
                given, there = place, place >= 0
        if bool(there.any()):
            self.made.learn(given[there], rows[there])
        if before != (self.made.table, self.made.is_pending):
            self.version += 1
        for holder in (self.notes, reader.notes):
            if self.made.table:
                holder[MAPPED] = None
            else:
                holder.pop(MAPPED, None)
        if by_place and self.made.table:
            self._set(in_place=self.in_place is not False, misled=True)

    def _of_several(self, call: Call, part: Pooled, given: Tensor, notes: dict[str, None]) -> Tensor:
        """Two losses of one output against two orders of the labels: the rows are mixtures of samples."""
        permuted = are_orders(call.scored) if len(part.rows) == part.inputs else None
        if permuted is None:
            return given
        mixed = self._mixtures[self._form] = permuted and self._mixtures.get(self._form, True)
        if mixed:
            notes[MIXED] = None
        return torch.full_like(given, UNLABELLED) if mixed else given

    def _look(self, scored: Tensor, labels: Tensor, batch: Any, reader: LabelReader) -> Tensor:
        if scored.shape != labels.shape:
            return self._find(scored, batch, reader, labels) if reader.selector == "auto" else labels
        scored = without_ignored(scored, reader.ignore_index)
        place = without_ignored(labels.to(scored.dtype), reader.ignore_index)
        is_same = torch.equal(place, scored)
        if not is_same and torch.equal(place.sort().values, scored.sort().values):
            self._set(in_place=self.in_place if self._for_order and are_alike(place, scored) else False)
            return labels
        if reader.selector != "auto":  # what the user has named is believed
            self._set(in_place=True if is_same and self.in_place is not False else self.in_place)
            return labels
        if not is_same:
            return self._find(scored, batch, reader, labels)
        self._set(in_place=self.in_place is not False)
        return labels

    def _find(self, scored: Tensor, batch: Any, reader: LabelReader, otherwise: L) -> Tensor | L:
        """The part of the batch that is what the loss scores; ``otherwise`` where there is none."""
        for path, x in tree.tensors(batch) if tells(scored) else ():
            if x.shape == scored.shape and not x.is_floating_point() and torch.equal(x.to(scored), scored):
                home = reader.home(batch)
                other = f", and not {called(home)}" if home is not None else ""
                told = OTHER_PART.format(part=called(path), other=other)
                self.notes[told] = reader.notes[told] = None
                reader.path, reader.kind = path, "classes"
                self._set(path=path, in_place=self.in_place is not False)
                return x.to(torch.int64)
        return otherwise

    def _set(self, **told: Any) -> None:
        if any(getattr(self, name) != value for name, value in told.items()):
            self.version += 1
        for name, value in told.items():
            setattr(self, name, value)
