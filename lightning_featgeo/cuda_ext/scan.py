"""The ops ``scan`` (``candidates``, then ``settle``) and ``select_`` in plain torch: cheap products, and a proof.

A scan multiplies rounded rows, keeps the best candidates of every query, measures those by subtraction in float64, and
then proves, or fails to prove, that nothing it threw away can be nearer (:mod:`~lightning_featgeo.cuda_ext.proof`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_featgeo.cuda_ext.proof import BF16, F64, proven

_TILE_ELEMENTS = 2**22
_SHARED_BLOCK = 192  # rows that the compiled scan takes at a time
_WIDEST = 1536  # candidates a row that a compiled select_ has room for


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
    reference = queries if reference is None else reference
    reference_ids = query_ids if reference_ids is None else reference_ids
    room = width(k, precision, reference.shape[0])
    _, indices, limits, sums, squares, lost = _best(
        queries, reference, query_ids, reference_ids, centre, scale, room, precision, kernel_scale
    )
    norms, q_lost = _rounded(queries, centre, scale, precision)[1:]
    lost = torch.maximum(lost, q_lost)
    return *proven(queries, reference, indices, limits, norms, lost, scale, k, precision), sums, squares


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
    values, indices, limits, sums, squares, _ = _best(
        rows, rows[start:stop], ids, ids[start:stop], centre, scale, width, precision, kernel_scale
    )
    _, norms, lost = _rounded(rows, centre, scale, precision)
    lengths = torch.cat([norms.sqrt(), lost[None]])
    return values, torch.where(indices >= 0, indices + start, -1).to(torch.int32), limits, sums, squares, lengths


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
    which = indices.to(torch.int64)
    return proven(rows[mine], rows, which, limits.double(), norms[mine], lost, scale, k, precision)


def _best(
    queries: Tensor,
    reference: Tensor,
    query_ids: Tensor,
    reference_ids: Tensor,
    centre: Tensor,
    scale: float,
    room: int,
    precision: int,
    kernel_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Candidates by scanned value, the value below which none is missing, kernel sums, and what rounding took."""
    n, m, device = queries.shape[0], reference.shape[0], queries.device
    sums, squares = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    wide = torch.float64 if precision == F64 else torch.float32
    values = torch.full((n, room), torch.inf, dtype=wide, device=device)
    indices = torch.full((n, room), -1, dtype=torch.int64, device=device)
    q, q_norms, _ = _rounded(queries, centre, scale, precision)
    lost, tile = q_norms.new_zeros(()), max(1, _TILE_ELEMENTS // max(1, n))
    for first in range(0, m, tile):
        part = slice(first, min(first + tile, m))
        b, b_norms, b_lost = _rounded(reference[part], centre, scale, precision)
        lost = torch.maximum(lost, b_lost)
        products = _products(q, b, precision)
        if kernel_scale > 0:
            apart = ((q_norms.to(wide)[:, None] + b_norms.to(wide)) - 2 * products).clamp_(min=0)
            terms = apart.mul_(-kernel_scale / scale**2).double().exp_()
            terms.masked_fill_(query_ids[:, None] == reference_ids[None, part], 0.0)
            sums += terms.sum(dim=1)
            squares += terms.square().sum(dim=1)
        select = torch.ops.lightning_featgeo.select_ if room <= _WIDEST else select_
        select(products, q_norms.to(wide), b_norms.to(wide), query_ids, reference_ids[part], first, values, indices)
    limits = torch.where(values[:, -1].isinf() | (room >= m), torch.inf, values[:, -1])
    return values, indices, limits, sums, squares, lost


def _rounded(rows: Tensor, centre: Tensor, scale: float, precision: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centred, scaled, rounded rows; their squared lengths before; the largest share of a length that rounding took."""
    wide = (rows.double() - centre) * scale
    rounded = wide.to((torch.bfloat16, torch.float32, torch.float64)[precision])
    norms, rest = wide.square().sum(dim=1), (wide - rounded.double()).square().sum(dim=1)
    shares = torch.where(norms > 0, rest / norms, 0.0).sqrt()
    return rounded, norms, shares.max() if shares.numel() else norms.new_zeros(())


def _products(q: Tensor, b: Tensor, precision: int) -> Tensor:
    """q·bᵀ with sums at least as good as fp32, whatever the user's autocast and matmul settings are."""
    with torch.autocast(q.device.type, enabled=False):
        return _multiplied(q, b, precision)


def _multiplied(q: Tensor, b: Tensor, precision: int) -> Tensor:
    if precision == F64:
        return q @ b.T
    if q.device.type != "cuda":  # libraries there are slower or round the sums to bf16; products of bf16 are exact
        return q.float() @ b.T.float()
    if precision == BF16:
        return torch.mm(q, b.T, out_dtype=torch.float32)
    return q @ b.T if fp32_products_are_full() else (q.double() @ b.T.double()).float()


def fp32_products_are_full() -> bool:
    """Whether fp32 matrix products are computed in fp32 (not TF32 or bf16) under the user's settings."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer when its old and new precision settings were mixed
        return False
