"""What a run's windows are compared with beside each other: anchors from outside, and the window that was best."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_featgeo import _compat
from lightning_featgeo.callbacks.model_inputs import call
from lightning_featgeo.callbacks.probe_windows import STAGE, host
from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.rows import tree
from lightning_featgeo.watch.anchors import Anchor, FileAnchor, ModelAnchor
from lightning_featgeo.watch.feature_files import check_rows, has_ids, read_rows
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.window import Window


class Anchors:
    """The anchors of one run.

    Args:
        run: the ``LightningRun``.

    Raises:
        ConfigurationError: if a file holds no rows, with what it holds.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._given: Mapping[str | None, Any] = run.settings.windows.anchors
        self._made: dict[tuple[str, int], Anchor | None] = {}
        self._best = run.settings.windows.best, run.settings.windows.best_mode
        for one in self._given.values():
            if isinstance(one, Path):
                check_rows(one)

    def check_names(self) -> None:
        """Whether there are windows of those names.

        Raises:
            ConfigurationError: with the names that there are.
        """
        known = [name for stage in (*self._run.stages, STAGE) for name in self._run.names(stage)]
        for name in self._given:
            if name is not None and name not in known:
                raise ConfigurationError(
                    f"Windows(anchor={{{name!r}: …}}): there is no such window.{near_misses(name, known)} There are "
                    f"{', '.join(known)}"
                )

    def of(self, plan: WindowPlan) -> Anchor | None:
        """What the windows of a loader are compared with."""
        key = plan.stage, plan.number
        if key not in self._made:
            first = plan.number == 0 and plan.stage == host(self._run.stages, self._run.trainer.state.fn.value)
            given = self._given.get(plan.name, self._given.get(None) if first else None)
            self._made[key] = None if given is None else self._make(given, plan)
        return self._made[key]

    def _make(self, given: Any, plan: WindowPlan) -> Anchor:
        if isinstance(given, Path):
            known = None if given.suffix == ".ckpt" else has_ids(given)
            window = f"{plan.stage}/{plan.number}"
            return FileAnchor(str(given), functools.partial(read_rows, given, window), known)
        return ModelAnchor(_undisturbed(given))

    def opened(self, windows: list[Window]) -> None:
        """Windows were opened: give them their anchors, and keep the last ones if they were the best."""
        for window in windows:
            anchor = self.of(window.plan) if self._given else None
            if anchor is not window.anchor:
                window.anchor = anchor
                if anchor is not None:
                    anchor.open(window.plan)
            if self._best[0] is not None and self._was_best(window.plan.name):
                for part in window.layers:
                    part.metric.last_was_best()

    def _was_best(self, name: str) -> bool:
        metric, mode = self._best
        last = next((record for record in reversed(self._run.history.records) if record.stage == name), None)
        series = self._run.history.metrics.series(metric)
        if last is None or not series or series[-1][0] < last.epoch:  # of before that window, or the same as then
            return False
        is_better = operator.lt if mode == "min" else operator.gt
        return all(is_better(series[-1][1], value) for _, value in series[:-1])

    def look(self, window: Window | None, batch: Any) -> None:
        """Before a step: the model's rows of this batch.

        Raises:
            ConfigurationError: before anything was trained, if it can't be run on it.
        """
        anchor = None if window is None else window.anchor
        if isinstance(anchor, ModelAnchor):
            refuses, lost = not self._run.phase.trained, "its curves are gaps in this window"
            with self._run.guard.around("running the anchor", anchor.fail, refuses=refuses, lost=lost):
                anchor.look(batch)


def _undisturbed(model: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Evaluation, without gradient; modes and random states are put back."""

    def features_of(batch: Any) -> Any:
        modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
        before = [one.training for one in modules]
        try:
            for one in modules:
                one.training = False
            with isolate_rng(), torch.no_grad(), _compat.eagerly():
                if not isinstance(model, torch.nn.Module):
                    return model(batch)
                _move(model, batch)
                return call(model, batch)
        finally:
            for one, training in zip(modules, before, strict=True):
                one.training = training

    return features_of


def _move(model: torch.nn.Module, batch: Any) -> None:
    """To where the batch is."""
    device = next((t.device for _, t in tree.tensors(batch)), None)
    own = next((p.device for p in model.parameters()), device)
    if device is not None and own != device:
        model.to(device)
