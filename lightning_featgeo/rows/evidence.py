"""Which calls of a batch count, whose samples they hold and which view each is: by evidence, and said where there is
none.

Three answers: *known* (what entered the network is the batch's, see ``provenance``), *contradicted* (another call of
the batch is known and this one is not: a fake, a decoding step, a replayed sample) and *unknown* (none is known: the
sizes of the calls decide, see ``views``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lightning_featgeo.rows.calls import MIXED, OTHERS, Call
from lightning_featgeo.rows.chosen import (
    Chosen,
    are_alike,
    by_row,
    first_view,
    is_another_view,
    is_stale,
    numbers,
    on_the_way,
    only,
    part_and_piece,
    shown_anew,
)
from lightning_featgeo.rows.origin import BY_MEMORY, Origin, main_inputs
from lightning_featgeo.rows.provenance import origin_of
from lightning_featgeo.rows.role import USUAL_ROLE, Role
from lightning_featgeo.rows.stacked import Stacked
from lightning_featgeo.rows.tree import Path, dotted
from lightning_featgeo.rows.words import BETWEEN, IN_ORDER, KNOWN, UNSEEN
from lightning_featgeo.types import Tensor

FIRST, EVERY = 3, 64  # batches whose values are compared: the first ones, then one in so many


@dataclass
class Evidence:
    """What is known of the calls, batch by batch: values are compared in the first batches and now and then, and in
    every batch where they were not the batch's own in order.

    Args:
        notes: what was assumed or left out, to be printed.
        role: what the layer is in its model.
        summary: why rows are believed to be their samples', in words; "" before a batch.
        changed: what it has become since, "" while it holds.
    """

    notes: dict[str, None] = field(default_factory=dict)
    role: Role = USUAL_ROLE
    summary: str = ""
    changed: str = ""
    batches: int = 0
    _loader: str | int | None = None  # of several that a batch is made of, the one whose samples count
    _moved: bool = False
    _mixed: bool = False  # rows were mixtures of samples in some batch
    _stacked: Stacked = field(default_factory=Stacked)
    _alike: dict[int, bool] = field(default_factory=dict)
    usual: Origin | None = None  # of the last batch that was the usual case: the same, again and again
    _known: dict[object, list[Origin | None]] = field(default_factory=dict)

    def origins(self, calls: Sequence[Call], parts: Sequence[Tensor]) -> list[Origin | None]:
        """Whose samples each call holds, as far as it is known."""
        if all(call.entered is None for call in calls):
            return [None] * len(calls)
        of_calls = [
            (call.features.shape[:1], call.state, tuple(x.shape for x in main_inputs(call.entered or ()))[:1])
            for call in calls
        ]
        pattern = (tuple(of_calls), tuple(part.shape[:1] for part in parts))
        reads = self.batches < FIRST or self.batches % EVERY == 0 or self._moved or pattern not in self._known
        found = [origin_of(call.entered, parts, reads) if call.entered else None for call in calls]
        if not reads:
            before = self._known[pattern]
            pairs = zip(found, before, calls, strict=True)
            if any(new is None and is_stale(old, call, parts) for new, old, call in pairs):
                reads = True  # what entered is no more what it was
                found = [origin_of(call.entered, parts) if call.entered else None for call in calls]
            else:
                found = [new or old for new, old in zip(found, before, strict=True)]
        if reads:
            given = [main_inputs(call.entered or ()) for call in calls]
            found = [self._stacked.settle(one, parts, x) for one, x in zip(found, given, strict=True)]
            self._known[pattern] = [one if one is not None and one.is_identity else None for one in found]
            self._moved |= any(one is not None and not one.is_identity and one.how != BY_MEMORY for one in found)
        self.batches += 1
        return [on_the_way(call, origin) for call, origin in zip(calls, found, strict=True)]

    def choose(
        self, calls: Sequence[Call], parts: Sequence[tuple[Path, Tensor]], home: Path | None, labelled: bool, size: int
    ) -> list[Chosen]:
        """The calls that count.

        Args:
            calls: of one batch, in order.
            parts: the batch's tensors with their paths.
            home: where the labels are in the batch; None: there are none, or nobody knows.
            labelled: whether the batch has labels.
            size: samples in the batch.
        """
        usual = self._the_batch_itself(calls, parts)
        if usual is not None:
            return usual
        calls = self._trained_on(calls) if self.role.trains else list(calls)
        origins = self.origins(calls, [tensor for _, tensor in parts])
        self._mixed = self._mixed or any(one is not None and one.has_mixed for one in origins)
        if any(one is not None for one in origins):
            origins = self._of_one_loader(origins, parts, home)
            found = self._known_calls(calls, origins, self.role.has_views or (self.role.trains and not labelled))
            if not found and self._loader is not None and self.role.several_loaders:
                return []  # the loader whose samples count has come to its end before the others
            hows = list(dict.fromkeys(one.origin.how for one in found if one.origin is not None))
            linked = all(one.call.is_linked for one in found)
            known = f"known by {' and '.join(hows)}" if linked else BETWEEN
            self._say(known if found else "no call is of this batch")
            return found
        if calls:
            self._say(IN_ORDER if any(call.entered for call in calls) else UNSEEN)
        # a last batch of few samples may be too small to show that it was mixed like the others
        return [Chosen(call, is_labelled=not self._mixed) for call in self._unknown_calls(calls, size)]

    def _the_batch_itself(self, calls: Sequence[Call], parts: Sequence[tuple[Path, Tensor]]) -> list[Chosen] | None:
        """The usual case, at the least cost: one call, on one of the batch's own tensors."""
        if len(calls) != 1 or self.role.several_loaders:
            return None
        (call,) = calls
        if call.entered is None or len(call.entered) != 1 or call.rows is not None:
            return None
        for number, (path, part) in enumerate(parts):
            if call.entered[0] is part and len(path) < 2 and part.shape[:1] == call.features.shape[:1]:
                self.batches += 1
                self._say(KNOWN if call.is_linked else BETWEEN)
                rows, last = part.shape[0], self.usual
                if last is None or (last.part, last.rows) != (number, rows):
                    last = self.usual = Origin(None, number, 0, rows, BY_MEMORY, span=(0, 1))
                return [Chosen(call, last)]
        return None

    def _say(self, how: str) -> None:
        """Keep the first batch's words, and those of a batch of which less is known."""
        self.summary = self.summary or how
        if self.summary.startswith("known") and not how.startswith("known"):
            self.changed = self.changed or how

    # --- which calls -----------------------------------------------------------------------------------------

    def _trained_on(self, calls: Sequence[Call]) -> list[Call]:
        if any(call.with_gradient for call in calls) and any(call.with_gradient is False for call in calls):
            self.notes["calls without gradient beside calls with it are no rows of the loss: they are left out"] = None
            calls = [call for call in calls if call.with_gradient is not False]
        if any(call.reached for call in calls) and any(call.reached is False for call in calls):
            self.notes["calls that the loss does not reach, beside calls that it does, are left out"] = None
            calls = [call for call in calls if call.reached is not False]
        return list(calls)

    def _of_one_loader(
        self, origins: Sequence[Origin | None], parts: Sequence[tuple[Path, Tensor]], home: Path | None
    ) -> list[Origin | None]:
        """Without the samples of loaders beside that of the labels (of the first one, if there are no labels)."""
        tops = [path[0] if len(path) > 1 else None for path, _ in parts]
        used = [tops[n] for one in origins if one is not None for n in numbers(one)]
        own = home[0] if home is not None and len(home) > 1 else None
        if home is None and self.role.several_loaders:
            names = [path[0] for path, _ in parts]
            tops, own = list(names), next((names[n] for one in origins if one is not None for n in numbers(one)), None)
            used = [tops[n] for one in origins if one is not None for n in numbers(one)]
        if self._loader is not None and self.role.several_loaders:
            own = self._loader  # also where its samples have come to an end before those of the others
        elif own is None or own not in used or len(set(used)) == 1:
            return list(origins)
        self._loader = own
        others = dict.fromkeys(dotted((top,)) for top in used if top is not None and top != own)
        self.notes[f"samples of another loader ({', '.join(others)}) are left out"] = None
        allowed = [number for number, top in enumerate(tops) if top == own]
        return [None if one is None else only(one, allowed) for one in origins]

    def _known_calls(self, calls: Sequence[Call], origins: Sequence[Origin | None], dropout: bool) -> list[Chosen]:
        """Each sample once a view. ``dropout``: the same input twice before a backward is two views."""
        found: list[Chosen] = []
        views: dict[tuple[int, int], int] = {}
        shape: torch.Size | None = None
        exact = any(one is not None and not one.changed for one in origins)
        for number, (call, origin) in enumerate(zip(calls, origins, strict=True)):
            if origin is None:
                self._leave_out_unknown(call, calls, found, views)
                continue
            given = main_inputs(call.entered or ())
            if origin.has_mixed:
                self.notes[MIXED] = None
            if origin.lacks_some:
                self.notes[OTHERS] = None
            if origin.changed:
                if self.role.is_classifier and (exact or found):
                    self.notes[
                        "calls on changed copies of the samples are left out: a classifier's first call counts. If "
                        "they are views, say so with views="
                    ] = None
                    continue
                if any(one.call.state != call.state for one in found):
                    self.notes["a batch is evaluated several times: its first evaluation counts"] = None
                    continue
                origin = replace(origin, piece=origin.piece + (1 << 40) * (1 + number))
            if not isinstance(origin.part, int) or not isinstance(origin.piece, int):
                found.append(by_row(call, origin, views))
                continue
            key = (origin.part, origin.piece)
            full = origin.changed or not origin.piece
            if key not in views and shape is not None and given and given[0].shape[1:] != shape and not full:
                self.notes["calls on a part of each sample are left out (a prefix that is decoded from?)"] = None
                continue
            shape = given[0].shape[1:] if shape is None and given else shape
            earlier = [one for one in found if one.origin is not None and part_and_piece(one.origin) == key]
            keep = None
            if earlier:
                new = shown_anew(origin, earlier)
                if new is False and dropout and is_another_view(call, earlier):
                    key = (origin.part, hash(("again", len(earlier))))
                elif new is False:
                    self.notes["a batch is evaluated several times: its first evaluation counts"] = None
                    continue
                keep = new if isinstance(new, torch.Tensor) else None
            view = views.setdefault(key, len(views))
            found.append(Chosen(call, origin, view, keep, origin.unmixed))
        alone = self._without_others(found, len(views))
        if alone is found and len(views) > 1:
            what = (
                f"{len(views)} inputs of the batch" if len({part for part, _ in views}) > 1 else "parts or copies of it"
            )
            self.notes[
                f"{what} are taken as {len(views)} views of a sample; signals of one view use the first. If they are "
                "other samples, say so with views=None"
            ] = None
        return alone

    def _without_others(self, found: list[Chosen], views: int) -> list[Chosen]:
        """Of three inputs and more, those that resemble the first: negatives and passages are no views of it.

        Images are believed to be crops, which need not resemble each other element by element.
        """
        inputs = [x for one in found for x in main_inputs(one.call.entered or ())[:1]]
        changed = any(one.origin is not None and one.origin.changed for one in found)
        if views < 2 or len(inputs) < len(found) or inputs[0].ndim > 3 or changed or self.role.has_views:
            return found
        if views not in self._alike or self.batches <= FIRST or self.batches % EVERY == 0:
            self._alike[views] = are_alike(found, inputs)
        if self._alike[views]:
            return found
        self.notes[
            "inputs of the batch do not resemble each other (pairs, negatives, passages?): rows of the first one "
            "count. If they are views, ask for signals of views, such as signals=['alignment', 'lidar']"
        ] = None
        return [one for one in map(first_view, found) if one is not None]

    def _leave_out_unknown(
        self, call: Call, calls: Sequence[Call], found: list[Chosen], views: dict[tuple[int, int], int]
    ) -> None:
        """Beside calls that are known, one that is not is left out; smaller crops beside global ones are views."""
        first = found[0] if found else None
        given, known = main_inputs(call.entered or ()), main_inputs(first.call.entered or ()) if first else []
        if first is not None and first.origin is not None and given and known and not self.role.is_classifier:
            n = int(first.origin.rows)
            images = given[0].is_floating_point() and given[0].ndim == known[0].ndim == 4
            crops = images and given[0].shape[1:] != known[0].shape[1:] and given[0].shape[0] == call.features.shape[0]
            if crops and call.state == first.call.state and n and given[0].shape[0] % n == 0 and len(views) == 1:
                index = torch.arange(given[0].shape[0], device=call.features.device)
                key = -1 - len(calls) - len(found)
                origin = Origin(index % n, 0, index // n + key * (1 << 20), len(index), IN_ORDER, changed=True)
                found.append(by_row(call, origin, views))
                self.notes["images of another size are taken as further crops of the same samples, in order"] = None
                return
        self.notes[
            "calls are left out in which something else than this batch's samples entered the network "
            "(generated, decoded, replayed or changed ones); if they are views, say so with views="
        ] = None

    def _unknown_calls(self, calls: Sequence[Call], size: int) -> list[Call]:
        """Calls whose samples nobody knows: those of the first weights, and of a classifier the first that fits."""
        first = [call for call in calls if call.state == calls[0].state] if calls else []
        rows = sum(call.features.shape[0] for call in first if call.features.ndim)
        if 0 < size <= rows and len(first) < len(calls):
            self.notes["a batch is evaluated several times: its first evaluation counts"] = None
            calls = first
        fitting = [call for call in calls if call.features.ndim and call.features.shape[0] == size]
        images = all(x.ndim == 4 for call in calls for x in main_inputs(call.entered or ())[:1])
        if len(fitting) > 2 and not (self.role.has_views or images):
            self.notes[
                f"{len(calls)} calls in a batch, on no copy of it (an iteration, sampling?): the first call counts"
            ] = None
            return fitting[:1]
        if self.role.is_classifier and fitting and len(calls) > 1:
            self.notes[
                f"a batch calls the classifier {len(calls)} times: the first call counts. If they are views, say so "
                "with views="
            ] = None
            return fitting[:1]
        return list(calls)
