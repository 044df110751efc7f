"""Why a row is believed to be a sample's: what entered the network is compared with the batch.

A slice, a chunk or a reshape shares the batch's memory: offset and stride say which samples it holds, and no value is
read. A copy (sorted, shuffled, selected, concatenated, cast) is told by content: a few dozen elements a row, hashed. A
normalised copy correlates with one, an augmented one resembles it more than any other. What matches nothing (generated,
replayed) is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lightning_featgeo import _compat
from lightning_featgeo.rows.hashes import hashes, look_up, tells
from lightning_featgeo.rows.likeness import ENOUGH, FEWEST, are_mixed, likeness, occurrence, resemble, same_values
from lightning_featgeo.rows.origin import BY_CONTENT, BY_CORRELATION, BY_LIKENESS, BY_MEMORY, Origin, main_inputs
from lightning_featgeo.types import Tensor

COMPARED = 64  # elements of a row
_ENOUGH = 0.1  # share of rows whose content must be the batch's: it never is by chance
_LARGEST = 1 << 24  # entries of the table of correlations
_SAME = 1 - 1e-4  # correlation of what was only shifted and scaled; float rounding leaves this much


def origin_of(entered: Sequence[Tensor], parts: Sequence[Tensor], by_content: bool = True) -> Origin | None:
    """Which of the batch's samples entered the network; None if nothing tells.

    Args:
        entered: the tensors that a call was given.
        parts: the tensors of the batch, samples along their first axes.
        by_content: also read values, which waits for the device.
    """
    inputs = [x for x in main_inputs(entered) if x.layout is torch.strided]
    for x in inputs[:1]:
        for number, part in enumerate(parts):
            if x is part:
                return Origin(None, number, 0, x.shape[0], BY_MEMORY, span=(0, 1))
    for x in inputs:
        for number, part in enumerate(parts):
            found = _by_memory(x, part, number)
            if found is not None:
                return found
    for x in inputs if by_content else ():
        if x.shape[0] and not x.is_complex() and x.dtype != torch.bool:
            found = _by_content(x, parts) or _by_prefix(x, parts) or _by_correlation(x, parts) or _by_likeness(x, parts)
            if found is not None:
                return found
    return None


def copied_from(x: Tensor, made: Tensor, by_content: bool = True) -> Origin | None:
    """Which rows of ``made`` a tensor of its type holds, as views or copies; None: other values."""
    return _by_memory(x, made, 0) or (_by_content(x, [made]) if by_content and len(x) else None)


# --- the same memory -------------------------------------------------------------------------------------------------


def _by_memory(x: Tensor, part: Tensor, number: int) -> Origin | None:
    if x.dtype != part.dtype or x.ndim == 0 or part.ndim == 0 or not part.shape[0] or not x.shape[0]:
        return None
    place = _compat.address(x)
    if place is None or place != _compat.address(part):
        return None
    n, m = part.shape[0], x.shape[0]
    size = part.stride(0) if n > 1 else max(part.stride(0), part[0].numel())
    step = x.stride(0) if m > 1 else size
    extent = sum((length - 1) * stride for length, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    if size <= 0 or step <= 0:
        return None
    first, inside = divmod(int(x.storage_offset()) - int(part.storage_offset()), size)
    if inside + extent >= size or first < 0:  # a row of it spans several samples: its first axis is not the batch's
        return None
    if step % size == 0:
        stride = step // size
        if first + stride * (m - 1) >= n:
            return None
        piece = hash((inside, tuple(x.shape[1:]), tuple(x.stride()[1:]))) if (inside, extent + 1) != (0, size) else 0
        if first == 0 and stride == 1 and m == n:
            return Origin(None, number, piece, m, BY_MEMORY, span=(0, 1))
        samples = torch.arange(m, device=x.device) * stride + first
        return Origin(samples, number, piece, m, BY_MEMORY, span=(first, stride))
    if size % step == 0 and extent < step:
        several, index = size // step, torch.arange(m, device=x.device) + inside // step
        if first + (m - 1 + inside // step) // several >= n:
            return None
        return Origin(first + index // several, number, index % several, m, BY_MEMORY)
    return None


# --- equal content ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Rows of several parts of a batch, one below the other: where each comes from, and some of its elements."""

    values: list[Tensor]
    sample: Tensor
    part: Tensor
    piece: Tensor


def _columns(width: int) -> list[int]:
    """Which elements of a row are compared: all of few, else spread over it without a pattern."""
    if width <= COMPARED:
        return list(range(width))
    return sorted({(i * 2654435761 + 12345) % width for i in range(COMPARED)})


