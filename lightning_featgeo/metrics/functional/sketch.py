"""Sketches of distributions: a few hundred numbers a window, from which any two windows can be compared later.

A Gaussian kernel of bandwidth h is a mean of cosines, k(x, y) = E cos(w·(x − y)/h): the means of cos and sin of fixed
projections stand for all rows, whatever their number. Rahimi & Recht (2007), "Random Features for Large-Scale Kernel
Machines"; Yu et al. (2016), "Orthogonal Random Features" (arXiv 1610.09072); Gretton et al. (2012), "A Kernel
Two-Sample Test", for the maximum mean discrepancy.
"""

from __future__ import annotations

import functools
import math

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.functional.diffusion import squared_distances
from lightning_featgeo.metrics.functional.ranks import lower_median
from lightning_featgeo.types import Float, Tensor

PROJECTIONS = 512  # fixed ones; a sketch has the cosine and the sine of each
_MEDIAN_ROWS = 512  # whose distances the bandwidth is taken from
SKETCH_ROWS = 4096  # of the bank
_ROWS_AT_ONCE = 256  # whose angles a cache holds
_SEED = 20_26


@functools.lru_cache(maxsize=4)
def projections(dim: int, count: int = PROJECTIONS) -> Float[Tensor, "d m"]:
    """Fixed directions for features of this dimension, orthogonal in blocks of d, as long as Gaussian ones.

    Made from hashes, so that they are the same on any machine and with any version of torch.
    """
    blocks = []
    for block in range(math.ceil(count / dim)):
        width = min(dim, count - block * dim)
        normal = _normal(dim * width, 2 * block).reshape(dim, width)
        q, r = torch.linalg.qr(normal)
        lengths = _normal(dim * width, 2 * block + 1).reshape(dim, width).square().sum(dim=0).sqrt()
        blocks.append(q * r.diagonal().sign() * lengths)
    return torch.cat(blocks, dim=1)


def _normal(count: int, stream: int) -> Tensor:
    """Gaussian numbers by Box and Muller, of hashes."""
    index = torch.arange(2 * count)
    uniform = (ops.hash_priority(index, _SEED + stream).double() + 0.5) / 2**62
    radius = (-2 * uniform[:count].log()).sqrt()
    return radius * (2 * math.pi * uniform[count:]).cos()


def octave(rows: Float[Tensor, "n d"]) -> int:
    """k of the power of two 2ᵏ that is nearest, as a ratio, to the median distance of two of the first 512 rows.

    Raises:
        Undefined: with fewer than two rows, or if half of them are the same.
    """
    if len(rows) < 2:
        raise Undefined(f"needs 2 rows, got {len(rows)}")
    squares = squared_distances(rows[:_MEDIAN_ROWS])
    middle = float(lower_median(squares[torch.ones_like(squares, dtype=torch.bool).triu(1)]).sqrt())
    if not 0 < middle < math.inf:
        raise Undefined("half of the rows are the same, or not finite: their distances give no bandwidth")
    return round(math.log2(middle))


def sketch(rows: Float[Tensor, "n d"], octaves: tuple[int, ...]) -> Float[Tensor, "b m2"]:
    """A line for each bandwidth 2ᵏ: k and d, then the means over rows of cos(w·x/2ᵏ) and of sin(w·x/2ᵏ)."""
    w = projections(rows.shape[1]).to(rows.device)
    lines = torch.zeros(len(octaves), 2 + 2 * w.shape[1], dtype=torch.float64, device=rows.device)
    widest_first = sorted(zip(octaves, lines, strict=True), key=lambda each: -each[0])
    for part in rows.split(_ROWS_AT_ONCE):
        turned = part.double() @ w
        before, cosine, sine = math.inf, turned, turned
        for k, line in widest_first:
            if before == k + 1:  # twice the angle: no other sines and cosines to be found
                cosine, sine = 1 - 2 * sine.square(), 2 * sine * cosine
            else:
                phase = turned * 2.0**-k
                cosine, sine = phase.cos(), phase.sin()
            line[2:] += torch.cat([cosine.sum(dim=0), sine.sum(dim=0)])
            before = k
    lines[:, 2:] /= max(len(rows), 1)
    lines[:, 0], lines[:, 1] = torch.tensor(octaves, dtype=torch.float64, device=rows.device), rows.shape[1]
    return lines


def ladder(rows: Float[Tensor, "n d"]) -> Float[Tensor, "3 m2"]:
    """The sketch at the rows' own bandwidth, at half and at twice of it: what a window leaves behind.

    Raises:
        Undefined: as :func:`octave`.
    """
    own = octave(rows)
    return sketch(rows, (own - 1, own, own + 1))


def mmd(one: Float[Tensor, "b m2"], other: Float[Tensor, "b m2"]) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy of two sets of rows from their sketches, in [0, 2].

    0 for the same rows. Two independent sets of n rows of one distribution read 0.4/n to 1.3/n; the same samples of two
    windows read less. Of the bandwidths that both have, the one in the middle of the two sets' own is taken. For
    windows of one network, or of copies of it, in one run or several: networks that were trained apart have axes of
    their own.

    Args:
        one, other: as :func:`sketch` or :func:`ladder` gives them, or a record's ``sketched``.

    Raises:
        Undefined: if they have no bandwidth in common (then one's spread is more than four times the other's), or are
            of features of other dimensions.
    """
    d, e = int(one[0, 1]), int(other[0, 1])
    if d != e:
        raise Undefined(f"features have {d} dimensions in the one and {e} in the other")
    octaves = [one[:, 0].tolist(), other[:, 0].tolist()]
    shared = sorted(set(octaves[0]) & set(octaves[1]))
    if not shared:
        raise Undefined("the two sketches have no bandwidth in common: one set is spread several times as far")
    middle = sum(sum(each) / len(each) for each in octaves) / 2
    best = min(shared, key=lambda k: (abs(k - middle), k))
    a, b = (table[each.index(best), 2:].double() for table, each in zip((one, other), octaves, strict=True))
    return (a - b.to(a.device)).square().sum() / (len(a) // 2)


def sketch_mmd(compared_sketches: tuple[Float[Tensor, "1 m2"], Float[Tensor, "1 m2"]]) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy between the rows of this window and of an earlier one, in [0, 2].

    Whether the distribution of the features has changed, whichever samples they are of: training windows and shuffled
    loaders have it too. The kernel is Gaussian, its bandwidth a power of two near the earlier window's median distance.
    A rotation or a shift counts. From 512 fixed projections, which come within a few per cent of all pairs of rows.

    Raises:
        Undefined: without an earlier window, or one whose rows give no bandwidth.
    """
    return mmd(*compared_sketches)
