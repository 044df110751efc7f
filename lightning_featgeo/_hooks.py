"""What torch's modules and hook handles tell of hooks under names that torch doesn't promise, or nothing."""

from __future__ import annotations

from typing import Any

import torch


def breaks_when_compiled_whole(root: torch.nn.Module) -> bool:
    """Whether a LightningModule was compiled as a whole under a torch whose guards then fail on hooks that come and go.

    torch 2.10 raises ``InternalTorchDynamoError`` at the first step; 2.13 and later don't. Between them nobody tried.
    """
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return release < (2, 13) and bool(getattr(root, "_compiler_ctx", None))


def has_pre_hooks(module: torch.nn.Module) -> bool:
    """Whether somebody's hooks run before this module's forward; putting one in front of none costs a step 4 µs."""
    return bool(getattr(module, "_forward_pre_hooks", True))


def flags_of(handle: Any) -> tuple[bool, ...]:
    """What a hook was registered with, as its handle tells it; () where it doesn't."""
    try:
        return tuple(handle.id in ref() for ref in handle.extra_dict_ref)
    except (AttributeError, TypeError):
        return ()


def put_back(module: Any, handle: Any, hook: Any, flags: tuple[bool, ...], first: bool) -> bool:
    """Put a hook back where its handle took it away; False where torch, or this module now, keeps hooks elsewhere."""
    try:
        hooks, extra = handle.hooks_dict_ref(), [ref() for ref in handle.extra_dict_ref]
        if hooks is not module._forward_pre_hooks and hooks is not module._forward_hooks:
            return False
        if hooks is None or not flags or len(flags) != len(extra) or any(one is None for one in extra):
            return False
        hooks[handle.id] = hook
        for one, flag in zip(extra, flags, strict=True):
            if flag:
                one[handle.id] = True
        if first:
            hooks.move_to_end(handle.id, last=False)
        return True
    except (AttributeError, TypeError):
        return False
