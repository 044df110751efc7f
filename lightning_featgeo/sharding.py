"""Modules and tensors that FSDP or tensor parallelism has cut into shards: whole again where we read them.

Each of these is a collective where something is sharded, so every rank must call it, and does: once a window for the
head, outside of the step for features.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lightning_featgeo.types import Tensor


def whole_head(head: torch.nn.Module) -> Any:
    """The head as something that has its whole ``weight`` and ``bias``: itself, unless it is sharded.

    FSDP2 and tensor parallelism make parameters DTensors; FSDP1 keeps them in a flat one, which its wrapper unshards.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if isinstance(getattr(head, "_fsdp_wrapped_module", None), torch.nn.Module):
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(head, writeback=False):
            inner: Any = head._fsdp_wrapped_module
            return SimpleNamespace(**{n: _copy(getattr(inner, n, None)) for n in ("weight", "bias")})
    if is_sharded(weight) or is_sharded(bias):
        return SimpleNamespace(weight=whole(weight), bias=whole(bias))
    return head


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
