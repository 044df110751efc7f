"""Calls that count, and what is asked of them: whose samples they show, which of them anew, which views resemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.likeness import resemble
from lightning_featgeo.rows.origin import BY_CONTENT, BY_MEMORY, Origin, main_inputs
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

SPOTS = 64  # elements of a row that are looked at between two readings


@dataclass(frozen=True)
class Chosen:
    """A call that counts.

    Attributes:
        call: it.
        origin: whose samples it holds; None: unknown.
        view: of its rows, one for all or one a row.
        keep: (m,) False for rows of samples that don't count; None: all do.
        is_labelled: whether rows have their samples' labels: mixtures, and rows in an unknown order, have none; of
            all, or (m,) of each.
    """

    call: Call
    origin: Origin | None = None
    view: int | Tensor = 0
    keep: Tensor | None = None
    is_labelled: bool | Tensor = True

    def labels(self, given: Tensor, row: Tensor) -> Tensor:
        """Labels of rows, each made of one of the call's (``row``), without those of rows that have none."""
        if isinstance(self.is_labelled, Tensor):
            given = torch.where(self.is_labelled.to(given.device)[row], given, UNLABELLED)
        none = self.is_labelled is False or self.call.is_reordered or self.call.is_mixed
        return torch.full_like(given, UNLABELLED) if none else given


def on_the_way(call: Call, origin: Origin | None) -> Origin | None:
    """The origin of a call's features, where rows were taken between the network's modules; None if they don't fit."""
    if origin is not None and call.rows is not None:
        origin = origin.taken(call.rows % origin.rows) if call.rows_of in (None, origin.rows) else None
    if origin is not None and call.in_place:
        one = isinstance(origin.part, int) and isinstance(origin.piece, int)
        origin = replace(origin, samples=None, span=(0, 1)) if one else None
    same = origin is not None and call.features.ndim and origin.rows == call.features.shape[0]
    return origin if same else None


