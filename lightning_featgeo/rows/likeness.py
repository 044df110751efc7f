"""Samples that were changed on their way into the network: augmented ones still resemble themselves, mixed ones don't.

Of 64 elements a row, each row finds its nearest sample of the batch. Where most rows find the one in their own place,
the batch came in order; where they find others with confidence, these are whose rows they are. A row on the line
between two samples (mixup), or put together of two (CutMix), has no class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from lightning_featgeo.types import Int64, Tensor

FEWEST, LEAST = 8, 4  # samples: below the first all rows have to find their own, below the second that says nothing
ENOUGH = 0.5  # share of rows that find themselves, of so many
_PAIRS = 1 << 18  # of rows that are looked at: more are judged by some of them
_SAME = 1e-9  # relative, of sums of the same numbers in another order
_NEAR, _AHEAD = 0.7, 0.1  # cosine of a confident match, and its lead over the next one
_KEPT = 0.2  # share of a masked row's elements that are left
_ON_THE_LINE = 1 - 1e-5  # cosine between (row − sample) and (another sample − sample), in float64
_MIXED = 0.3  # share of rows


@dataclass(frozen=True)
class Likeness:
    """What changed rows resemble.

    ``sample``: (m,) index of the sample, −1 where none is found. ``is_mixed``: rows are mixtures of two samples.
    """

    sample: Tensor
    is_mixed: bool


def likeness(rows: Tensor, samples: Tensor) -> Likeness | None:
    """Which samples changed rows resemble; None if they resemble none.

    Args:
        rows: (m, w) some elements of what entered the network.
        samples: (n, w) the same elements of the batch.
    """
    m, n = len(rows), len(samples)
    if n < LEAST or rows.shape[1] < 2 or not bool(rows.isfinite().all() & samples.isfinite().all()):
        return None
    rows, samples = rows.to(torch.float64), samples.to(torch.float64)
    index = torch.arange(m, device=rows.device)
    if m == n and are_mixed(rows, samples, index):
        return Likeness(index, True)
    cosines = _directions(rows) @ _directions(samples).T
    top, found = cosines.topk(2, dim=1)
    enough = ENOUGH if n >= FEWEST else 1.0
    own = index % n if m % n == 0 else None
    if own is not None and float((found[:, 0] == own).double().mean()) >= enough:
        return Likeness(own, False)
    if m % n == 0 and m > n and float((found[:, 0] == index // (m // n)).double().mean()) >= enough:
        return Likeness(index // (m // n), False)
    sure = (top[:, 0] > _NEAR) & (top[:, 0] - top[:, 1] > _AHEAD)
    if n < FEWEST or float(sure.double().mean()) < ENOUGH:
        return None
    return Likeness(torch.where(sure, found[:, 0], -1), False)


def resemble(rows: Tensor, samples: Tensor, own: Tensor) -> bool:
    """Whether rows resemble the samples in whose places they are more than any other.

    Args:
        rows: (m, w).
        samples: (n, w).
        own: (m,) index of each row's sample.
    """
    if len(samples) < LEAST or not len(rows):
        return False
    rows, own = _some(rows, own, len(samples))
    mean, spread = samples.double().mean(dim=0), samples.double().std(dim=0).clamp(min=1e-12)
    ours, theirs = ((t.double() - mean) / spread for t in (rows, samples))
    nearest = ((ours @ theirs.T) / theirs.norm(dim=1).clamp(min=1e-12)).argmax(dim=1)
    equal = torch.cat([_equal(part, samples).mean(dim=2) for part in _in_parts(rows, samples)])  # what was masked
    kept = (equal.argmax(dim=1) == own) & (equal.amax(dim=1) >= _KEPT)
    enough = ENOUGH if len(samples) >= FEWEST else 1.0
    return float(((nearest == own) | kept).double().mean()) >= enough


def same_values(rows: Tensor, samples: Tensor) -> Int64[Tensor, " m"]:
    """(m,) for each row the one sample of the same numbers in another order (mirrored, rotated, rolled), −1 for none.

    Told by the sums of the numbers and of their squares, over whole rows.
    """
    n = len(samples)
    ours, theirs = (
        torch.stack([t.sum(dim=1, dtype=torch.float64), torch.linalg.vector_norm(t, dim=1, dtype=torch.float64)])
        for t in (rows.reshape(len(rows), -1), samples.reshape(n, -1).to(rows.dtype))
    )
    scale = theirs[1].max().clamp(min=1e-300) * (ours.new_tensor(samples[0].numel()).sqrt())
    found = []
    for part in ours.split(max(1, _PAIRS // n), dim=1):
        same = ((part[:, :, None] - theirs[:, None]).abs() <= _SAME * scale).all(dim=0)
        found.append(torch.where(same.sum(dim=1) == 1, same.int().argmax(dim=1), -1))
    return torch.cat(found)


def _some(rows: Tensor, own: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Every so-manieth row, where there are too many to compare all of them with n samples."""
    step = 1 + len(rows) * n // _PAIRS
    return rows[::step], own[::step]


