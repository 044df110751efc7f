"""Which calls of a batch count, whose samples they hold and which view each is: by evidence, and said where there is
none.

Three answers: *known* (what entered the network is the batch's, see ``provenance``), *contradicted* (another call of
the batch is known and this one is not: a fake, a decoding step, a replayed sample) and *unknown* (none is known: the
sizes of the calls decide, see ``views``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.provenance import BY_MEMORY, Origin, main_inputs, origin_of
from lightning_featgeo.rows.tree import Path, dotted
from lightning_featgeo.types import Tensor

FIRST, EVERY = 3, 64  # batches whose values are compared: the first ones, then one in so many
IN_ORDER = "taken in order (not verified: what enters the network is no copy of the batch)"
UNSEEN = "taken in order (not verified: what enters the network can't be seen)"


@dataclass(frozen=True)
class Chosen:
    """A call that counts.

    Attributes:
        call: it.
        origin: whose samples it holds; None: unknown.
        view: of its rows, one for all or one a row.
        keep: (m,) False for rows of samples that don't count; None: all do.
    """

    call: Call
    origin: Origin | None = None
    view: int | Tensor = 0
    keep: Tensor | None = None


@dataclass
class Evidence:
    """What is known of the calls, batch by batch: values are compared in the first batches and now and then, and in
    every batch where they were not the batch's own in order.

    Args:
        notes: what was assumed or left out, to be printed.
        several_loaders: the batch's outermost parts are batches of different loaders.
        summary: why rows are believed to be their samples', in words; "" before a batch.
        changed: what it has become since, "" while it holds.
    """

    notes: dict[str, None] = field(default_factory=dict)
    several_loaders: bool = False
    summary: str = ""
    changed: str = ""
    batches: int = 0
    _moved: bool = False
    _known: dict[object, list[Origin | None]] = field(default_factory=dict)

    def origins(self, calls: Sequence[Call], parts: Sequence[Tensor]) -> list[Origin | None]:
        """Whose samples each call holds, as far as it is known."""
        if all(call.entered is None for call in calls):
            return [None] * len(calls)
        pattern = tuple(
            (call.features.shape[:1], call.state, tuple(x.shape for x in main_inputs(call.entered or ()))[:1])
            for call in calls
        )
        reads = self.batches < FIRST or self.batches % EVERY == 0 or self._moved or pattern not in self._known
        found = [origin_of(call.entered, parts, reads) if call.entered else None for call in calls]
        if reads:
            self._known[pattern] = [one if one is not None and one.is_identity else None for one in found]
            self._moved = any(one is not None and not one.is_identity and one.how != BY_MEMORY for one in found)
        else:
            found = [new or old for new, old in zip(found, self._known[pattern], strict=True)]
        self.batches += 1
        return found

    def choose(
        self,
        calls: Sequence[Call],
        parts: Sequence[tuple[Path, Tensor]],
        home: Path | None,
        trains: bool,
        is_classifier: bool,
        labelled: bool,
        size: int,
    ) -> list[Chosen]:
        """The calls that count.

        Args:
            calls: of one batch, in order.
            parts: the batch's tensors with their paths.
            home: where the labels are in the batch; None: there are none, or nobody knows.
            trains: whether the batch is trained on: then calls without gradient are no rows of the loss.
            is_classifier: whether the layer feeds a classifier: then a second call is no view.
            labelled: whether the batch has labels.
            size: samples in the batch.
        """
        calls = self._trained_on(calls) if trains else list(calls)
        origins = self.origins(calls, [tensor for _, tensor in parts])
        if any(one is not None for one in origins):
            origins = self._of_one_loader(origins, parts, home)
            found = self._known_calls(calls, origins, trains and not labelled)
            hows = list(dict.fromkeys(one.origin.how for one in found if one.origin is not None))
            self._say(f"known by {' and '.join(hows)}" if found else "no call is of this batch")
            return found
        if calls:
            self._say(IN_ORDER if any(call.entered for call in calls) else UNSEEN)
        return [Chosen(call) for call in self._unknown_calls(calls, is_classifier, size)]

    def _say(self, how: str) -> None:
        """Keep the first batch's words, and those of a batch of which less, or something else, is known."""
        self.summary = self.summary or how
        if how.startswith("known") != self.summary.startswith("known"):
            self.changed = self.changed or how

    # --- which calls -----------------------------------------------------------------------------------------

    def _trained_on(self, calls: Sequence[Call]) -> list[Call]:
        if any(call.with_gradient for call in calls) and any(call.with_gradient is False for call in calls):
            self.notes["calls without gradient beside calls with it are no rows of the loss: they are left out"] = None
            return [call for call in calls if call.with_gradient is not False]
        return list(calls)

    def _of_one_loader(
        self, origins: Sequence[Origin | None], parts: Sequence[tuple[Path, Tensor]], home: Path | None
    ) -> list[Origin | None]:
        """Without the samples of loaders beside that of the labels (of the first one, if there are no labels)."""
        tops = [path[0] if len(path) > 1 else None for path, _ in parts]
        used = [tops[n] for one in origins if one is not None for n in _numbers(one)]
        own = home[0] if home is not None and len(home) > 1 else None
        if home is None and self.several_loaders:
            names = [path[0] for path, _ in parts]
            tops, own = list(names), next((names[n] for one in origins if one is not None for n in _numbers(one)), None)
            used = [tops[n] for one in origins if one is not None for n in _numbers(one)]
        if own is None or own not in used or len(set(used)) == 1:
            return list(origins)
        others = dict.fromkeys(dotted((top,)) for top in used if top is not None and top != own)
        self.notes[f"samples of another loader ({', '.join(others)}) are left out"] = None
        allowed = [number for number, top in enumerate(tops) if top == own]
        return [None if one is None else _only(one, allowed) for one in origins]

    def _known_calls(self, calls: Sequence[Call], origins: Sequence[Origin | None], dropout: bool) -> list[Chosen]:
        """Each sample once a view. ``dropout``: the same input twice before a backward is two views."""
        found: list[Chosen] = []
        views: dict[tuple[int, int], int] = {}
        shape: torch.Size | None = None
        several = sum(one is not None for one in origins) > 1
        for call, origin in zip(calls, origins, strict=True):
            if origin is None:
                self.notes[
                    "calls are left out in which something else than this batch's samples entered the network "
                    "(generated, decoded, replayed or changed ones); if they are views, say so with views="
                ] = None
                continue
            given = main_inputs(call.entered or ())
            if not isinstance(origin.part, int) or not isinstance(origin.piece, int):
                found.append(_by_row(call, origin, views))
                continue
            key = (origin.part, origin.piece)
            if key not in views and shape is not None and given and given[0].shape[1:] != shape and origin.piece:
                self.notes["calls on a part of each sample are left out (a prefix that is decoded from?)"] = None
                continue
            shape = given[0].shape[1:] if shape is None and given else shape
            earlier = [one for one in found if one.origin is not None and _key(one.origin) == key]
            keep = None
            if earlier and several:
                fresh = _fresh(origin, earlier)
                if fresh is False and dropout and _is_another_view(call, earlier):
                    key = (origin.part, hash(("again", len(earlier))))
                elif fresh is False:
                    self.notes["a batch is evaluated several times: its first evaluation counts"] = None
                    continue
                keep = fresh if isinstance(fresh, torch.Tensor) else None
            found.append(Chosen(call, origin, views.setdefault(key, len(views)), keep))
        if len(views) > 1:
            self.notes[
                f"{len(views)} inputs of the batch are taken as views of the same samples; signals of one view use the "
                "first. If they are other samples (pairs, triplets), say so with views=None"
            ] = None
        return found

    def _unknown_calls(self, calls: Sequence[Call], is_classifier: bool, size: int) -> list[Call]:
        """Calls whose samples nobody knows: those of the first weights, and of a classifier the first that fits."""
        first = [call for call in calls if call.state == calls[0].state] if calls else []
        rows = sum(call.features.shape[0] for call in first if call.features.ndim)
        if 0 < size <= rows and len(first) < len(calls):
            self.notes["a batch is evaluated several times: its first evaluation counts"] = None
            calls = first
        fitting = [call for call in calls if call.features.ndim and call.features.shape[0] == size]
        if is_classifier and fitting and len(calls) > 1:
            self.notes[
                f"a batch calls the classifier {len(calls)} times: the first call counts. If they are views, say so "
                "with views="
            ] = None
            return fitting[:1]
        return list(calls)


