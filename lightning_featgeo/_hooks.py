"""What torch's modules and hook handles tell of hooks under names that torch doesn't promise, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(slots=True)
class Place:
    """Where torch keeps a hook: taken from there and put back, it costs a step a tenth of being registered anew."""

    number: int  # by which torch files it
    hooks: Any
    flagged: tuple[Any, ...]  # what says how it is called

    def put(self, function: Any, module: Any, before: bool, first: bool) -> bool:
        """Put it back; False where the module keeps its hooks elsewhere now."""
        if self.hooks is not (module._forward_pre_hooks if before else module._forward_hooks):
            return False
        self.hooks[self.number] = function
        for one in self.flagged:
            one[self.number] = True
        if first:
            self.hooks.move_to_end(self.number, last=False)
        return True

    def take(self) -> None:
        """Take it away."""
        self.hooks.pop(self.number, None)
        for one in self.flagged:
            one.pop(self.number, None)


def place_of(handle: Any) -> Place | None:
    """Where a hook is that was registered; None where its handle doesn't tell."""
    try:
        hooks, extra = handle.hooks_dict_ref(), [ref() for ref in handle.extra_dict_ref]
        return Place(handle.id, hooks, tuple(one for one in extra if handle.id in one)) if handle.id in hooks else None
    except (AttributeError, TypeError):
        return None
