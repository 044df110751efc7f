"""The watched modules of a run and their taps, whoever has chosen them: the user, a rule, another rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo.capture.embedding import Embedding
from lightning_featgeo.capture.heads import Choice
from lightning_featgeo.capture.names import Layer, unique_segments
from lightning_featgeo.capture.taps import FeatureTap, Link, chain, display_name, find_layers
from lightning_featgeo.capture.widths import in_width
from lightning_featgeo.rows.scoring import Scoring

WRAPPERS = frozenset({
    "DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule", "CheckpointWrapper",
})  # fmt: skip


class Watched:
    """Taps on modules of a model, and what they are called.

    Args:
        root: the model.
        known_taps: taps of earlier runs, hooked again if their module comes back; new ones are added.
        in_graph: see ``stash``.
    """

    def __init__(self, root: torch.nn.Module, known_taps: list[FeatureTap], in_graph: bool) -> None:
        known_taps[:] = [tap for tap in known_taps if any(tap.module is module for module in root.modules())]
        self._known, self.root, self.in_graph = known_taps, root, in_graph
        self.taps: list[FeatureTap] = []
        self.layers: list[Layer] = []
        self.head: torch.nn.Module | None = None
        self.chains: list[Link] = []  # who holds watched modules
        self.outputs = False  # whether outputs of modules are watched, not the input of a head
        self.by_loss = False  # whether a loss has chosen these outputs
        self._why = ""
        self._scoring = Scoring()

    def of_head(self) -> list[FeatureTap]:
        """The tap of what the head is given; none where something else is watched."""
        return [tap for tap in self.taps[:1] if tap.side == "input" and tap.module is self.head]

    @property
    def scoring(self) -> Scoring:
        """What losses have told of the head's rows; an evaluation after a fit goes on with it."""
        for tap in self.of_head():
            if tap.scoring is None:
                known = (one.scoring for one in self._known if one.module is tap.module and one.scoring is not None)
                tap.scoring = next(known, self._scoring)
            self._scoring = tap.scoring
        return self._scoring

    def forget_scoring(self) -> None:
        """A fit begins."""
        for tap in self._known:
            tap.scoring = None

    def use_layers(self, patterns: Sequence[str], why: str = "") -> None:
        """Watch the outputs of modules, by paths, globs or "path:key"; ``why`` is said of the first."""
        found = find_layers(self.root, patterns)
        names = unique_segments(found, "layers")
        self._leave(None)
        self.taps, self.layers, self.outputs, self.by_loss = [], [], True, bool(why)
        for i, (shown, (module, name, wanted)) in enumerate(found.items()):
            said = f"the output of {shown!r}" + (f" ({why})" if why and i == 0 else "")
            self.taps.append(self._tap(module, name, "output", wanted or None))
            self.layers.append(Layer(None if i == 0 else names[i], shown, said))
        self._link()

    def use_embedding(self, found: Embedding) -> None:
        """Watch what a loss compares; what was put out in the batch that told it is caught already."""
        self.use_layers(found.layers, found.why)
        for tap, calls in zip(self.taps, found.calls, strict=True):
            tap.give(calls)

    def use_head(self, choice: Choice, tap: FeatureTap | None = None) -> None:
        """Watch the input of a head; ``tap``: one that has caught something of it already."""
        self._leave(tap)
        self.head, self._why, self.outputs = choice.module, choice.why, False
        if tap is not None and tap not in self._known:
            self._known.append(tap)
        self.taps = [tap or self._tap(choice.module, choice.name, "input")]
        described = f"the input of {choice.name!r} ({choice.why})"
        self.layers = [Layer(None, choice.name, described, in_width(choice.module))]
        self._link()

    def _leave(self, kept: FeatureTap | None) -> None:
        for other in self.taps:
            if other is not kept:
                other.remove()

    def _tap(self, module: torch.nn.Module, name: str, side: Any, wanted: str | None = None) -> FeatureTap:
        for tap in self._known:
            same = tap.module is module and tap.side == side and tap.wanted == wanted
            if same and tap.in_graph == self.in_graph:
                if _compat.compiles():
                    tap.attach()
                return tap
        tap = FeatureTap(module, name, side, self.in_graph, wanted)
        self._known.append(tap)
        return tap

    def refresh(self) -> bool:
        """Look whether watched modules were replaced (a head for more classes), and watch the new ones.

        Returns whether any was.
        """
        modules = {display_name(path): module for path, module in self.root.named_modules()}
        changed = False
        for index, tap in enumerate(self.taps):
            module = modules.get(tap.name)
            inside = module is not None and any(inner is tap.module for inner in module.modules())
            if module is None or module is tap.module or (inside and (tap.side == "input" or _passes_on(module))):
                continue  # the same, or a wrapper around it
            changed = True
            tap.remove()
            if self.head is tap.module and tap.side == "input":
                self.use_head(Choice(module, tap.name, self._why))
            else:
                self.taps[index] = self._tap(module, tap.name, tap.side, tap.wanted)
        self._link()
        return changed

    def _link(self) -> None:
        self.chains = [link for tap in self.taps for link in chain(self.root, tap.module)]


def _passes_on(module: torch.nn.Module) -> bool:
    """Whether a wrapper puts out what its module does; others (an adapter's) add to it."""
    return type(module).__name__ in WRAPPERS
