"""Correlations of ranks (Spearman), many at once, over whatever values are there; and what is said of one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

LEAST_RUNS = 5  # that have both: of fewer, a correlation of ranks says next to nothing
_Z = 1.959964  # of a 95 % interval
_LARGEST = 0.9999999  # so that arctanh stays finite


def moves(values: torch.Tensor) -> bool:
    """Whether there are two different values at all."""
    known = values[values.isfinite()]
    return len(known) > 1 and bool((known != known[0]).any())


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks among the values that there are, equal ones the same; NaN stays."""
    here = values.isfinite()
    known = values[here]
    ordered = known.sort().values
    first = torch.searchsorted(ordered, known, right=False)
    last = torch.searchsorted(ordered, known, right=True)
    found = torch.full_like(values, math.nan)
    found[here] = (first + last + 1).double() / 2
    return found


def correlations(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pearson's correlation of every row of x with every row of y, over what both have.

    Args:
        x: (a, n), NaN where there is nothing.
        y: (b, n), likewise.

    Returns:
        Correlations, 0 where one of both does not move, and the numbers of pairs; both (a, b).
    """
    here, there = x.isfinite().double(), y.isfinite().double()
    x = (x - x.nanmean(1, keepdim=True)).nan_to_num(0.0)  # before products: sums stay small
    y = (y - y.nanmean(1, keepdim=True)).nan_to_num(0.0)
    n = here @ there.T
    sum_x, sum_y = x @ there.T, here @ y.T
    within_x = (x.square() @ there.T - sum_x.square() / n).clamp(min=0)
    within_y = (here @ y.square().T - sum_y.square() / n).clamp(min=0)
    scale = (within_x * within_y).sqrt()
    return torch.where(scale > 1e-9, (x @ y.T - sum_x * sum_y / n) / scale, 0.0).clamp(-1, 1), n


def fisher(rho: torch.Tensor) -> torch.Tensor:
    """Where a correlation is about normal: arctanh, kept finite."""
    return rho.clamp(-_LARGEST, _LARGEST).atanh()


def interval(rho: float, n: float) -> tuple[float, float]:
    """95 %, on Fisher's scale, with the variance for ranks of Bonett and Wright (2000).

    That scale has no end: of n ranks in full agreement, the interval is that of a value halfway to the next lower one
    which n ranks can have (two neighbours exchanged), and reaches to 1.
    """
    most = 1 - 6 / (n**3 - n)
    near = max(-most, min(most, rho))
    z, wide = math.atanh(near), _Z * math.sqrt((1 + near * near / 2) / (n - 3))
    return -1.0 if rho < -most else math.tanh(z - wide), 1.0 if rho > most else math.tanh(z + wide)


def independent(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """So many independent pairs say as much as n that follow one another (Bartlett, 1935, one step of memory).

    Args:
        x: (a, t)
        y: (b, t)
        n: (a, b), pairs of each row of x with each row of y.
    """
    memory = _memory(x)[:, None] * _memory(y)
    return torch.minimum(n, n * (1 - memory) / (1 + memory))


def _memory(x: torch.Tensor) -> torch.Tensor:
    """Correlation of each row with itself one step later, over the pairs that are there."""
    both = x[:, :-1].isfinite() & x[:, 1:].isfinite()
    n = both.sum(1, keepdim=True).clamp(min=1)
    before, after = (each.masked_fill(~both, 0.0) for each in (x[:, :-1], x[:, 1:]))
    before = (before - before.sum(1, keepdim=True) / n).masked_fill(~both, 0.0)
    after = (after - after.sum(1, keepdim=True) / n).masked_fill(~both, 0.0)
    scale = (before.square().sum(1) * after.square().sum(1)).sqrt()
    return torch.where(scale > 1e-9, (before * after).sum(1) / scale, 0.0).clamp(-0.99, 0.99)


def chances(seen: torch.Tensor, highest: torch.Tensor) -> list[float]:
    """Share of shuffles whose best does at least as well as each of what was seen; what was seen counts as one."""
    ordered = highest.sort().values
    as_good = len(ordered) - torch.searchsorted(ordered, seen.contiguous() - 1e-12)
    return [(1 + int(k)) / (1 + len(ordered)) for k in as_good]


@dataclass(frozen=True)
class Link:
    """How one curve went with the outcome.

    ``panel``: index among the curves that were tried. ``rho``: correlation of ranks, with a 95 % interval ``low`` to
    ``high``. ``n``: runs, or moves from window to window. ``chance``: share of shuffles in which any of the curves that
    were tried does as well. ``lag``: windows by which the curve moves before the outcome; None across runs.
    """

    panel: int
    rho: float
    low: float
    high: float
    n: int
    chance: float
    lag: int | None = None


def in_order(links: list[Link]) -> list[Link]:
    """The closest first."""
    return sorted(links, key=lambda link: (link.chance, -abs(link.rho)))
