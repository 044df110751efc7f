"""From what was asked for and what the first batch has to what is computed, and which accumulators that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch

from lightning_featgeo.metrics.accumulator import Accumulator
from lightning_featgeo.metrics.bank import BankAccumulator
from lightning_featgeo.metrics.catalog import CATALOG, PRESETS
from lightning_featgeo.metrics.directions import DirectionAccumulator
from lightning_featgeo.metrics.moments import MomentsAccumulator
from lightning_featgeo.metrics.units import UnitAccumulator
from lightning_featgeo.types import ConfigurationError

AUTO_BANK_ROWS = 4096
AUTO_BANK_BYTES = 256 * 2**20


def choose_signals(
    asked: tuple[str, ...] | None, named: frozenset[str], has_labels: bool, num_classes: int | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The signals that are computed, and why members of groups are left out.

    Args:
        asked: resolved names; None for "auto".
        named: those of them that were asked for by their own name.
        has_labels: whether the first batch has labels.
        num_classes: C, if known.

    Raises:
        ConfigurationError: if a signal asked for by name can't be computed, or none can.
    """
    if asked is None:
        return PRESETS["classifier" if has_labels and num_classes else "unlabelled"], {}
    labelled = [name for name in asked if "labels" in CATALOG[name].requires]
    if not labelled or (has_labels and num_classes):
        return asked, {}
    needy = ", ".join(name for name in labelled if name in named)
    if needy and not has_labels:
        raise ConfigurationError(
            f"{needy} need class labels and the first batch has none; pass labels, or leave these signals out"
        )
    if needy:
        raise ConfigurationError(f"{needy} need the number of classes: give num_classes=…")
    reason = "needs the number of classes (num_classes=)" if has_labels else "needs class labels"
    remaining = tuple(name for name in asked if name not in labelled)
    if not remaining:
        raise ConfigurationError(f"none of the signals asked for can be computed: {', '.join(labelled)} each {reason}")
    return remaining, dict.fromkeys(labelled, reason)


def bank_capacity(bank_size: int | Literal["auto"], dim: int, itemsize: int = 4) -> int:
    """Rows the bank keeps of features of this size: as given, or 4096, fewer if they would exceed 256 MiB."""
    if bank_size != "auto":
        return int(bank_size)
    return max(2, min(AUTO_BANK_ROWS, AUTO_BANK_BYTES // (dim * itemsize)))


def build_accumulators(
    signals: tuple[str, ...],
    dim: int,
    num_classes: int | None,
    capacity: int,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Mapping[str, Accumulator]:
    """The accumulators these signals read, and no other."""
    requires = frozenset[str]().union(*(CATALOG[name].requires for name in signals))
    classes = num_classes or 0 if "labels" in requires else 0
    makers: dict[str, Callable[[], Accumulator]] = {
        "moments": lambda: MomentsAccumulator(dim, classes, keep_scatter="scatter" in requires, device=device),
        "directions": lambda: DirectionAccumulator(dim, device),
        "units": lambda: UnitAccumulator(dim, device),
        "bank": lambda: BankAccumulator(dim, capacity, seed, dtype, device),
    }
    return {name: make() for name, make in makers.items() if name in requires}
