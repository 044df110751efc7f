"""The ops ``scan`` (``candidates``, then ``settle``) and ``select_`` in plain torch: cheap products, and a proof.

A scan multiplies rounded rows, keeps the best candidates of every query, measures those by subtraction in float64, and
then proves, or fails to prove, that nothing it threw away can be nearer (:mod:`~lightning_featgeo.cuda_ext.proof`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext import proof
from lightning_featgeo.cuda_ext.proof import BF16, F64

_TILE_BYTES = 2**25  # of products: about what stays in a GPU's cache between the ops that read it
_TILE_ROWS = 2048
_ROUNDED_BYTES = 2**28  # of rounded rows that are held at a time
_SHARED_BLOCK = 192  # rows that the compiled scan takes at a time
_WIDEST = 1536  # candidates a row that a compiled select_ has room for


class Prepared(NamedTuple):
    """Rows as a scan multiplies them: what the op ``prepare`` returns."""

    rounded: Tensor
    norms: Tensor
    short_norms: Tensor
    lost: Tensor


class Best(NamedTuple):
    """What tiles of products say of each query."""

    values: Tensor  # scanned squared distances of its candidates, ascending
    indices: Tensor
    limits: Tensor  # below this none is missing
    sums: Tensor  # of the kernel
    squares: Tensor
    norms: Tensor
    lost: Tensor


def select_(
    products: Tensor,
    query_norms: Tensor,
    reference_norms: Tensor,
    query_ids: Tensor,
    reference_ids: Tensor,
    first: int,
    values: Tensor,
    indices: Tensor,
) -> None:
    """See :func:`lightning_featgeo.cuda_ext.scan_ops.select_`."""
    squares = (query_norms[:, None] + reference_norms[None, :]) - 2 * products
    squares.masked_fill_(query_ids[:, None] == reference_ids[None, :], torch.inf)
    width = min(values.shape[1], squares.shape[1])
    near = squares.topk(width, dim=1, largest=False)
    columns = torch.where(near.values.isinf(), -1, near.indices + first)
    both, which = torch.cat([values, near.values], dim=1), torch.cat([indices, columns], dim=1)
    found = both.topk(values.shape[1], dim=1, largest=False)
    values.copy_(found.values)
    indices.copy_(which.gather(1, found.indices))


def width(k: int, precision: int, available: int) -> int:
    """Candidates that a scan keeps of each row, to have k that are certain."""
    return max(1, min(k + (k + 32 if precision == BF16 else 16), available))


def shared_width(k: int, precision: int, available: int, parts: int) -> int:
    """Candidates that each of several scans over a share of the pairs keeps: neighbours spread over the shares.

    Shares are made of blocks of rows, so that few blocks are shared out unevenly.
    """
    whole, blocks = width(k, precision, available), math.ceil((available + 1) / _SHARED_BLOCK)
    part = min(1.0, (math.ceil(blocks / parts) + 1) / blocks)
    expected = whole * part  # of a binomial number
    return min(whole, math.ceil(expected + 3.5 * math.sqrt(expected * (1 - part)) + 2)) if whole < available else whole


def scan(
    queries: Tensor,
    reference: Tensor | None,
    query_ids: Tensor,
    reference_ids: Tensor | None,
    centre: Tensor,
    scale: float,
    k: int,
    measure: bool,
    precision: int,
    kernel_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.scan_ops.scan`. Measures every candidate, whether asked to or not."""
    among = queries if reference is None else reference
    room = width(k, precision, among.shape[0])
    found = _best(queries, reference, query_ids, reference_ids, centre, scale, room, precision, kernel_scale)
    near = _proven(queries, among, *found[:3], found.norms, found.lost, scale, k, precision)
    return *near, found.sums, found.squares


