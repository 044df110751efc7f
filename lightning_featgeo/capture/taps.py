"""FeatureTap: hook one module, stash what flows through it, hand it over, go away.

The hook calls one op that clones into a Python list keyed by an integer. So a compiled graph keeps the call, compiles
once for any number of calls a step, and the copy can't be overwritten by a later in-place op or a reused buffer.
While the tap is closed the op does nothing; training code pays a call.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.hooks import RemovableHandle

from lightning_featgeo import _compat
from lightning_featgeo.capture.stash import OPEN, Budget, Caught, Slot, stash
from lightning_featgeo.capture.values import of_input, of_output
from lightning_featgeo.errors import ConfigurationError, near_misses

_KEYS = itertools.count()


def display_name(path: str) -> str:
    """A module path as its author wrote it, without what ``torch.compile``, FSDP and checkpointing put in."""
    return ".".join(part for part in path.split(".") if part not in _compat.WRAPPERS)


def _is_a_copy(module: torch.nn.Module, owner: int) -> bool:
    """Whether the hook was copied along with its module (a teacher made by deepcopy): a copy is not watched."""
    return not torch.compiler.is_compiling() and id(module) != owner


# Hooks take their arguments with or without those by keyword: whatever copies a hook to another module (torch's
# quantisation does) may forget which.


def _stash_input(
    module: torch.nn.Module, args: Any, kwargs: Any = None, *, key: int, owner: int, in_graph: bool
) -> None:
    if not _is_a_copy(module, owner):
        stash(lambda: of_input(args if isinstance(args, tuple) else (args,), kwargs or {}), key, in_graph)


def _stash_output(
    module: torch.nn.Module, args: Any, *given: Any, key: int, owner: int, in_graph: bool, name: str, wanted: str | None
) -> None:
    if not _is_a_copy(module, owner):
        stash(lambda: of_output(module, (args, *given[:-1]), given[-1], name, wanted), key, in_graph)


class FeatureTap:
    """Catches the input or the output of a module.

    Args:
        module: which module.
        name: its path, for messages.
        side: "input" (of a head: the penultimate features) or "output" (of a named layer).
        in_graph: see ``stash``; False where CUDA graphs are replayed.
        wanted: of an output of several tensors, the key or position of the features.

    A tap starts closed. ``open()`` begins to catch, ``take()`` closes it and returns one tensor per forward call,
    in order; ``remove()`` unhooks and ``attach()`` hooks again under the same key, which a compiled graph remembers.
    Hook before the first call of a compiled module: later hooks never fire.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        name: str,
        side: Literal["input", "output"],
        in_graph: bool = True,
        wanted: str | None = None,
    ) -> None:
        self.module, self.name, self.side = module, display_name(name), side
        self.in_graph, self.wanted = in_graph, wanted
        self.key = next(_KEYS)
        self.caught_ever = False
        self._slot = Slot()
        self._handle: RemovableHandle | None = None
        self.attach()

    def attach(self) -> None:
        """Hook the module; does nothing if it is hooked."""
        if self._handle is not None:
            return
        if isinstance(self.module, torch.jit.ScriptModule):
            raise ConfigurationError(
                f"{self.name!r} is a TorchScript module, which takes no hook: watch the module around it with layer=, "
                "the head behind it with head=, or return the features from the step and give features="
            )
        told: dict[str, Any] = {"key": self.key, "owner": id(self.module), "in_graph": self.in_graph}
        if self.side == "input":
            before = functools.partial(_stash_input, **told)  # partials of plain functions can be pickled
            self._handle = self.module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            after = functools.partial(_stash_output, **told, name=self.name, wanted=self.wanted)
            self._handle = self.module.register_forward_hook(after, with_kwargs=True)

    def open(self, budget: Budget | None = None, is_open: Callable[[], bool] | None = None) -> None:
        """Forget what was caught, and start catching.

        Args:
            budget: how much may be held.
            is_open: whether a call counts, asked at each one. None: all.
        """
        self._slot = Slot(budget=budget) if is_open is None else Slot(budget=budget, is_open=is_open)
        OPEN[self.key] = self._slot

    def pause(self) -> None:
        """Stop catching for a while: activation checkpointing runs the forward again during backward."""
        OPEN.pop(self.key, None)

    def resume(self) -> None:
        """Go on catching behind what there is: the weights may be others now."""
        self._slot.state += 1
        OPEN[self.key] = self._slot

    @property
    def calls(self) -> list[Caught]:
        """The forward calls since ``open``."""
        return self._slot.calls

    def take(self) -> list[Caught]:
        """Close, and hand out the forward calls since ``open`` whose features were kept.

        Raises:
            ConfigurationError: if what the module puts out has to be named.
            RuntimeError: if a copy could not be made (out of memory).
        """
        OPEN.pop(self.key, None)
        slot, self._slot = self._slot, Slot()
        if isinstance(slot.error, ConfigurationError):
            raise slot.error
        if slot.error is not None:
            raise RuntimeError(f"could not copy the features of {self.name!r}: {slot.error}") from slot.error
        self.caught_ever = self.caught_ever or bool(slot.calls)
        return [call for call in slot.calls if call.features is not None]

    def forget(self) -> None:
        """Close, and let go of what was caught."""
        OPEN.pop(self.key, None)
        self._slot = Slot()

    def remove(self) -> None:
        """Unhook. A compiled graph keeps the call of the op, which then does nothing."""
        OPEN.pop(self.key, None)
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _matches(path: str, module: torch.nn.Module, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    if len(parts) != len(wanted) or isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict)):
        return False
    return all(fnmatch.fnmatchcase(part, glob) for part, glob in zip(parts, wanted, strict=True))


def find_modules(root: torch.nn.Module, pattern: str) -> dict[str, torch.nn.Module]:
    """Submodules whose path equals ``pattern`` or matches it as a glob, by displayed path, in module order.

    ``*`` stands for anything within one part of a path: "encoder.layer.*" is the layers, not what is inside them.
    Containers that are never called (ModuleList, ModuleDict) match no glob.

    Raises:
        ConfigurationError: if there is none; with near misses and the line to paste.
    """
    modules = {display_name(path): m for path, m in root.named_modules() if display_name(path)}
    pattern = display_name(pattern)
    found = {path: m for path, m in modules.items() if path == pattern or _matches(path, m, pattern)}
    if not found:
        hint = near_misses(pattern, list(modules)[-40:] if len(modules) > 40 else list(modules))
        raise ConfigurationError(
            f"no module {pattern!r} in {type(root).__name__}.{hint} "
            f"Paste: FeatureGeometryMonitor(layer={next(reversed(modules), 'net')!r})"
        )
    return found
