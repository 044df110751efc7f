"""Where features come from: taps on modules, the scout that looks for the head, or the step's own outputs.

One ``Sources`` answers for a run: it is opened before a batch's forward, and asked for what was caught after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lightning_featgeo import _autograd, _compat
from lightning_featgeo.capture import facts, scored
from lightning_featgeo.capture.embedding import COMPARED, Embedding
from lightning_featgeo.capture.entrance import Entrance
from lightning_featgeo.capture.handover import call_of
from lightning_featgeo.capture.heads import Choice, Scout, candidates, choose_by_declaration
from lightning_featgeo.capture.loss_graph import LossGraph, ReachedCalls, Reading
from lightning_featgeo.capture.names import Layer
from lightning_featgeo.capture.refusals import silent_weight
from lightning_featgeo.capture.reordering import Order
from lightning_featgeo.capture.step_outputs import FeaturesFrom, given_features
from lightning_featgeo.capture.taps import FeatureTap, find_head
from lightning_featgeo.capture.watched import Watched
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.types import Tensor

PATIENCE = 8  # batches in which no candidate runs (a step that returns None) before that is an error
NAMED = "named by head="


class Sources:
    """The watched layers of one run.

    Args:
        root: the LightningModule.
        layer: paths or globs of modules whose output is taken, "path:key" one of several tensors of it; None: the
            head's input.
        head: path of the head; None: found by rule.
        features: a key of the step's output, or a callable (outputs, batch); no module is hooked then.
        num_classes: narrows the search for the head.
        known_taps: taps of earlier runs, hooked again if their module comes back.
        is_inside_step: whether a step runs now: calls of other hooks are none of it. None: always.
        trains: whether training comes, whose loss tells more of the head than the order of running.

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
        is_inside_step: Callable[[], bool] | None = None,
        trains: bool = False,
    ) -> None:
        self.root, self._trains = root, trains
        self._in_graph = not _compat.uses_cuda_graphs(root)
        self.watched = Watched(root, known_taps, self._in_graph)
        if trains:
            self.watched.forget_scoring()
        self._features, self.is_inside_step = features, is_inside_step
        self._scout: Scout | None = None
        self._order, self._waited = Order(), 0
        self._virtual = facts.virtual_tokens(root)
        self._doubt: Exception | None = None  # why a training step did not tell the head
        self.ran_instead: list[str] = []  # modules that the step called while nothing watched ran
        self._reached = ReachedCalls()
        self.entrance = Entrance(root, self._counts)
        self.reading: Reading | None = None
        self.needed: int | None = None  # directions, as the loss tells where no head is known
        if head is not None:
            name, module = find_head(root, head)
            self.watched.head = module
            if layer is None and features is None:
                self.watched.use_head(Choice(module, name, NAMED))
        if features is not None:
            what = f"outputs[{features!r}]" if isinstance(features, str) else "features(outputs, batch)"
            self.watched.layers = [Layer(None, what, f"{what} of the step")]
        elif layer is not None:
            self.watched.use_layers([layer] if isinstance(layer, str) else list(layer))
        elif head is None:
            choice = choose_by_declaration(root, num_classes)
            if choice is not None:
                self.watched.use_head(choice)
            self._scout = Scout(root, self._in_graph, choice)

    @property
    def taps(self) -> list[FeatureTap]:
        """One a watched module; none with ``features=``."""
        return self.watched.taps

    @property
    def layers(self) -> list[Layer]:
        """What is watched, as far as it is known."""
        return self.watched.layers

    @property
    def head(self) -> torch.nn.Module | None:
        """Where there is one."""
        return self.watched.head

    @property
    def scouting(self) -> bool:
        """Whether the head is still to be found in the first batch."""
        return not self.layers

    def _counts(self) -> bool:
        """Whether a call that runs now is one of the step."""
        return not _autograd.is_inside_backward() and (self.is_inside_step is None or self.is_inside_step())

    def settle(self, loss: Tensor | None, inputs: Sequence[Tensor] = (), alone: bool = True) -> None:
        """Decide on the head from what ran in this batch, if that is still open.

        Args:
            loss: of the step; None: nothing is trained.
            inputs: the batch's tensors, to tell a reconstruction.
            alone: whether it is the step's only loss: a head that it doesn't read may be read by another.

        Raises:
            ConfigurationError: if it can't be told; with the candidates and the line to paste.
        """
        scout = self._scout
        if scout is None:
            return self._read(loss, inputs)
        chosen = scout.preferred
        if chosen is not None and loss is None and self._trains:
            return  # training will tell more
        if chosen is not None and self.taps[0].calls and not (alone and self._is_beside(chosen, scout, loss)):
            self._end_of_search(None)
            self._read(loss, inputs)
            return
        if not scout.ran and (chosen is not None or self._waited < PATIENCE):
            self._waited += 1  # a step that was skipped
            return
        if loss is None and self._doubt is not None:
            raise self._doubt  # what training could not tell, the order of running does not know either
        try:
            choice = scout.decide(loss, inputs, self.entrance.names(), self.entrance.trace)
        except Exception as error:  # raised again, now and where no loss tells more
            self._doubt = None if loss is None else error
            raise
        if isinstance(choice, Embedding):
            self._end_of_search(None)
            self.watched.use_embedding(choice)
            return
        tap = scout.taps[choice.name]
        self._end_of_search(tap)
        self.watched.use_head(choice, tap)
        self._read(loss, inputs)

    def _is_beside(self, chosen: Choice, scout: Scout, loss: Tensor | None) -> bool:
        """Whether a head that was chosen before anything ran did run, and the loss is trained through others only."""
        graph = LossGraph(loss)
        return (
            scout.ran and graph.visible(scout.found.values()) and not graph.reaches(chosen.module, self.taps[0].calls)
        )

    @property
    def unsettled(self) -> bool:
        """Whether training batches still tell something of the head, whether or not training is watched."""
        unread = self.reading is None and self.needed is None and self._waited < PATIENCE
        return self._features is None and (self._scout is not None or unread)

    def note_loss(self, loss: Tensor) -> None:
        """Of several calls, which ones the loss is trained through; and what it scores the head's rows against."""
        self._reached.note([tap.calls for tap in self.taps], loss)
        for tap in self.watched.of_head():
            scored.look(self.watched.scoring, loss, tap)

    def _end_of_search(self, keep: FeatureTap | None) -> None:
        if self._scout is not None:
            self._scout.remove(keep=keep)
            self._scout = None
            self.entrance.forget_trace()

    def _read(self, loss: Tensor | None, inputs: Sequence[Tensor]) -> None:
        """Once: what the loss does with the head's output; a head that was named and is never called is an error."""
        if self.head is None:
            if loss is not None and self.unsettled:
                self.needed = LossGraph(loss).needed_directions(inputs)
                self._waited += 1
            return
        if self.reading is not None or loss is None:
            self._waited += self.reading is None
            return
        graph = LossGraph(loss)
        watched = self.taps and self.taps[0].module is self.head
        if watched and not self.taps[0].calls:
            if graph.reads_weight(self.head):
                raise silent_weight(self.layers[0].path, candidates(self.root), self.entrance.names())
            return
        self.reading = graph.reading(self.head, inputs)

    def refresh(self) -> bool:
        """Look whether watched modules were replaced, and watch the new ones; returns whether any was."""
        if changed := self.watched.refresh():
            self.reading = None
            self.entrance.search_again()
        return changed

    def adopt(self, paths: Sequence[str], outputs: bool, why: str = "found by another rank") -> None:
        """Take what another rank, or an earlier run, has found: here, nothing ran that could tell.

        Args:
            paths: of the head, or of layers.
            outputs: whether they are layers whose outputs are watched.
            why: in words.
        """
        if not self.scouting:
            return
        self._end_of_search(None)
        if outputs:
            self.watched.use_layers(paths, COMPARED)
        else:
            name, module = find_head(self.root, paths[0])
            self.watched.use_head(Choice(module, name, why))

    def open(self) -> None:
        """Catch from now on."""
        if self._scout is not None:
            if self._scout.is_stale():  # another callback has replaced modules since
                self.refresh()
                preferred = self._scout.preferred
                if preferred is not None and self.head is not None:
                    preferred = replace(preferred, module=self.head)
                self._scout.remove()
                self._scout = Scout(self.root, self._in_graph, preferred)
            self._scout.open(self._counts)
        for tap in self.taps:
            tap.open(is_open=self._counts)
        if self._features is None:
            self.entrance.open(self._scout is not None)

    def pause(self, for_good: bool = False) -> None:
        """Don't catch what backward runs again; ``for_good``: nor what the rest of this batch may run."""
        for tap in [*self.taps, *(self._scout.taps.values() if self._scout is not None else ())]:
            tap.pause(for_good)
        if for_good:
            self.entrance.close()

    def resume(self) -> None:
        """Catch again, behind what there is."""
        for tap in self.taps:
            tap.resume()

    def forget(self) -> None:
        """Stop catching, and let go of what was caught."""
        for call in (call for tap in self.taps for call in tap.calls):
            self._order.rows(call.taken, None)  # of training, for an evaluation that has no graph
        for tap in [*self.taps, *(self._scout.taps.values() if self._scout is not None else ())]:
            tap.forget()
        self.entrance.forget()

    def take(self, outputs: Any, batch: Any) -> list[list[Call]]:
        """What was caught since ``open``: for each layer, its forward calls.

        Raises:
            ConfigurationError: if ``features=`` finds no tensor in the step's output, or the head can't be told.
        """
        self.settle(None)  # if no loss told (evaluation alone), the order of running decides
        self.entrance.close()
        if not self.ran_instead and not any(tap.calls for tap in self.taps):
            self.ran_instead = self.entrance.names()
        taken = [self._calls(tap, batch) for tap in self.taps]
        if self._features is not None:
            taken = [[Call(t.detach().clone()) for t in given_features(self._features, outputs, batch)]]
        self.entrance.forget()
        return taken

    def _calls(self, tap: FeatureTap, batch: Any) -> list[Call]:
        caught = tap.take()
        entered = self.entrance.of(caught, tap.module, tap.side == "input") if caught else []
        told = batch, self._order, self.entrance, self._virtual
        pairs = zip(caught, entered, strict=True)
        return [call_of(one, one.features, given, *told) for one, given in pairs if one.features is not None]

    def remove(self) -> None:
        """Unhook everything."""
        self._end_of_search(None)
        for tap in self.taps:
            tap.remove()
        self.entrance.forget()
