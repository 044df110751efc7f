"""Features that no module puts out and the step returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.rows.batches import summarize
from lightning_featgeo.types import Tensor

FeaturesFrom = str | Callable[[Any, Any], Any]


def given_features(asked: FeaturesFrom, outputs: Any, batch: Any) -> list[Tensor]:
    """What ``features=`` finds in what a step returned: a tensor, or one a view.

    Raises:
        ConfigurationError: if it finds none, with what there is.
    """
    if callable(asked):
        value = asked(outputs, batch)
    elif isinstance(outputs, Mapping) and asked in outputs:
        value = outputs[asked]
    else:
        known = [str(key) for key in outputs] if isinstance(outputs, Mapping) else []
        hint = near_misses(str(asked), known) if known else ""
        raise ConfigurationError(
            f"features={asked!r}: the step returned {summarize(outputs)}, which has no such key.{hint} "
            f'Return {{"loss": loss, {asked!r}: features}} from the step'
        )
    tensors = list(value) if isinstance(value, (list, tuple)) else [value]
    if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise ConfigurationError(f"features=… gave {summarize(value)}; it must give a tensor, or one a view")
    return tensors
