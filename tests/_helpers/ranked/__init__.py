"""What the tests of several processes run on each rank: whole Lightning runs, and metrics fed by hand."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from lightning_featgeo.metrics.statistics import bank as bank_statistics
from lightning_featgeo.metrics.statistics import reference as reference_statistics
from tests._helpers.models import trainer


def several(size: int, *callbacks: pl.Callback, **kwargs: Any) -> pl.Trainer:
    """A trainer of so many processes, which were started already."""
    bank_statistics.WORTH_SHARING = reference_statistics.WORTH_SHARING = 0  # small banks are searched together too
    if size > 1:
        kwargs = {"strategy": "ddp", "devices": size, **kwargs}
    return trainer(*callbacks, **kwargs)
