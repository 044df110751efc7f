"""Where a function of one number crosses zero."""

from __future__ import annotations

from collections.abc import Callable

_PATIENCE = 3  # steps in which the interval should be halved


def root(function: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where a growing function that is below 0 at ``low`` and above at ``high`` is 0, give or take the tolerance.

    By inverse quadratic steps where they are safe and get on, and halves elsewhere: Chandrupatla (1997), "A new hybrid
    quadratic/bisection algorithm for finding the zero of a nonlinear function without using derivatives".
    """
    (a, fa), (b, fb) = (high, function(high)), (low, function(low))
    share, widths = 0.5, [float("inf")] * _PATIENCE
    while True:
        at = a + share * (b - a)
        found = function(at)
        if (found >= 0) == (fa >= 0):
            c, fc = a, fa
        else:
            (c, fc), (b, fb) = (b, fb), (a, fa)
        a, fa = at, found
        width = abs(b - a)
        if not width > 2 * tolerance or fa == 0:
            return a
        x, y = (a - b) / (c - b), (fa - fb) / (fc - fb)
        share = 0.5
        if y * y < x and (1 - y) ** 2 < 1 - x and width < widths[-_PATIENCE] / 2:
            share = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (fc - fb)
            share = min(max(share, tolerance / width), 1 - tolerance / width)
        widths.append(width)
