"""Plain-torch reference of every compiled op: the fallback where no kernel is loaded, and the oracle of its tests.

Accuracy comes first here and speed second: products are in float64 wherever a later step subtracts or
takes a square root of what they yield. Nothing in this file draws from a random number generator, and on
an accelerator no op of a training step waits for the device (``knn`` runs once a window and may).
"""

from __future__ import annotations

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea & Flood, 2014, "Fast splittable pseudorandom number generators"), as signed int64.
_GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685
EMPTY_PRIORITY = torch.iinfo(torch.int64).max  # marks a free slot; hashes are below 2**62


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's shift of a negative int64 drags the sign bit along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hash_priority(index: Tensor, seed: int) -> Tensor:
    """Counter-based priorities: SplitMix64 of (seed, index), uniform over [0, 2**62), the same everywhere."""
    z = index.to(torch.int64) * _GOLDEN + seed
    for _ in range(2):  # a second round decorrelates neighbouring seeds
        z = (z ^ _shift_right(z, 30)) * _MIX_1
        z = (z ^ _shift_right(z, 27)) * _MIX_2
        z = z ^ _shift_right(z, 31)
    return _shift_right(z, 2)


def reservoir_slots(priorities: Tensor, new_priorities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which slots of a bottom-k reservoir take which new rows, in fixed shapes and without a device sync.

    Args: current priorities (capacity,), ``EMPTY_PRIORITY`` where free; new ones (n,), n <= capacity.
    Returns ``(slots, sources, accepted)``, each (n,): new row ``sources[i]`` goes to ``slots[i]`` where
    ``accepted[i]``. Slots are distinct. Ties keep the row that came first.
    """
    capacity, n = priorities.numel(), new_priorities.numel()
    order = torch.sort(torch.cat([priorities, new_priorities]), stable=True).indices
    keep = torch.zeros(capacity + n, dtype=torch.bool, device=priorities.device)
    keep[order[:capacity]] = True
    keep[capacity:] &= new_priorities != EMPTY_PRIORITY
    sources = torch.sort(~keep[capacity:], stable=True).indices
    accepted = keep[capacity:][sources]
    # Slots to give up, the largest priorities first: exactly as many as there are accepted rows are needed.
    slots = torch.sort(priorities, stable=True, descending=True).indices[:n]
    return slots, sources, accepted


def scatter_(
    rows: Tensor,
    groups: Tensor,
    shift: Tensor,
    counts: Tensor,
    sums: Tensor,
    squares: Tensor,
    scatter: Tensor | None,
    labelled_groups: int,
    exact: bool,
) -> None:
    """Add rows to shifted first and second moments, per group; the shift is each group's first-seen mean."""
    keep = groups >= 0
    index = groups.clamp(min=0)
    added = torch.zeros_like(counts).index_add_(0, index, keep.to(counts.dtype))
    unseen = (counts == 0) & (added > 0)
    on_cpu = rows.device.type == "cpu"
    if not on_cpu or bool(unseen.any()):
        wide = torch.where(keep[:, None], rows.double(), 0.0)
        first = torch.zeros_like(sums).index_add_(0, index, wide) / added.clamp(min=1)[:, None]
        shift.copy_(torch.where(unseen[:, None], first.to(shift.dtype), shift))

    exact = exact or rows.dtype == torch.float64 or not _fp32_products_are_full()
    work = torch.float64 if exact else torch.float32
    # Rows near their class's mean: this subtraction is exact in fp32 (Sterbenz), and always exact in float64.
    centred = torch.where(keep[:, None], rows.to(work) - shift.to(work)[index], 0.0)
    wide = centred.double()
    counts.add_(added)
    sums.index_add_(0, index, wide)
    squares.index_add_(0, index, wide.square().sum(dim=1))
    if scatter is None:
        return
    buckets = scatter.shape[0]
    if buckets == 1:
        scatter[0].add_(centred.T @ centred)
        return
    unlabelled = index >= labelled_groups
    any_unlabelled = not on_cpu or bool((unlabelled & keep).any())
    labelled_rows = torch.where(unlabelled[:, None], 0.0, centred) if any_unlabelled else centred
    scatter[0].add_(labelled_rows.T @ labelled_rows)
    if any_unlabelled:
        other = torch.where(unlabelled[:, None], centred, 0.0)
        scatter[1].add_(other.T @ other)


def _fp32_products_are_full() -> bool:
    """Whether fp32 matrix products are computed in fp32 (not TF32 or bf16) under the user's settings."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer when its old and new precision settings were mixed
        return False


def direction_sums_(rows: Tensor, keep: Tensor, count: Tensor, sums: Tensor, squares: Tensor) -> None:
    """Add L2-normalised rows to per-dimension sums. Zero rows have no direction: they add nothing."""
    wide = torch.where(keep[:, None], rows.double(), 0.0)
    norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    unit = torch.where(norm > 0, wide / norm, 0.0)
    count.add_(torch.stack([keep.sum(), (norm.squeeze(1) > 0).sum()]).to(count.dtype))
    sums.add_(unit.sum(dim=0))
    squares.add_(unit.square().sum(dim=0))


def unit_stats_(rows: Tensor, keep: Tensor, active: Tensor, minimum: Tensor, maximum: Tensor) -> None:
    """Add rows to per-unit activity (how often above zero) and range."""
    if rows.shape[0] == 0:
        return
    wide = rows.to(minimum.dtype)
    active.add_(((wide > 0) & keep[:, None]).sum(dim=0).to(active.dtype))
    minimum.copy_(torch.minimum(minimum, torch.where(keep[:, None], wide, torch.inf).amin(dim=0)))
    maximum.copy_(torch.maximum(maximum, torch.where(keep[:, None], wide, -torch.inf).amax(dim=0)))


def knn(
    queries: Tensor,
    reference: Tensor,
    k: int,
    query_groups: Tensor | None,
    reference_groups: Tensor | None,
    exclude_self: bool,
    kernel_scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exact Euclidean neighbours in float64, tile by tile: the distance matrix is never held.

    A tile's squared distances come from one product of centred rows. Pairs so near that the product cancels are
    measured again by subtraction: duplicates are exactly zero apart, and tight clusters keep full precision.
    """
    n, m = queries.shape[0], reference.shape[0]
    device = queries.device
    distances = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
    indices = torch.full((n, k), -1, dtype=torch.int64, device=device)
    kernel_sums = torch.zeros(n, dtype=torch.float64, device=device)
    kernel_counts = torch.zeros(n, dtype=torch.int64, device=device)
    if n == 0 or m == 0:
        return distances, indices, kernel_sums, kernel_counts
    centre = reference.double().mean(dim=0)
    b = reference.double() - centre
    b_norm = b.square().sum(dim=1)
    columns = torch.arange(m, device=device)
    tile = max(1, _TILE_ELEMENTS // m)
    for start in range(0, n, tile):
        rows = torch.arange(start, min(start + tile, n), device=device)
        q = queries[rows].double() - centre
        q_norm = q.square().sum(dim=1)
        squared = (q_norm[:, None] + b_norm[None, :]).addmm_(q, b.T, alpha=-2.0).clamp_(min=0.0)
        barred = torch.zeros_like(squared, dtype=torch.bool)
        if exclude_self:
            barred |= columns[None, :] == rows[:, None]
        if query_groups is not None and reference_groups is not None:
            mine = query_groups[rows, None]
            barred |= (mine == reference_groups[None, :]) & (mine >= 0)
        squared.masked_fill_(barred, torch.inf)
        if kernel_scale > 0:
            kernel_sums[rows] = torch.exp(-kernel_scale * squared).sum(dim=1)
            kernel_counts[rows] = (~barred).sum(dim=1)
        part = slice(start, start + len(rows))
        near, values, crowded = _candidates(squared, q_norm + b_norm.max(), min(k, m), min(m, k + _SPARE))
        measured = _measure(queries[part], reference, near, values, q_norm[:, None] + b_norm[near])
        _keep_nearest(*measured, near, crowded, distances[part], indices[part])
    return distances, indices, kernel_sums, kernel_counts


def self_neighbors(
    rows: Tensor, k: int, groups: Tensor, voters: Tensor, vote_k: int, kernel_scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Every row's neighbours among the others by distance and by angle, and kernel sums, from one set of products.

    With u the length of a row, the squared chord of two directions is (‖x−y‖² − (u_x−u_y)²)/(u_x·u_y): a tile of
    squared distances becomes one of chords without another product, and loses nothing to a far origin.
    """
    n, device = rows.shape[0], rows.device
    distances = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
    indices = torch.full((n, k), -1, dtype=torch.int64, device=device)
    chords = torch.full((n, vote_k), torch.inf, dtype=torch.float64, device=device)
    voted = torch.full((n, vote_k), -1, dtype=torch.int64, device=device)
    sums = torch.zeros(n, dtype=torch.float64, device=device)
    squares = torch.zeros(n, dtype=torch.float64, device=device)
    counts = torch.zeros(n, dtype=torch.int64, device=device)
    if n == 0:
        return distances, indices, chords, voted, sums, squares, counts
    wide = rows.double()
    centred = wide - wide.mean(dim=0)
    norm, length = centred.square().sum(dim=1), torch.linalg.vector_norm(wide, dim=1)
    directed = length > 0
    inverse = torch.where(directed, 1.0 / length, 0.0)
    unit = wide * inverse[:, None] if vote_k else wide
    voters = voters & directed
    angles, everything = bool(vote_k) or kernel_scale > 0, bool(directed.all())
    grouped = groups[groups >= 0]
    alone = grouped.unique().numel() == grouped.numel()  # then a row bars nobody but itself
    tile = max(1, _TILE_ELEMENTS // n)
    buffers = [wide.new_empty(min(tile, n), n) for _ in range(2 if angles else 1)]  # once: fresh pages are slow
    for start in range(0, n, tile):
        part = slice(start, min(start + tile, n))
        squared = torch.add(norm[part, None], norm[None, :], out=buffers[0][: min(tile, n - start)])
        squared.addmm_(centred[part], centred.T, alpha=-2.0).clamp_(min=0.0)
        barred = None if alone else (groups[part, None] == groups[None, :]) & (groups[part, None] >= 0)
        _bar(squared, barred, start)
        if k:
            near, values, crowded = _candidates(squared, norm[part] + norm.max(), min(k, n), min(n, k + _SPARE))
            measured = _measure(rows[part], rows, near, values, norm[part, None] + norm[near])
            _keep_nearest(*measured, near, crowded, distances[part], indices[part])
        if not angles:
            continue
        apart = torch.sub(length[part, None], length[None, :], out=buffers[1][: len(squared)])
        squared.addcmul_(apart, apart, value=-1.0).clamp_(min=0.0)
        squared.mul_(inverse[part, None]).mul_(inverse[None, :])
        if not everything:
            squared.masked_fill_(~directed[None, :], torch.inf)  # and inf × 0 is NaN
            _bar(squared, barred, start)
        if vote_k:
            among = squared if bool(voters.all()) else squared.masked_fill(~voters[None, :], torch.inf)
            spread = (norm[part] + norm.max() + (length[part] + length.max()).square()) * inverse[part]
            width = min(n, vote_k + _SPARE)
            near, values, crowded = _candidates(among, spread * inverse.max(), min(vote_k, n), width)
            scale = norm[part, None] + norm[near] + (length[part, None] + length[near]).square()
            scale = scale * inverse[part, None] * inverse[near]
            measured = _measure(unit[part], unit, near, values, scale)
            _keep_nearest(*measured, near, crowded, chords[part], voted[part])
        if kernel_scale > 0:
            counts[part] = n - 1 if alone and everything else squared.isfinite().sum(dim=1)
            kernel = squared.mul_(-kernel_scale).exp_()
            sums[part], squares[part] = kernel.sum(dim=1), torch.linalg.vector_norm(kernel, dim=1).square()
    chords.masked_fill_(~voters[:, None], torch.inf)
    voted.masked_fill_(~voters[:, None], -1)
    for column in (sums, squares, counts):
        column.masked_fill_(~directed, 0)
    return distances, indices, chords, voted, sums, squares, counts


def _bar(squared: Tensor, barred: Tensor | None, start: int) -> None:
    """Put the rows themselves, and what is barred, infinitely far."""
    squared.diagonal(start).fill_(torch.inf)
    if barred is not None:
        squared.masked_fill_(barred, torch.inf)


def _keep_nearest(
    measured: Tensor, unsure: Tensor, near: Tensor, crowded: Tensor, distances: Tensor, indices: Tensor
) -> None:
    """The nearest candidates in order, into the rows of the result; what is infinitely far has no index."""
    again = unsure | crowded
    if bool(again.any()):  # elsewhere they lie in order already
        by_index = near[again].sort(dim=1)
        order = measured[again].gather(1, by_index.indices).sort(dim=1, stable=True)  # ties go to the lower index
        measured[again], near[again] = order.values, by_index.values.gather(1, order.indices)
    width = min(distances.shape[1], near.shape[1])
    distances[:, :width] = measured[:, :width]
    indices[:, :width] = near[:, :width].masked_fill(measured[:, :width].isinf(), -1)


_SPARE = 8  # candidates beyond k, among which near ties are told apart
_TILE_ELEMENTS = 2**21  # 16 MiB of float64 distances at a time: about what stays in a cache
_TYING = 1e-12  # squared distances nearer to each other than this share of the norms may be equal
_CANCELLING = 1e-4  # below this share of the norms, a squared distance from the product has lost 4 digits


def _candidates(squared: Tensor, scale: Tensor, k: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of the ``width`` smallest entries a row and those entries, ascending; of many equal ones, the first.

    Also which rows were crowded: so many entries near the k-th that the columns come in no order.
    """
    values, near = _smallest(squared, width)
    limit = values[:, k - 1]
    slack = 16 * torch.finfo(torch.float64).eps * scale
    crowded = values[:, -1] <= limit + slack if width < squared.shape[1] else torch.zeros_like(limit, dtype=torch.bool)
    if bool(crowded.any()):  # there may be more of them than were looked at
        some, limit, slack = squared[crowded], limit[crowded, None], slack[crowded, None]
        last = some.shape[1]
        rank = torch.arange(last, device=some.device).expand_as(some)
        rank = torch.where(some < limit - slack, -1, torch.where(some <= limit + slack, rank, last))
        columns = rank.topk(width, dim=1, largest=False).indices
        ordered = some.gather(1, columns).sort(dim=1)
        values[crowded], near[crowded] = ordered.values, columns.gather(1, ordered.indices)
    return near, values, crowded


def _smallest(squared: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` smallest entries of each row in ascending order, and their columns.

    They lie in the ``width`` blocks of columns with the smallest minima, so that only those need to be sorted.
    """
    block = squared.shape[1] // (6 * width)
    if block < 4 or 64 * width < squared.shape[1]:  # few of many are found fast without
        found = squared.topk(width, dim=1, largest=False)
        return found.values, found.indices
    whole = squared.shape[1] // block * block
    blocks = squared[:, :whole].unflatten(1, (-1, block)).amin(dim=2).topk(width, dim=1, largest=False).indices
    columns = (blocks[:, :, None] * block + torch.arange(block, device=squared.device)).flatten(1)
    rest = torch.arange(whole, squared.shape[1], device=squared.device).expand(len(squared), -1)
    columns = torch.cat([columns, rest], dim=1)
    found = squared.gather(1, columns).topk(width, dim=1, largest=False)
    return found.values, columns.gather(1, found.indices)


def _measure(queries: Tensor, reference: Tensor, near: Tensor, squared: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the candidates: from the product where that is accurate, by subtraction where it is not.

    By subtraction also where two candidates are nearly equally far, so that exact ties (pixels, lattices, copies) are
    seen as ties and not decided by round-off. Also returned: in which rows that happened, so that order may be lost.
    """
    again = squared < _CANCELLING * scale
    tied = squared.diff(dim=1) < _TYING * scale[:, :-1]
    again[:, 1:] |= tied
    again[:, :-1] |= tied
    distances = squared.sqrt()
    at, column = (again & squared.isfinite()).nonzero(as_tuple=True)
    step = max(1, _TILE_ELEMENTS // max(1, queries.shape[1]))
    for start in range(0, at.numel(), step):
        i, j = at[start : start + step], column[start : start + step]
        difference = queries[i].double() - reference[near[i, j]].double()  # exact: both were fp32 or are float64
        distances[i, j] = torch.linalg.vector_norm(difference, dim=1)
    return distances, again.any(dim=1)
