"""How many numbers a layer takes and gives, and how many classes a model states."""

from __future__ import annotations

from typing import Any

import torch

_CLASS_COUNT_NAMES = ("num_classes", "n_classes", "num_labels", "nb_classes")


def in_width(module: torch.nn.Module | None) -> int | None:
    """How many numbers (or channels) a layer takes; None: it doesn't tell."""
    found = getattr(module, "in_features", getattr(module, "in_channels", None))
    return found if isinstance(found, int) else None


def out_width(module: torch.nn.Module | None) -> int | None:
    """How many numbers (or channels) a layer gives; None: it doesn't tell."""
    found = getattr(module, "out_features", getattr(module, "out_channels", None))
    return found if isinstance(found, int) else None


def known_class_count(*sources: Any) -> int | None:
    """Number of classes as a module, its hyperparameters, its config or the datamodule states it."""

    def read(holder: Any, name: str) -> Any:
        try:
            return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
        except Exception:  # a user's property that is not ready yet
            return None

    for source in sources:
        for holder in (source, read(source, "hparams"), read(source, "config")):
            for name in _CLASS_COUNT_NAMES:
                value = read(holder, name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    if name == "num_labels" and holder is not source and not _gives(source, value):
                        continue  # every configuration of transformers has it, with a head or without
                    return value
    return None


def _gives(root: Any, width: int) -> bool:
    """Whether any layer of a model gives so many numbers."""
    return not isinstance(root, torch.nn.Module) or any(out_width(module) == width for module in root.modules())
