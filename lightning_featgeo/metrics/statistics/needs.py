"""What a statistic needs: the mark that says which accumulators must run for it, and the register of all marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from lightning_featgeo.errors import near_misses

_REQUIRES: dict[str, frozenset[str]] = {"dim": frozenset(), "knn_t": frozenset()}  # plain attributes


def statistic(*requires: str) -> Callable[[Callable[[Any], Any]], Any]:
    """Mark a method as a statistic that needs these.

    Accumulators by name, "scatter" (with moments), "extremes" (with units), "labels", "targets", "views", "head",
    "reference" (a window to compare with), "reference.<accumulator>" (what that window must have kept), "eigen" (for
    the page on cost).
    """

    def mark(method: Callable[[Any], Any]) -> Any:
        _REQUIRES[method.__name__] = frozenset(requires)
        return cached_property(method)

    return mark


def required_by(needs: Iterable[str]) -> frozenset[str]:
    """What the named statistics require, together.

    Raises:
        KeyError: if a name is no statistic; the message has those that are called alike, or all.
    """
    found: frozenset[str] = frozenset()
    for need in needs:
        if need not in _REQUIRES:
            raise KeyError(
                f"there is no statistic {need!r} (a parameter's name says what it is given: rows for the features)."
                f"{near_misses(need, sorted(_REQUIRES))}"
            )
        found |= _REQUIRES[need]
    return found


def known() -> frozenset[str]:
    """Names of all statistics."""
    return frozenset(_REQUIRES)