def candidates(
    rows: Tensor,
    ids: Tensor,
    centre: Tensor,
    scale: float,
    width: int,
    precision: int,
    kernel_scale: float,
    part: int,
    parts: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.scan_ops.candidates`. A part: all rows; as neighbours, a slice of them."""
    n = rows.shape[0]
    start, stop = n * part // parts, n * (part + 1) // parts
    found = _best(rows, rows[start:stop], ids, ids[start:stop], centre, scale, width, precision, kernel_scale)
    lengths = torch.cat([found.norms.sqrt(), found.lost[None]])
    indices = torch.where(found.indices >= 0, found.indices + start, -1).to(torch.int32)
    return found.values, indices, found.limits, found.sums, found.squares, lengths


def settle(
    rows: Tensor,
    first: int,
    values: Tensor,
    indices: Tensor,
    limits: Tensor,
    lengths: Tensor,
    centre: Tensor,
    scale: float,
    k: int,
    measure: bool,
    precision: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`lightning_featgeo.cuda_ext.scan_ops.settle`. Measures every candidate, whether asked to or not."""
    norms, lost = lengths[:-1].square(), lengths[-1]
    mine = slice(first, first + len(values))
    order = values.sort(dim=1)
    which = indices.gather(1, order.indices).to(torch.int64)
    return _proven(rows[mine], rows, order.values, which, limits, norms[mine], lost, scale, k, precision)


def prepare(rows: Tensor, centre: Tensor, scale: float, precision: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows as a scan multiplies them.

    Returns:
        (n, e) centred, scaled and rounded rows, columns of zeros behind them so that e is a multiple of 8; (n,) their
        squared lengths before rounding, float64 and as the products' sums; () the largest share of a length that
        rounding took.
    """
    wide = (rows.double() - centre) * scale
    rounded = wide.to(proof.TYPES[precision])
    norms, rest = wide.square().sum(dim=1), (wide - rounded.double()).square().sum(dim=1)
    shares = torch.where(norms > 0, rest / norms, 0.0).sqrt()
    lost = shares.amax() if shares.numel() else norms.new_zeros(())
    rounded = torch.nn.functional.pad(rounded, (0, -rows.shape[1] % 8))
    return rounded, norms, norms.to(proof.SUMS[precision], copy=True), lost


def kernel_sums_(
    products: Tensor,
    query_norms: Tensor,
    reference_norms: Tensor,
    query_ids: Tensor,
    reference_ids: Tensor,
    factor: float,
    sums: Tensor,
    squares: Tensor,
) -> None:
    """See :func:`lightning_featgeo.cuda_ext.scan_ops.kernel_sums_`."""
    apart = ((query_norms[:, None] + reference_norms) - 2 * products).clamp_(min=0)
    terms = apart.mul_(factor).double().exp_()
    terms.masked_fill_(query_ids[:, None] == reference_ids, 0.0)
    sums += terms.sum(dim=1)
    squares += terms.square_().sum(dim=1)


def _proven(queries: Tensor, reference: Tensor, values: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``prove``, or where the compiled one has no room for so many candidates, its reference."""
    prove = torch.ops.lightning_featgeo.prove if values.shape[1] <= _WIDEST else proof.prove
    near: tuple[Tensor, Tensor, Tensor] = prove(queries, reference, values, *others)
    return near


def _best(
    queries: Tensor,
    reference: Tensor | None,
    query_ids: Tensor,
    reference_ids: Tensor | None,
    centre: Tensor,
    scale: float,
    room: int,
    precision: int,
    kernel_scale: float,
) -> Best:
    """The op ``best``, whatever the user's autocast and matmul settings are; see :func:`best`."""
    asked = queries, reference, query_ids, reference_ids, centre, scale, room, precision, kernel_scale
    full = fp32_products_are_full()
    with torch.autocast(queries.device.type, enabled=False):
        if room <= _WIDEST:
            try:
                return Best(*torch.ops.lightning_featgeo.best(*asked, full))
            except RuntimeError:  # no memory left, say: a compiled op can't hand on which error it was
                if queries.device.type == "cpu":
                    raise
        return Best(*best(*asked, full))


def best(
    queries: Tensor,
    reference: Tensor | None,
    query_ids: Tensor,
    reference_ids: Tensor | None,
    centre: Tensor,
    scale: float,
    room: int,
    precision: int,
    kernel_scale: float,
    full: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Candidates and kernel sums, from one tile of products after the other.

    Args: those of a scan; ``room``: candidates a row; ``full``: fp32 products are not made of less than fp32.
    """
    ops = torch.ops.lightning_featgeo
    among, ids = (queries, query_ids) if reference is None or reference_ids is None else (reference, reference_ids)
    n, m, device = queries.shape[0], among.shape[0], queries.device
    sums, squares = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    values = torch.full((n, room), torch.inf, dtype=proof.SUMS[precision], device=device)
    indices = torch.full((n, room), -1, dtype=torch.int64, device=device)
    q = Prepared(*ops.prepare(queries, centre, scale, precision))
    lost, factor = q.lost, -kernel_scale / scale**2
    select = ops.select_ if room <= _WIDEST else select_
    for block in _blocks(m, among.shape[1], reference is None, precision):
        b, own_ids = q, ids[block]
        if reference is not None:
            b = Prepared(*ops.prepare(reference[block], centre, scale, precision))
            lost = torch.maximum(lost, b.lost)
        for rows, columns in _tiles(n, len(b.norms), values.element_size()):
            products = _products(q.rounded[rows], b.rounded[columns], precision, full)
            tile = products, q.short_norms[rows], b.short_norms[columns], query_ids[rows], own_ids[columns]
            if kernel_scale > 0:
                ops.kernel_sums_(*tile, factor, sums[rows], squares[rows])
            select(*tile, block.start + columns.start, values[rows], indices[rows])
    limits = values[:, -1].clone()  # infinite where fewer were found than there is room for
    if room >= m:
        limits.fill_(torch.inf)
    return values, indices, limits, sums, squares, q.norms, lost


def _blocks(m: int, columns: int, whole: bool, precision: int) -> Iterator[slice]:
    """Rows of the reference that are rounded at a time."""
    step = m if whole else _ROUNDED_BYTES // (max(1, columns) * proof.TYPES[precision].itemsize)
    for start in range(0, m, max(1, step)):
        yield slice(start, min(start + max(1, step), m))


def _tiles(n: int, m: int, itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the tiles: wide ones, so that few have to be merged, for some rows after the others."""
    height = min(n, _TILE_ROWS)
    across = max(1, _TILE_BYTES // (itemsize * max(1, height)))
    for start in range(0, n, max(1, height)):
        for first in range(0, m, across):
            yield slice(start, min(start + height, n)), slice(first, min(first + across, m))


def _products(q: Tensor, b: Tensor, precision: int, full: bool) -> Tensor:
    """q·bᵀ with sums at least as good as fp32."""
    if precision == F64:
        return q @ b.T
    if q.device.type != "cuda":  # libraries there are slower or round the sums to bf16; products of bf16 are exact
        return q.float() @ b.T.float()
    if precision == BF16:
        return torch.mm(q, b.T, out_dtype=torch.float32)
    return q @ b.T if full else (q.double() @ b.T.double()).float()


def fp32_products_are_full() -> bool:
    """Whether fp32 matrix products are computed in fp32 (not TF32 or bf16) under the user's settings."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer when its old and new precision settings were mixed
        return False