def _tables(x: Tensor, parts: Sequence[Tensor], at: Tensor) -> _Table | None:
    """Rows of the batch that can be rows of x: as wide, or so after their second axis joins the first."""
    values, sample, part_of, piece = [], [], [], []
    width = x[0].numel()
    for number, part in enumerate(parts):
        if part.device != x.device or part.layout is not torch.strided or not part.ndim or not part.shape[0]:
            continue
        n, k = part.shape[0], 1
        if part[0].numel() != width:
            joined = part.ndim > 2 and part.shape[2:] == x.shape[1:] and part.shape[1] > 1
            if not joined:
                continue
            k = part.shape[1]
        if part.is_floating_point() != x.is_floating_point() and part.dtype != torch.uint8:
            continue
        index = torch.arange(n * k, device=x.device)
        values.append(part.reshape(n * k, -1)[:, at])
        sample.append(index // k)
        piece.append(index % k)
        part_of.append(torch.full_like(index, number))
    if not values:
        return None
    return _Table(values, torch.cat(sample), torch.cat(part_of), torch.cat(piece))


def _by_content(x: Tensor, parts: Sequence[Tensor]) -> Origin | None:
    m, width = x.shape[0], x[0].numel()
    if width == 0:
        return None
    at = torch.tensor(_columns(width), device=x.device)
    table = _tables(x, parts, at)
    if table is None:
        return None
    own = x.reshape(m, -1)[:, at]
    for values, number in zip(table.values, table.part.unique_consecutive().tolist(), strict=True):
        if values.shape[0] == m == parts[number].shape[0] and bool((own == values.to(own.dtype)).all()):
            return Origin(None, number, 0, m, BY_CONTENT, span=(0, 1))
    theirs = hashes(torch.cat([values.to(own.dtype) for values in table.values]))
    telling = [part for part in table.part.unique().tolist() if tells(theirs[table.part == part])]
    if not telling:
        return None
    if len(telling) < len(table.values):  # beside token ids, an attention mask is as wide
        there = torch.isin(table.part, torch.tensor(telling, device=x.device))
        table, theirs = _Table([], table.sample[there], table.part[there], table.piece[there]), theirs[there]
    row, known = look_up(hashes(own), theirs)
    return _told_apart(row, known, table, m, parts, BY_CONTENT, x)


def _by_prefix(x: Tensor, parts: Sequence[Tensor]) -> Origin | None:
    """Sequences that were trimmed, rows that lost or got columns: by what both have of each sample, from the start."""
    for number, part in enumerate(parts):
        if x.ndim < 2 or part.ndim != x.ndim or part.dtype != x.dtype or part.shape[2:] != x.shape[2:]:
            continue
        length = min(part.shape[1], x.shape[1])
        if part.shape[1] != x.shape[1] and length:
            cut = [one[:, :length] if i == number else one[:0] for i, one in enumerate(parts)]
            found = _by_content(x[:, :length], cut)
            if found is not None and not found.lacks_some:
                return found
    return None


def _told_apart(
    row: Tensor, known: Tensor, table: _Table, m: int, parts: Sequence[Tensor], how: str, x: Tensor | None = None
) -> Origin | None:
    """From rows of the table to samples; None if too few are known."""
    share = float(known.float().mean())
    if share < _ENOUGH:
        return None
    samples = torch.where(known, table.sample[row], -1)
    part, piece = table.part[row], table.piece[row]
    numbers, pieces = part[known].unique().tolist(), piece[known].unique().tolist()
    whole_part: int | Tensor = numbers[0] if len(numbers) == 1 else part
    whole_piece: int | Tensor = pieces[0] if len(pieces) == 1 else piece
    index = torch.arange(m, device=row.device)
    one = len(numbers) == 1 and len(pieces) == 1
    if share == 1 and one and m == parts[numbers[0]].shape[0] and bool((samples == index).all()):
        return Origin(None, whole_part, whole_piece, m, how, span=(0, 1))
    if share < 1 and x is not None and one and x.is_floating_point():
        the_part = parts[numbers[0]]
        if the_part[0].numel() == x[0].numel():  # flattened, or not
            return _rest_by_likeness(Origin(samples, whole_part, whole_piece, m, how), known, x, the_part)
    return Origin(samples, whole_part, whole_piece, m, how)


def _rest_by_likeness(origin: Origin, known: Tensor, x: Tensor, part: Tensor) -> Origin:
    """Of rows that equal no sample, those that resemble one: augmented in their places, or behind the others."""
    assert origin.samples is not None
    at = torch.tensor(_columns(x[0].numel()), device=x.device)
    ours, theirs = x.reshape(len(x), -1)[:, at], part.reshape(len(part), -1)[:, at]
    index = torch.arange(len(x), device=x.device)
    rest, how = index[~known], f"{origin.how}, or likeness"
    same = same_values(x[~known], part)
    in_order = len(x) == len(part) and bool((origin.samples == index)[known].all())
    if in_order:
        if are_mixed(ours[~known], theirs, rest):  # the others were mixed with themselves
            return Origin(None, origin.part, origin.piece, len(x), how, True, ~known, (0, 1))
        if float((same == rest).double().mean()) >= ENOUGH or resemble(ours[~known], theirs, rest):
            return Origin(None, origin.part, origin.piece, len(x), how, span=(0, 1))
    found = likeness(ours[~known], theirs) if not in_order and len(rest) * len(part) <= _LARGEST >> 4 else None
    others = same if found is None or found.is_mixed else torch.where(same >= 0, same, found.sample)
    samples, pieces = origin.samples.clone(), torch.zeros_like(origin.samples)
    samples[rest] = others
    if len(x) > len(part) or bool((others < 0).all()):  # beside the samples themselves: further pieces of them
        pieces[rest] = torch.where(others >= 0, 1 + occurrence(others), 0)
    how = how if bool((others >= 0).any()) else origin.how
    return Origin(samples, origin.part, pieces if bool(pieces.any()) else origin.piece, len(x), how)


# --- equal up to a scale and a shift ---------------------------------------------------------------------------------


def _by_correlation(given: Tensor, parts: Sequence[Tensor]) -> Origin | None:
    """A normalised copy: in each channel of an image, or in each column of a table, one scale and one shift."""
    if not given.is_floating_point():
        return None
    m = given.shape[0]
    for number, part in enumerate(parts):
        x = _unflattened(given, part)
        fits = part.shape[1:] == x.shape[1:] and part.device == x.device and part.dtype != torch.bool
        if not fits or part.shape[0] < 2 or part.shape[0] * m > _LARGEST or not part.is_floating_point() | (x.ndim > 2):
            continue
        if x.ndim > 2:
            width = math.prod(x.shape[2:])
            at = torch.tensor(_columns(width), device=x.device)
            ours, theirs = (t[:, 0].reshape(len(t), -1)[:, at].float() for t in (x, part))
            ours, theirs = _standard(ours, 1), _standard(theirs, 1)
        elif x.ndim == 2 and m == part.shape[0] >= FEWEST:  # columns of few rows are alike by themselves
            at = torch.tensor(_columns(x.shape[1]), device=x.device)
            ours, theirs = _standard(x[:, at].float(), 0), _standard(part[:, at].float(), 0)
            ours, theirs = ours / ours.norm(dim=1, keepdim=True), theirs / theirs.norm(dim=1, keepdim=True)
        else:
            continue
        if ours.shape[1] < 8:
            continue
        best, row = (ours @ theirs.T).nan_to_num(nan=-1.0).max(dim=1)
        known = best > _SAME
        index = torch.arange(part.shape[0], device=x.device)
        table = _Table([], index, torch.full_like(index, number), torch.zeros_like(index))
        found = _told_apart(row, known, table, m, parts, BY_CORRELATION) if float(known.float().mean()) > 0.5 else None
        if found is not None:
            return replace(found, changed=True)
    return None


def _unflattened(x: Tensor, part: Tensor) -> Tensor:
    """Rows that were flattened on their way in the shape of the batch's."""
    flat = x.ndim == 2 and part.ndim > 2 and part.shape[1:].numel() == x.shape[1]
    return x.reshape(len(x), *part.shape[1:]) if flat else x


def _standard(x: Tensor, dim: int) -> Tensor:
    """Mean 0 along an axis; length 1 along rows, deviation 1 along columns."""
    x = x - x.mean(dim=dim, keepdim=True)
    return x / (x.norm(dim=1, keepdim=True) if dim == 1 else x.std(dim=0, keepdim=True))


# --- likeness --------------------------------------------------------------------------------------------------------


def _by_likeness(given: Tensor, parts: Sequence[Tensor]) -> Origin | None:
    """Augmented copies: each row resembles a sample of the batch more than any other."""
    if not given.is_floating_point() or given.ndim < 2:
        return None
    m = given.shape[0]
    for number, part in enumerate(parts):
        x = _unflattened(given, part)
        fits = part.shape[1:] == x.shape[1:] and part.device == x.device and part.shape[0] * m <= _LARGEST >> 4
        if not fits or not (part.is_floating_point() or part.dtype == torch.uint8):
            continue
        at = torch.tensor(_columns(x[0].numel()), device=x.device)
        found = likeness(x.reshape(m, -1)[:, at], part.reshape(len(part), -1)[:, at])
        if found is None:
            continue
        index = torch.arange(m, device=x.device)
        if m == part.shape[0] and bool((found.sample == index).all()):
            return Origin(None, number, 0, m, BY_LIKENESS, True, found.is_mixed, (0, 1))
        piece: int | Tensor = occurrence(found.sample) if m > part.shape[0] else 0
        return Origin(found.sample, number, piece, m, BY_LIKENESS, True)
    return None