def _numbers(origin: Origin) -> list[int]:
    return [origin.part] if isinstance(origin.part, int) else origin.part[_held(origin)].unique().tolist()


def _held(origin: Origin) -> Tensor | slice:
    return slice(None) if origin.samples is None else origin.samples >= 0


def _key(origin: Origin) -> tuple[int, int] | None:
    return (origin.part, origin.piece) if isinstance(origin.part, int) and isinstance(origin.piece, int) else None


def _only(origin: Origin, allowed: Sequence[int]) -> Origin | None:
    """An origin without rows of other parts; None if nothing is left."""
    if isinstance(origin.part, int):
        return origin if origin.part in allowed else None
    inside = torch.isin(origin.part, torch.tensor(list(allowed), device=origin.part.device))
    samples = torch.arange(origin.rows, device=origin.part.device) if origin.samples is None else origin.samples
    return Origin(torch.where(inside, samples, -1), origin.part, origin.piece, origin.rows, origin.how)


def _by_row(call: Call, origin: Origin, views: dict[tuple[int, int], int]) -> Chosen:
    """A call that holds several of the batch's tensors, or several pieces of each sample."""
    first = torch.zeros(origin.rows, dtype=torch.int64, device=call.features.device)
    part = first + origin.part if isinstance(origin.part, int) else origin.part.to(first.device)
    piece = first + origin.piece if isinstance(origin.piece, int) else origin.piece.to(first.device)
    view = first.clone()
    held = torch.ones_like(first, dtype=torch.bool) if origin.samples is None else origin.samples.to(first.device) >= 0
    for one, other in torch.unique(torch.stack([part[held], piece[held]], dim=1), dim=0).tolist():
        number = views.setdefault((one, other), len(views))
        view[(part == one) & (piece == other)] = number
    return Chosen(call, origin, view)


