"""Forward hooks that come and go with every step: registered once, then put back at a tenth of the cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from lightning_featgeo import _hooks


class Hook:
    """A hook of one module, given keyword arguments too.

    Args:
        module: which module.
        function: what is called.
        before: before the forward; else after it.
        always: also where the forward raised; after it only.
    """

    def __init__(
        self, module: torch.nn.Module, function: Callable[..., Any], before: bool, always: bool = False
    ) -> None:
        self.module, self.function, self.before, self.always = module, function, before, always
        self.is_attached = False
        self._handle: RemovableHandle | None = None
        self._place: _hooks.Place | None = None

    def attach(self, first: bool = False) -> None:
        """Hook the module; does nothing if it is hooked. ``first``: before the hooks that it has."""
        if self.is_attached:
            return
        self.is_attached = True
        if self._place is not None and self._place.put(self.function, self.module, self.before, first):
            return
        if self.before:
            self._handle = self.module.register_forward_pre_hook(self.function, with_kwargs=True, prepend=first)
        else:
            self._handle = self.module.register_forward_hook(
                self.function, with_kwargs=True, prepend=first, always_call=self.always
            )
        self._place = _hooks.place_of(self._handle)

    def detach(self) -> None:
        """Unhook."""
        if self.is_attached and self._place is not None:
            self._place.take()
        elif self.is_attached and self._handle is not None:
            self._handle.remove()
        self.is_attached = False
