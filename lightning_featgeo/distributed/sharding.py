"""Modules and tensors that FSDP or tensor parallelism has cut into shards: whole again where we read them.

Each of these is a collective where something is sharded, so every rank must call it, and does: once a window for the
head, outside of the step for features.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo.types import Tensor


def whole_head(head: torch.nn.Module, root: torch.nn.Module | None = None) -> Any:
    """The head as something that has its whole ``weight`` and ``bias``: itself, unless it is sharded.

    Args:
        head: the classifier.
        root: what the strategy has wrapped, if anything. FSDP2 and tensor parallelism make parameters DTensors, which
            know the rest of them; FSDP1 keeps a flat one in a wrapper above the module.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if is_sharded(weight) or is_sharded(bias):
        return SimpleNamespace(weight=whole(weight), bias=whole(bias))
    wrapper = _fsdp_above(head, root)
    if wrapper is None:
        return head
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(wrapper, recurse=False, writeback=False):
        return SimpleNamespace(weight=_copy(head.weight), bias=_copy(head.bias))


def _fsdp_above(head: torch.nn.Module, root: torch.nn.Module | None) -> torch.nn.Module | None:
    """The innermost FSDP1 wrapper around a module."""
    wrappers = [m for m in root.modules() if _compat.is_fsdp_wrapper(m)] if root is not None else []
    around = [m for m in wrappers if any(inside is head for inside in m.modules())]
    return around[-1] if around else None  # modules come parents first


def is_sharded(tensor: Any) -> bool:
    """Whether this is a DTensor."""
    return hasattr(tensor, "full_tensor") and hasattr(tensor, "placements")


def whole(tensor: Any) -> Any:
    """A DTensor's whole value on every rank of its mesh (copies are only unwrapped); anything else as it is."""
    if not is_sharded(tensor):
        return tensor
    if all(placement.is_replicate() for placement in tensor.placements):
        return tensor.to_local()
    return tensor.full_tensor()


def _copy(tensor: Any) -> Any:
    return tensor.detach().clone() if isinstance(tensor, Tensor) else tensor
