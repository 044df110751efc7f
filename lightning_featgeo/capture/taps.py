"""FeatureTap: hook one module, stash what flows through it, hand it over, go away.

The hook calls one op that clones into a Python list keyed by an integer. So a compiled graph keeps the call, compiles
once for any number of calls a step, and the copy can't be overwritten by a later in-place op or a reused buffer.
The hook is there while a step runs, and gone before anybody exports, scripts, copies or pickles the model; a compiled
graph would be compiled anew for that, so in a process that compiles it stays, and does nothing while the tap is closed.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch

from lightning_featgeo import _compat
from lightning_featgeo.capture import mixing
from lightning_featgeo.capture.hooks import Hook
from lightning_featgeo.capture.stash import OPEN, Budget, Caught, Pace, Slot, stash
from lightning_featgeo.capture.values import of_input, of_output
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.types import Tensor

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


def _itself(value: Any) -> Any:
    return value


class FeatureTap:
    """Catches the input or the output of a module.

    Args:
        module: which module.
        name: its path, for messages.
        side: "input" (of a head: the penultimate features) or "output" (of a named layer).
        in_graph: see ``stash``; False where CUDA graphs are replayed.
        wanted: of an output of several tensors, the key or position of the features.

    A tap starts closed. ``open()`` begins to catch, ``take()`` closes it and returns one tensor per forward call, in
    order; ``remove()`` unhooks for good. It always hooks under the same key, which a compiled graph remembers.

    Raises:
        ConfigurationError: for a TorchScript module, which takes no hook.
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
        self.scoring: Any = None  # what losses of the last fit have told of the rows' labels
        self.frozen = False  # as the last training step told: no weight before it is being trained
        self._mixes, self._opened = False, 0  # whether rows were mixed in a batch, and batches so far
        self._pace = Pace()
        self._slot = Slot()
        self._rests = True  # nothing was caught since it was last told to
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigurationError(
                f"{self.name!r} is a TorchScript module, which takes no hook: watch the module around it with layer=, "
                "the head behind it with head=, or return the features from the step and give features="
            )
        if side == "input":
            function: Any = functools.partial(_stash_input, key=self.key, owner=id(module), in_graph=in_graph)
        else:  # partials of plain functions can be pickled
            function = functools.partial(
                _stash_output, key=self.key, owner=id(module), in_graph=in_graph, name=self.name, wanted=wanted
            )
        self._hook = Hook(module, function, before=side == "input")
        if _compat.compiles():
            self.attach()  # hooks that come after the first call of a compiled module never fire

    def attach(self) -> None:
        """Hook the module; does nothing if it is hooked."""
        self._hook.attach()

    def rest(self) -> None:
        """No step runs: unhook, unless compiled code has seen the hook."""
        if self._rests:
            return
        self._rests = True
        trained = [call for call in self._slot.calls if call.with_gradient]
        if trained:
            self.frozen = not any(call.needs_gradient for call in trained)
        self._mixes = self._mixes or any(
            call.is_mixed or call.pieces or (call.taken is not None and call.taken.behind) for call in self._slot.calls
        )
        OPEN.pop(self.key, None)
        if self._hook.is_attached and not _compat.compiles():
            self._hook.detach()

    def open(self, budget: Budget | None = None, is_open: Callable[[], bool] | None = None) -> None:
        """Forget what was caught, and start catching.

        Args:
            budget: how much may be held.
            is_open: whether a call counts, asked at each one. None: all.
        """
        self.attach()
        self._rests = False
        self._slot = Slot(budget=budget, pace=self._pace)
        self._slot.is_open = is_open or self._slot.is_open
        self._slot.searches = self._mixes or self._opened < mixing.FIRST or self._opened % mixing.EVERY == 0
        self._opened += 1
        OPEN[self.key] = self._slot

    def give(self, calls: Iterable[tuple[int, Tensor | None]]) -> None:
        """Open, with calls that were seen before this tap was there: when, and the features if they are still there."""
        self.open()
        for order, features in calls:
            if features is not None:
                self._slot.catch(functools.partial(_itself, features))
                self._slot.calls[-1].order = order
        OPEN.pop(self.key, None)

    def pause(self, for_good: bool = False) -> None:
        """Stop catching: activation checkpointing runs the forward again during backward. ``for_good``: unhook, too."""
        if for_good:
            self.rest()
        OPEN.pop(self.key, None)

    def resume(self) -> None:
        """Go on catching behind what there is: the weights may be others now."""
        self._slot.state += 1
        self._rests = False
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
        self.rest()
        slot, self._slot = self._slot, Slot()
        if isinstance(slot.error, ConfigurationError):
            raise slot.error
        if slot.error is not None:
            raise RuntimeError(f"could not copy the features of {self.name!r}: {slot.error}") from slot.error
        self.caught_ever = self.caught_ever or bool(slot.calls)
        return [call for call in slot.calls if call.features is not None]

    def forget(self) -> None:
        """Close, and let go of what was caught."""
        self.rest()
        self._slot = Slot()

    def remove(self) -> None:
        """Unhook. A compiled graph keeps the call of the op, which then does nothing."""
        OPEN.pop(self.key, None)
        self._hook.detach()


