"""How many numbers a layer takes and gives, as it says itself: Linear layers, convolutions and their like."""

from __future__ import annotations

import torch


def in_width(module: torch.nn.Module | None) -> int | None:
    """How many numbers (or channels) a layer takes; None: it doesn't tell."""
    found = getattr(module, "in_features", getattr(module, "in_channels", None))
    return found if isinstance(found, int) else None


def out_width(module: torch.nn.Module | None) -> int | None:
    """How many numbers (or channels) a layer gives; None: it doesn't tell."""
    found = getattr(module, "out_features", getattr(module, "out_channels", None))
    return found if isinstance(found, int) else None
