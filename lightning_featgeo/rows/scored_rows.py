"""Rows of a head and the classes that a loss scores them against: what fits, agrees, or can be told apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.pooling import Pooled
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.types import Tensor

UNSCORED = -(2**31)  # of rows that a loss does not score, beside those that it does
LEAST = 3  # rows of a batch that can tell an order
ALIKE = 0.75  # share of equal classes from which two targets are no two orders of the labels


def one_a_row(call: Call) -> Tensor | None:
    """What the loss scores the rows of a call against, where it is one class a row, or one a token."""
    if len(call.scored) != 1 or call.features.ndim < 2:
        return None
    (scored,) = call.scored
    if scored.ndim != 1 or scored.is_floating_point():
        return None
    fits = scored.shape[0] in (call.features.shape[0], call.features.shape[:-1].numel())
    return scored if fits else None


def maps_scored(calls: Sequence[Call], labels: Tensor, ignored: int) -> Tensor | None:
    """The maps of labels that the loss scores, where they are those of the batch in other places: flipped, or cropped
    alike; None: they are not."""
    scored = calls[0].scored if len(calls) == 1 else ()
    if len(scored) != 1 or scored[0].shape != labels.shape or scored[0].is_floating_point():
        return None
    maps, given = (without_ignored(one.to(labels), ignored) for one in (scored[0], labels))
    if torch.equal(maps, given) or not torch.equal(maps.flatten().sort().values, given.flatten().sort().values):
        return None
    return maps


def is_of(scored: Tensor, labels: Tensor) -> bool:
    """Whether no class is scored more often than the batch has it: else these are other numbers than its labels."""
    some = scored[scored >= 0]
    if not some.numel():
        return True
    size = int(max(some.max(), labels.max())) + 1
    there = torch.bincount(labels[labels >= 0].to(some), minlength=size)
    return bool((torch.bincount(some, minlength=size) <= there).all())


def moves(rows: Tensor | None) -> bool:
    """Whether rows are told that are not all, in order."""
    return rows is not None and not torch.equal(rows, torch.arange(len(rows), device=rows.device))


def is_of_before(scored: Tensor, before: Tensor | None) -> bool:
    """Whether classes are the labels of the batch before, one by one."""
    if before is None or before.shape != scored.shape or before.ndim != 1 or len(scored) < LEAST:
        return False
    return torch.equal(before.to(scored), scored)


def is_function(labels: Tensor, to: Tensor) -> bool:
    """Whether each label has one class."""
    there = labels >= 0
    pairs = torch.unique(torch.stack([labels[there], to[there].to(labels)]), dim=1)
    return pairs.shape[1] == len(pairs[0].unique())


def goes_back(samples: Tensor | None) -> bool:
    """Whether a later row is of an earlier sample."""
    return samples is not None and bool((samples[1:] < samples[:-1]).any())


def tells(scored: Tensor) -> bool:
    """Whether an order of these can be told from another one."""
    return len(scored) >= LEAST and bool((scored != scored[0]).any())


def are_orders(several: Sequence[Tensor]) -> bool | None:
    """Whether several targets of one output are orders of the same classes, as mixtures of samples have; None: they are
    all the same, or of other rows.

    Another target (a teacher's, a second task's) may have the same classes in a batch by chance, and agrees more.
    """
    first, *others = [t.reshape(-1) for t in several]
    if any(t.shape != first.shape for t in others) or all(torch.equal(t, first) for t in others):
        return None
    alike = any(are_alike(t, first) for t in others)
    return not alike and all(torch.equal(t.sort().values, first.sort().values) for t in others)


def are_alike(classes: Tensor, others: Tensor) -> bool:
    """Whether so many rows have the same class in both that they are no two orders of the same."""
    return bool((classes == others).double().mean() >= ALIKE)


def is_the_same(scored: Tensor, labels: Tensor, ignored: int) -> bool:
    """Whether each row is scored against its own label."""
    return torch.equal(*(without_ignored(one.to(labels), ignored) for one in (scored, labels)))


def without_ignored(labels: Tensor, ignored: int) -> Tensor:
    """−1 where a row has no class."""
    return torch.where((labels == ignored) | (labels < 0), UNLABELLED, labels)


def row_labels(scored: Tensor, part: Pooled, given: Tensor, ignored: int) -> Tensor | None:
    """(n,) of each pooled row."""
    scored = without_ignored(scored.to(given.device), ignored)
    if len(scored) == part.inputs and len(part.rows) == part.inputs:
        return scored[part.sample].to(given.dtype)
    if part.inputs and len(scored) == len(part.rows) and len(scored) % part.inputs == 0:
        return scored.reshape(part.inputs, -1)[part.sample, part.position].to(given.dtype)
    return None


def called(path: tree.Path) -> str:
    """A part of a batch, in words."""
    first = path[0] if len(path) == 1 else tree.dotted(path)
    return f"part {first}" if isinstance(first, int) else repr(first)