def _indices(origin: Origin) -> Tensor:
    return torch.arange(origin.rows) if origin.samples is None else origin.samples


def _fresh(origin: Origin, earlier: Sequence[Chosen]) -> Tensor | bool:
    """Which rows show samples that no earlier call has shown: a mask; False: none; True: all."""
    taken = [one.origin for one in earlier if one.origin is not None]
    if origin.span is not None and all(one.span is not None for one in taken):
        ours = set(range(origin.span[0], origin.span[0] + origin.span[1] * origin.rows, origin.span[1]))
        theirs = {
            i for one in taken if one.span is not None
            for i in range(one.span[0], one.span[0] + one.span[1] * one.rows, one.span[1])
        }  # fmt: skip
        if not ours & theirs:
            return True
        if ours <= theirs:
            return False
    device = next((one.samples.device for one in [*taken, origin] if one.samples is not None), None)
    old = torch.cat([_indices(one).to(device) for one in taken])
    mask = ~torch.isin(_indices(origin).to(device), old)
    return mask if bool(mask.any()) else False


def _is_another_view(call: Call, earlier: Sequence[Chosen]) -> bool:
    """Whether the same input gave other features with the same weights: dropout, as in SimCSE."""
    if any(one.call.state != call.state for one in earlier):
        return False
    return not any(
        one.call.features.shape == call.features.shape and torch.equal(one.call.features, call.features)
        for one in earlier
    )


def refuse_parts(inputs: int, call: Call, size: int) -> None:
    """Features that are several a sample, and nobody knows what they are.

    Raises:
        ConfigurationError: with the lines that say what they are.
    """
    given = main_inputs(call.entered or ())
    entered = given[0].shape[0] if given else 0
    if not size or inputs <= size or entered != size or inputs % size:
        return
    k = inputs // size
    raise ConfigurationError(
        f"{size} samples entered the network and {inputs} rows of features came out: {k} a sample, which may be "
        f"regions, frames or tokens of it, or views made inside of the model. Say which:\n"
        f"  FeatureGeometryMonitor(views='v b')  # {k} views, one after the other\n"
        f"  FeatureGeometryMonitor(views='b v')  # {k} views of a sample next to each other\n"
        f"or watch a layer that keeps a sample's parts on an axis of their own, with layer= and pool="
    )
