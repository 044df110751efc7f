"""Where features come from: taps on modules, the scout that looks for the head, or the step's own outputs.

One ``Sources`` answers for a run: it is built when the run starts, opened before a batch's forward, and asked for
what was caught after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo.capture.heads import Choice, Scout, choose_by_declaration
from lightning_featgeo.capture.taps import FeatureTap, find_modules
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.rows.batches import summarize
from lightning_featgeo.types import Tensor

FeaturesFrom = str | Callable[[Any, Any], Any]


def segment(name: str) -> str:
    """A module path or loader name as a segment of a logged name: ``[a-z0-9_]``."""
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_") or "x"


def unique_segments(names: Iterable[str], what: str) -> list[str]:
    """Names as segments of logged names.

    Raises:
        ConfigurationError: if two of them become the same: their values would be averaged.
    """
    made: dict[str, str] = {}
    for name in names:
        other = made.setdefault(segment(name), name)
        if other != name or list(names).count(name) > 1:
            raise ConfigurationError(
                f"{what} {other!r} and {name!r} would both be logged as {segment(name)!r}; rename one"
            )
    return list(made)


@dataclass(frozen=True)
class Layer:
    """One watched layer: its name in logs (None for the first), path, in words, and the width the head takes in."""

    name: str | None
    path: str
    described: str
    width: int | None = None


class Sources:
    """The watched layers of one run.

    Args:
        root: the LightningModule.
        layer: paths or globs of modules whose output is taken; None: the head's input.
        head: path of the head; None: found by rule.
        features: a key of the step's output, or a callable (outputs, batch); no module is hooked then.
        num_classes: narrows the search for the head.
        known_taps: taps of earlier runs, hooked again if their module comes back.

    Raises:
        ConfigurationError: for unknown modules, or a head that can't be told.
    """

    def __init__(
        self,
        root: torch.nn.Module,
        layer: str | Sequence[str] | None,
        head: str | None,
        features: FeaturesFrom | None,
        num_classes: int | None,
        known_taps: list[FeatureTap],
    ) -> None:
        known_taps[:] = [tap for tap in known_taps if any(tap.module is module for module in root.modules())]
        self._known, self._root = known_taps, root
        self._in_graph = not _compat.uses_cuda_graphs(root)
        self._features = features
        self._scout: Scout | None = None
        self.taps: list[FeatureTap] = []
        self.layers: list[Layer] = []
        self.head: torch.nn.Module | None = None
        if head is not None:
            name, module = self._one(root, head)
            self.head = module
            if layer is None and features is None:
                self._use_head(Choice(module, name, "named by head="))
        if features is not None:
            what = f"outputs[{features!r}]" if isinstance(features, str) else "features(outputs, batch)"
            self.layers = [Layer(None, what, f"{what} of the step")]
        elif layer is not None:
            patterns = [layer] if isinstance(layer, str) else list(layer)
            found: dict[str, torch.nn.Module] = {}
            for pattern in patterns:
                found.update(find_modules(root, pattern))
            self.taps = [self._tap(module, name, "output") for name, module in found.items()]
            names = unique_segments(found, "layers")
            for i, name in enumerate(found):
                logged = None if i == 0 else names[i]
                self.layers.append(Layer(logged, name, f"the output of {name!r}"))
        elif head is None:
            choice = choose_by_declaration(root, num_classes)
            if choice is not None:
                self._use_head(choice)
            else:
                self._scout = Scout(root, self._in_graph)

    @staticmethod
    def _one(root: torch.nn.Module, path: str) -> tuple[str, torch.nn.Module]:
        found = find_modules(root, path)
        if len(found) > 1:
            raise ConfigurationError(f"head={path!r} fits {len(found)} modules ({', '.join(found)}); name one")
        return next(iter(found.items()))

    def _tap(self, module: torch.nn.Module, name: str, side: Any) -> FeatureTap:
        for tap in self._known:
            if tap.module is module and tap.side == side and tap.in_graph == self._in_graph:
                tap.attach()
                return tap
        tap = FeatureTap(module, name, side, self._in_graph)
        self._known.append(tap)
        return tap

    def _use_head(self, choice: Choice, tap: FeatureTap | None = None) -> None:
        self.head = choice.module
        self.taps = [tap or self._tap(choice.module, choice.name, "input")]
        width = getattr(choice.module, "in_features", getattr(choice.module, "in_channels", None))
        known_width = width if isinstance(width, int) else None
        self.layers = [Layer(None, choice.name, f"the input of {choice.name!r} ({choice.why})", known_width)]

    @property
    def scouting(self) -> bool:
        """Whether the head is still to be found in the first batch."""
        return self._scout is not None

    def settle(self, loss: Tensor | None) -> None:
        """Decide on the head from what ran in this batch, if that is still open.

        Raises:
            ConfigurationError: if it can't be told; with the candidates and the line to paste.
        """
        if self._scout is None:
            return
        choice = self._scout.decide(loss)
        tap = self._scout.taps[choice.name]
        self._scout.remove(keep=tap)
        self._scout = None
        self._known.append(tap)
        self._use_head(choice, tap)

    def adopt(self, path: str, why: str = "found by another rank") -> None:
        """Take the head that another rank, or an earlier run, has found: here, nothing ran that could tell."""
        if self._scout is not None:
            self._scout.remove()
            self._scout = None
            name, module = self._one(self._root, path)
            self._use_head(Choice(module, name, why))

    def open(self) -> None:
        """Catch from now on."""
        if self._scout is not None:
            self._scout.open()
        for tap in self.taps:
            tap.open()

    def pause(self) -> None:
        """Don't catch what backward runs again."""
        if self._scout is not None:
            self._scout.pause()
        for tap in self.taps:
            tap.pause()

    def resume(self) -> None:
        """Catch again, behind what there is."""
        for tap in self.taps:
            tap.resume()

    def forget(self) -> None:
        """Stop catching, and let go of what was caught."""
        for tap in [*self.taps, *(self._scout.taps.values() if self._scout is not None else ())]:
            tap.forget()

    def take(self, outputs: Any, batch: Any) -> list[list[Tensor]]:
        """What was caught since ``open``: for each layer, one tensor a forward call.

        Raises:
            ConfigurationError: if ``features=`` finds no tensor in the step's output, or the head can't be told.
        """
        self.settle(None)  # if no loss told (evaluation alone), the order of running decides
        if self._features is None:
            return [tap.take() for tap in self.taps]
        if callable(self._features):
            value = self._features(outputs, batch)
        elif isinstance(outputs, Mapping) and self._features in outputs:
            value = outputs[self._features]
        else:
            known = [str(key) for key in outputs] if isinstance(outputs, Mapping) else []
            hint = near_misses(self._features, known) if known else ""
            raise ConfigurationError(
                f"features={self._features!r}: the step returned {summarize(outputs)}, which has no such key.{hint} "
                f'Return {{"loss": loss, {self._features!r}: features}} from the step'
            )
        tensors = list(value) if isinstance(value, (list, tuple)) else [value]
        if not tensors or not all(isinstance(t, torch.Tensor) for t in tensors):
            raise ConfigurationError(f"features=… gave {summarize(value)}; it must give a tensor, or one a view")
        return [[t.detach() for t in tensors]]

    def remove(self) -> None:
        """Unhook everything."""
        if self._scout is not None:
            self._scout.remove()
        for tap in self.taps:
            tap.remove()
