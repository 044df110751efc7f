"""How far each unit's values have moved: the earth mover's distance between two histograms of it.

Mapping whole distributions, unit by unit: Shin et al. 2023, "Visual DNA: Representing and Comparing Images using
Distributions of Neuron Activations" (arXiv 2304.10036). Bins are fixed, so that any two windows, stages or processes
compare; each keeps the sum of its values, so that what a bin's width hides is only a crossing inside of it.
"""

from __future__ import annotations

import math

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.accumulators.histograms import Histograms, edges
from lightning_featgeo.types import Float, Tensor

_FAR = 5.0  # deviations


def unit_distances(one: Histograms, other: Histograms) -> Float[Tensor, " d"]:
    """Earth mover's distance (Wasserstein-1) between the two histograms of each unit, in the unit's own scale, ≥ 0.

    The area between the two distribution functions, whose integral over each bin is known exactly from its count and
    sum: exact where they don't cross within a bin, never too large elsewhere.

    Args:
        one, other: of the same units, each of one row at least.
    """
    counts, sums = (
        (a / one.counts.sum(dim=1, keepdim=True)) - (b / other.counts.sum(dim=1, keepdim=True))
        for a, b in ((one.counts, other.counts), (one.sums, other.sums))
    )
    at = edges().to(counts.device)
    below = counts.cumsum(dim=1)[:, :-1] * at  # of both distribution functions at the edges, times the edge
    ends = below.new_zeros(len(below), 1)
    return (torch.cat([below, ends], dim=1) - torch.cat([ends, below], dim=1) - sums).abs().sum(dim=1)


def unit_moves(one: Histograms, other: Histograms) -> Float[Tensor, " d"]:
    """:func:`unit_distances` over the spread of both windows' values together, in [0, 2]; NaN of units without any."""
    spread = spread_of(one, other)
    return torch.where(spread > 0, (unit_distances(one, other) / spread).clamp(max=2), torch.nan)


def spread_of(one: Histograms, other: Histograms) -> Float[Tensor, " d"]:
    """Standard deviation of the two windows' values, each window half of them; 0 where only rounding is left."""
    n, m = one.counts.sum(dim=1), other.counts.sum(dim=1)
    power = one.squares / n + other.squares / m
    mean = (one.sums.sum(dim=1) / n + other.sums.sum(dim=1) / m) / 2
    variance = power / 2 - mean.square()
    return torch.where(variance > 1e-13 * power, variance, 0).sqrt()


def quantiles(histograms: Histograms, levels: tuple[float, ...]) -> Float[Tensor, "d q"]:
    """Values below which these shares of each unit's lie, evenly spread within a bin about the mean of what it holds.

    Off by no more than the bin is wide: a quarter to a half of the value. In the two outermost bins, from ±128 on,
    those of a Gaussian with the unit's mean and spread.
    """
    counts, at = histograms.counts, edges().to(histograms.counts.device)
    cumulative = counts.cumsum(dim=1)
    asked = torch.tensor(levels, dtype=torch.float64, device=counts.device)
    wanted = asked * cumulative[:, -1:]
    wanted = wanted.clamp(min=0.5)  # within the first value
    bins = (cumulative[:, None, :] < wanted[:, :, None]).sum(dim=2).clamp(max=counts.shape[1] - 1)
    held, total = counts.gather(1, bins), histograms.sums.gather(1, bins)
    mean = total / held.clamp(min=1)
    low = torch.where(bins > 0, at[(bins - 1).clamp(min=0)], mean)
    high = torch.where(bins < len(at), at[bins.clamp(max=len(at) - 1)], mean)
    half = torch.minimum(mean - low, high - mean).clamp(min=0)  # a symmetric part of the bin, about its own mean
    spread = spread_of(histograms, histograms)[:, None]
    half = torch.where(spread > 0, half, 0)
    inside = ((wanted - (cumulative.gather(1, bins) - held)) / held.clamp(min=1)).clamp(0, 1)
    within = mean + (2 * inside - 1) * half
    normal = (math.sqrt(2) * torch.erfinv(2 * asked - 1)).clamp(-_FAR, _FAR)
    n = cumulative[:, -1:].clamp(min=1)
    tail = histograms.sums.sum(dim=1, keepdim=True) / n + normal * spread
    tail = torch.where(bins == 0, tail.clamp(max=float(at[0])), tail.clamp(min=float(at[-1])))
    outside = ((bins == 0) | (bins == len(at))) & (spread > 0)
    return torch.where(outside, tail, within)


def unit_drift(unit_moves_compared: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Mean over units of the earth mover's distance between two windows' values of the unit, over their spread.

    In [0, 2]: 0 for the same distributions of every unit, whatever happens between units; 2 where each unit had one
    value in the one window and another in the other. Windows needn't have the same samples. Where all values of a unit
    lie in one bin only its mean is compared: bins are half an octave wide, and all that is above 128, or below 1/256,
    is in one on each side of zero.

    Raises:
        Undefined: without another window, or if no unit varies.
    """
    known = unit_moves_compared[~unit_moves_compared.isnan()]
    if not known.numel():
        raise Undefined("no unit varies")
    return known.mean()
