"""What a signal yields and what a window holds: values with their uncertainty, and gaps with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning_featgeo.errors import Gap, Note
from lightning_featgeo.types import Tensor


class Estimate(NamedTuple):
    """A value with its standard error (None where no formula is known) and the number of points behind it."""

    value: Tensor
    standard_error: Tensor | None = None
    n: int | None = None


@dataclass(frozen=True)
class WindowResult:
    """One window's numbers. A signal is either in ``values`` (finite) or in ``gaps`` (with the reason), never both.

    ``notes``: what a reader of these numbers must know, such as too few rows.
    """

    values: Mapping[str, float]
    standard_errors: Mapping[str, float]
    gaps: Mapping[str, Gap]
    ceilings: Mapping[str, float]
    counts: Mapping[str, int]
    curves: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