Link = tuple[torch.nn.Module, str, torch.nn.Module | None]  # holder, name, what it holds


def is_broken(links: Iterable[Link]) -> bool:
    """Whether a module in these chains has been replaced."""
    return any(holder._modules.get(name) is not module for holder, name, module in links)


def chain(root: torch.nn.Module, module: torch.nn.Module) -> list[Link]:
    """From a model down to a module in it."""
    path = next((path for path, one in root.named_modules() if one is module), "")
    links: list[Link] = []
    holder = root
    for name in path.split(".") if path else ():
        inner = holder._modules[name]
        links.append((holder, name, inner))
        holder = inner if inner is not None else holder
    return links


def _matches(path: str, module: torch.nn.Module, pattern: str) -> bool:
    parts, wanted = path.split("."), pattern.split(".")
    if len(parts) != len(wanted) or isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict)):
        return False
    return all(fnmatch.fnmatchcase(part, glob) for part, glob in zip(parts, wanted, strict=True))


def find_modules(root: torch.nn.Module, pattern: str, argument: str = "layer") -> dict[str, torch.nn.Module]:
    """Submodules whose path equals ``pattern`` or matches it as a glob, by displayed path, in module order.

    ``*`` stands for anything within one part of a path: "encoder.layer.*" is the layers, not what is inside them.
    Containers that are never called (ModuleList, ModuleDict) match no glob. ``argument``: where the pattern was given.

    Raises:
        ConfigurationError: if there is none; with near misses and the line to paste.
    """
    modules = {display_name(path): m for path, m in root.named_modules() if display_name(path)}
    pattern = display_name(pattern)
    found = {path: m for path, m in modules.items() if path == pattern or _matches(path, m, pattern)}
    if not found:  # a module may have a second name
        every = {display_name(path): m for path, m in root.named_modules(remove_duplicate=False)}
        found = {path: m for path, m in modules.items() if m is every.get(pattern)}
    if not found:
        nearest = difflib.get_close_matches(pattern, modules, 1, 0.5)
        line = f"{argument}={nearest[0]!r}" if nearest else ""
        found_alone = "" if nearest else "  # the input of the head, which is looked for"
        raise ConfigurationError(
            f"no module {pattern!r} in {type(root).__name__}.{near_misses(pattern, list(modules)[-40:])} "
            f"Paste: FeatureGeometryMonitor({line}){found_alone}"
        )
    return found


def find_layers(root: torch.nn.Module, patterns: Iterable[str]) -> dict[str, tuple[torch.nn.Module, str, str]]:
    """Layers by paths or globs, or "path:key" for one of several tensors: shown name -> module, its path, the key."""
    found: dict[str, tuple[torch.nn.Module, str, str]] = {}
    for pattern in patterns:
        path, _, wanted = pattern.partition(":")
        for name, module in find_modules(root, path).items():
            found[f"{name}:{wanted}" if wanted else name] = module, name, wanted
    return found


def find_head(root: torch.nn.Module, path: str) -> tuple[str, torch.nn.Module]:
    """The path and module of the one head that is named.

    Raises:
        ConfigurationError: if there is none, or several fit.
    """
    found = find_modules(root, path, "head")
    if len(found) > 1:
        raise ConfigurationError(f"head={path!r} fits {len(found)} modules ({', '.join(found)}); name one")
    return next(iter(found.items()))