def _in_parts(rows: Tensor, samples: Tensor) -> tuple[Tensor, ...]:
    """Rows, so many at a time that a table of all their elements beside those of the samples stays small."""
    return rows.split(max(1, (_PAIRS << 3) // samples.numel()))


def _equal(rows: Tensor, samples: Tensor) -> Tensor:
    """(m, n, w) whether an element is that of the sample."""
    return (rows[:, None] == samples[None].to(rows.dtype)).float()


def occurrence(values: Tensor) -> Tensor:
    """(m,) integers -> how many earlier ones are the same."""
    order = values.argsort(stable=True)
    step = torch.arange(len(values), device=values.device)
    changed = torch.ones_like(step, dtype=torch.bool)
    changed[1:] = values[order][1:] != values[order][:-1]
    result = torch.empty_like(step)
    result[order] = step - torch.where(changed, step, 0).cummax(dim=0).values
    return result


def _directions(x: Tensor) -> Tensor:
    x = x - x.mean(dim=0)
    x = x / x.std(dim=0).clamp(min=1e-12)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def are_mixed(rows: Tensor, samples: Tensor, own: Tensor) -> bool:
    """Whether enough rows lie between their own sample and another one, or are put together of both.

    Args:
        rows: (m, w).
        samples: (n, w).
        own: (m,) index of each row's sample.
    """
    rows, own = _some(rows, own, len(samples))
    rows, samples = rows.to(torch.float64), samples.to(torch.float64)
    ours, index = samples[own], torch.arange(len(rows), device=rows.device)
    moved = rows - ours
    length = moved.norm(dim=1)
    changed = length > 1e-6 * ours.norm(dim=1).clamp(min=1e-12)
    if not len(rows) or float(changed.double().mean()) < _MIXED:
        return False
    squares = samples.square().sum(dim=1)
    apart = (squares[own, None] + squares[None] - 2 * (ours @ samples.T)).clamp(min=0).sqrt()
    along = moved @ samples.T - (moved * ours).sum(dim=1, keepdim=True)
    cosine = along / (length[:, None] * apart).clamp(min=1e-12)
    cosine[index, own] = -1
    cosine[:, squares == 0] = -1  # what is scaled goes towards zero
    on_line = (cosine.amax(dim=1) > _ON_THE_LINE) & changed
    if float(on_line.double().mean()) >= _MIXED and samples.shape[1] > 2:
        return True
    same = rows == ours
    both = zip(_in_parts(rows, samples), _in_parts(same, samples), strict=True)
    whole = torch.cat([_pasted(part, at, samples) for part, at in both])
    whole[index, own] = False
    # zeros may have been dropped; and of few values (black and white), those of another sample are met by chance
    chance = float((samples == samples.roll(1, 0)).double().mean())
    many = (~same).sum(dim=1) * -math.log(max(chance, 1e-12)) > math.log(1000 * len(samples))
    pasted = whole.any(dim=1) & same.any(dim=1) & ((rows != 0) & ~same).any(dim=1) & many
    return float(pasted.double().mean()) >= _MIXED


def _pasted(rows: Tensor, same: Tensor, samples: Tensor) -> Tensor:
    """(m, n) whether each element is the row's own sample's (``same``), or that sample's."""
    return ((rows[:, None] == samples[None]) | same[:, None]).all(dim=2)