def is_stale(before: Origin | None, call: Call, parts: Sequence[Tensor]) -> bool:
    """Whether what entered is no more the batch, as it was: another memory, or other values in some places.

    On a device, where looking would have to wait, only the memory is looked at.
    """
    given = main_inputs(call.entered or ())
    if before is None or not given:
        return False
    if before.how == BY_MEMORY:
        return True
    if before.how != BY_CONTENT or not isinstance(before.part, int) or given[0].device.type != "cpu":
        return False
    x, part = given[0], parts[before.part]
    if x.shape != part.shape or not len(x):
        return True
    x, part = x.flatten(1), part.flatten(1)
    step = max(1, x.shape[1] // SPOTS)  # spread over the row: a part of an image may be pasted in
    return not torch.equal(x[:, ::step].to(part.dtype), part[:, ::step])


def numbers(origin: Origin) -> list[int]:
    """Which of the batch's tensors its rows show."""
    return [origin.part] if isinstance(origin.part, int) else origin.part[held(origin)].unique().tolist()


def held(origin: Origin) -> Tensor | slice:
    """Its rows that show a sample."""
    return slice(None) if origin.samples is None else origin.samples >= 0


def part_and_piece(origin: Origin) -> tuple[int, int] | None:
    """Part and piece, where all rows have the same."""
    return (origin.part, origin.piece) if isinstance(origin.part, int) and isinstance(origin.piece, int) else None


def only(origin: Origin, allowed: Sequence[int]) -> Origin | None:
    """An origin without rows of other parts; None if nothing is left."""
    if isinstance(origin.part, int):
        return origin if origin.part in allowed else None
    inside = torch.isin(origin.part, torch.tensor(list(allowed), device=origin.part.device))
    samples = torch.arange(origin.rows, device=origin.part.device) if origin.samples is None else origin.samples
    return Origin(torch.where(inside, samples, -1), origin.part, origin.piece, origin.rows, origin.how)


def by_row(call: Call, origin: Origin, views: dict[tuple[int, int], int]) -> Chosen:
    """A call that holds several of the batch's tensors, or several pieces of each sample."""
    first = torch.zeros(origin.rows, dtype=torch.int64, device=call.features.device)
    part = first + origin.part if isinstance(origin.part, int) else origin.part.to(first.device)
    piece = first + origin.piece if isinstance(origin.piece, int) else origin.piece.to(first.device)
    view = first.clone()
    held = torch.ones_like(first, dtype=torch.bool) if origin.samples is None else origin.samples.to(first.device) >= 0
    pairs, many = torch.unique(torch.stack([part[held], piece[held]], dim=1), dim=0, return_counts=True)
    if isinstance(origin.part, int) and len(set(many.tolist())) > 1 and not origin.changed:
        return Chosen(call, origin, 0)  # as many pieces as a sample happens to have: steps or tokens, no views
    for one, other in pairs.tolist():
        number = views.setdefault((one, other), len(views))
        view[(part == one) & (piece == other)] = number
    return Chosen(call, origin, view, None, origin.unmixed)


def indices(origin: Origin) -> Tensor:
    """Its rows' samples."""
    return torch.arange(origin.rows) if origin.samples is None else origin.samples


def shown_anew(origin: Origin, earlier: Sequence[Chosen]) -> Tensor | bool:
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
    old = torch.cat([indices(one).to(device) for one in taken])
    mask = ~torch.isin(indices(origin).to(device), old)
    return mask if bool(mask.any()) else False


def is_another_view(call: Call, earlier: Sequence[Chosen]) -> bool:
    """Whether the same input gave other features with the same weights: dropout, as in SimCSE."""
    if any(one.call.state != call.state for one in earlier):
        return False
    return not any(
        one.call.features.shape == call.features.shape and torch.equal(one.call.features, call.features)
        for one in earlier
    )


def are_alike(found: Sequence[Chosen], inputs: Sequence[Tensor]) -> bool:
    """Whether all views resemble the first, as far as their inputs are numbers."""
    rows = [(one, x.reshape(len(x), -1)) for one, x in zip(found, inputs, strict=True)]
    first = of_view(rows[0][0], rows[0][1], 0)
    if first is None:
        return True
    for one, x in rows:
        for number in [one.view] if isinstance(one.view, int) else one.view.unique().tolist():
            other = of_view(one, x, number)
            if number and (other is None or not resembles(other, first)):
                return False
    return True


def resembles(other: tuple[Tensor, Tensor], first: tuple[Tensor, Tensor]) -> bool:
    """Whether the inputs of a view resemble those of the first: (samples, inputs) each."""
    if other[1].shape[1:] != first[1].shape[1:]:
        return False
    places = torch.searchsorted(first[0], other[0])
    return not first[1].is_floating_point() or resemble(other[1], first[1], places)


def of_view(one: Chosen, x: Tensor, number: int) -> tuple[Tensor, Tensor] | None:
    """Samples and inputs of one view, ordered by sample."""
    if one.origin is None:
        return None
    samples = torch.arange(len(x), device=x.device) if one.origin.samples is None else one.origin.samples.to(x.device)
    which = samples >= 0
    which = which & (one.view.to(x.device) == number) if isinstance(one.view, Tensor) else which & (one.view == number)
    if not bool(which.any()):
        return None
    order = samples[which].argsort()
    return samples[which][order], x[which][order]


def first_view(one: Chosen) -> Chosen | None:
    """Its rows of view 0; None if it has none."""
    if isinstance(one.view, int):
        return one if one.view == 0 else None
    keep = one.view == 0
    return replace(one, keep=keep if one.keep is None else keep & one.keep, view=0) if bool(keep.any()) else None


def refuse_parts(inputs: int, call: Call, size: int, unknown: bool = False, processes: int = 1) -> None:
    """Features that are several a sample, and nobody knows what they are.

    Args:
        inputs: rows of features, as they come out of pooling.
        call: that brought them.
        size: samples in the batch.
        unknown: whether nothing shows whose rows they are, though what entered was seen.
        processes: that train together: rows may be those of all of them.

    Raises:
        ConfigurationError: with the lines that say what they are.
    """
    given = main_inputs(call.entered or ())
    entered = given[0].shape[0] if given else 0
    if not size or inputs <= size or inputs % size or not (entered == size or (unknown and given)):
        return
    k = inputs // size
    came = f"{size} samples entered the network" if entered == size else f"the batch has {size} samples"
    all_of_them = (
        f"\nIf the rows of all {k} processes are put together for the head (all_gather), none of these lines is right: "
        "name the layer before that with layer="
    )
    raise ConfigurationError(
        f"{came} and {inputs} rows of features came out: {k} a sample, which may be regions, frames, windows or "
        f"tokens of it, or views made on the way. Say which:\n"
        f"  FeatureGeometryMonitor(views='v b')  # {k} views, one after the other\n"
        f"  FeatureGeometryMonitor(views='b v')  # {k} views of a sample next to each other\n"
        f"  FeatureGeometryMonitor(views=None)  # parts: each row counts by itself, without a label\n"
        f"or watch a layer that keeps a sample's parts on an axis of their own, with layer= and pool="
        f"{all_of_them if k == processes else ''}"
    )
