"""What each window of a Lightning run is of, and what it is fed into."""

from __future__ import annotations

import copy
from typing import Any

from lightning_featgeo import _compat
from lightning_featgeo.callbacks import trainer as lightning
from lightning_featgeo.callbacks.probe_windows import STAGE, host
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.watch.layers import served_signals, watched_layers
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.samplers import in_order, keeps_order
from lightning_featgeo.watch.watched_layer import WatchedLayer


def plan_of(run: Any, stage: str, number: int, name: str) -> WindowPlan:
    """The plan of a window of a ``LightningRun``: its stage, the number of its loader, and its name."""
    s, loader = run.settings, run.loader_of(stage, number)
    is_reference, keeps_order_here = name == s.reference, stage != "train" and keeps_order(loader)
    by_id = not keeps_order_here and s.display.id_key is not None and _looks_back(s)
    return WindowPlan(
        name,
        stage,
        number,
        logged=stage in run.logged_stages,
        reference=None if is_reference else s.reference,
        serves=served_signals(s) if is_reference else (),
        positions=stage != "train" and in_order(loader),
        keeps_samples=keeps_order_here or by_id,
        pairs_by_id=by_id,
        every_n_batches=s.windows.every_n_batches if stage == "train" else 1,
        several_loaders=stage != STAGE and lightning.combines_loaders(run.trainer, stage),
    )


def _looks_back(settings: Any) -> bool:
    """Whether signals were asked for that compare a window with other rows, sample by sample."""
    return any(CATALOG[name].requires & {"earlier", "anchor"} for name in settings.asked)


def _of_set(run: Any, name: str) -> Any:
    """The run's settings, as they are of a probe set: one without labels leaves out what needs them."""
    if run.probe_sets.sets[name].labelled:
        return run.settings
    settings = copy.copy(run.settings)  # as it is: what holds for the run need not hold for a part of its signals
    object.__setattr__(settings, "labels", None)
    object.__setattr__(settings, "signals", signals_without_labels(run))
    return settings


def signals_without_labels(run: Any) -> Any:
    """What was asked for, but for signals named one by one that need labels; with "auto" what other windows have."""
    asked = run.settings.signals
    if asked == "auto":
        of_host = run.watcher.of_stage(host(run.stages, run.trainer.state.fn.value) or "")
        asked = next((window.signals for window in of_host if window.signals), "auto")
    if isinstance(asked, str):
        return asked
    return [s for s in asked if s not in CATALOG or "labels" not in CATALOG[s].requires] or [COUNT_SIGNAL]


def layers_of(run: Any, plan: WindowPlan) -> list[WatchedLayer]:
    """New accumulators for each layer; after a resume they know what the last window was like.

    Raises:
        ConfigurationError: if the checkpoint's curves are of something else.
    """
    settings, saved = _of_set(run, plan.name) if plan.stage == STAGE else run.settings, run.saved
    policy = Policy(
        strict=settings.on_error == "raise",
        lenient=run.phase.trained or plan.stage == STAGE or len(run.names(plan.stage)) > 1,
        tolerated=frozenset({"reference", "earlier", "anchor", "best"}),
        details=run.display.details,
        also=run.also,
        knows_best=settings.windows.best is not None,
        has_anchor=run.anchors is not None and run.anchors.of(plan) is not None,
        head_root=_compat.wrapped_module(run.trainer.strategy),
    )
    sources, stated = run.watcher.sources, run.watcher.stated_classes
    if saved is None:
        return watched_layers(settings, sources, stated, plan, policy)
    layers = watched_layers(
        settings, sources, stated, plan, policy,
        check=lambda dim: saved.check([], [dim], saved.classes),
        earlier=lambda index: saved.earlier_of(plan, index),
    )  # fmt: skip
    saved.check(run.watcher.paths, [], layers[0].metric.num_classes if layers else None)
    return layers
