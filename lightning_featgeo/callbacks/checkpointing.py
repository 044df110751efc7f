"""What a checkpoint keeps of a monitor, and how a run goes on from it.

Kept: the closed windows that are in memory (so that the resumed run's history goes on), what was watched, what the next
window is compared with sample by sample, and the training window that was open, if its rows can be gone on from. Plain
numbers, strings and tensors: ``torch.load(…, weights_only=True)`` reads it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lightning_featgeo.callbacks.lightning_types import Trainer
from lightning_featgeo.callbacks.own_metrics import keep_before_saving
from lightning_featgeo.callbacks.trainer import loader_of
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning, Gap, GapKind
from lightning_featgeo.history.checked import items, mapping, name_of, optional, plain, readable, whole
from lightning_featgeo.history.history import History
from lightning_featgeo.history.layouts import Layout
from lightning_featgeo.history.logged import Logged
from lightning_featgeo.history.record import Record, checked_event, checked_record, plain_gap, read_gap
from lightning_featgeo.metrics.earlier import NOTHING, Earlier
from lightning_featgeo.watch import pending
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.samplers import stateful
from lightning_featgeo.watch.watcher import Watcher
from lightning_featgeo.watch.window import Window

VERSION = 4  # 2 has the kinds of gaps, 3 records as JSON, 4 earlier rows; states of all are read
_WAY_OUT = "Resume with the settings of the checkpoint, or start new curves with FeatureGeometryMonitor(resume=False)"
_LOST = "the run was resumed in the middle of this window, and the rows before that are lost: "
RESTARTS = Gap(GapKind.LOST, _LOST + "the loader began anew (torchdata's StatefulDataLoader goes on where it was)")
SEVERAL = Gap(GapKind.LOST, _LOST + "a checkpoint holds those of one rank only")


@dataclass
class Saved:
    """A monitor's state from a checkpoint."""

    windows: int
    records: list[Record] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[Logged] = field(default_factory=list)
    layouts: list[Layout] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    outputs: bool = False  # whether their outputs are watched, not the input of a head
    dims: list[int | None] = field(default_factory=list)
    classes: int | None = None
    earlier: dict[str, Earlier] = field(default_factory=dict)
    open: dict[str, Any] | None = None
    pending: list[dict[str, Any]] = field(default_factory=list)  # windows that were being computed

    def earlier_of(self, plan: WindowPlan, index: int) -> Earlier:
        """What a layer's next window is compared with; where nothing was kept of earlier ones, it is told so."""
        found = self.earlier.get(f"{plan.stage}/{plan.number}/{index}", NOTHING)
        is_late = "first" not in found.rows and any(record.stage == plan.name for record in self.records)
        return replace(found, is_late=True) if is_late else found

    def add_earlier(self, window: Window) -> None:
        """A window was closed since: the next one is compared with it."""
        for index, part in enumerate(window.layers):
            if part.metric.earlier is not NOTHING:
                self.earlier[_name(window, index)] = part.metric.earlier

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Saved | None:
        """Read a state dict; one that can't be read is no reason to end a run: a warning, and None."""
        try:
            return cls.of(state)
        except Exception as error:
            warnings.warn(
                f"featgeo: the monitor's state in the checkpoint can't be read ({type(error).__name__}: {error}); the "
                "curves begin anew",
                FeatureGeometryWarning,
                stacklevel=3,
            )
            return None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Saved:
        """Read a state dict.

        Raises:
            Exception: of any kind, if it is not one of ours.
        """
        version = state.get("version", 0)
        if version > VERSION:
            raise ValueError(f"it was written by a later version (format {version}, this one reads up to {VERSION})")
        records, bad_records = readable(items(state.get("records", [])), _record)
        events, bad_events = readable(items(state.get("events", [])), checked_event)
        metrics, bad_metrics = readable(items(state.get("metrics", [])), _logged)
        layouts, bad_layouts = readable(items(state.get("layouts", [])), lambda text: Layout.checked(json.loads(text)))
        layers, bad_names = readable(items(state.get("layers", [])), name_of)
        dims, bad_dims = readable(items(state.get("dims", [])), lambda dim: optional(dim, whole))
        pairs, bad_tables = readable(mapping(state.get("earlier", {})).items(), _earlier)
        known, _ = readable([state.get("classes")], lambda classes: optional(classes, whole))
        counted, no_count = readable([state.get("windows")], whole)
        if bad_names or bad_dims or not known:  # what the curves are of is known as a whole, or looked for again
            layers, dims, pairs = [], [], []
        lost = [
            f"{bad} {what}"
            for bad, what in (
                (bad_records, "of its windows"), (bad_events, "of its events"), (bad_metrics, "of the run's metrics"),
                (bad_tables, "tables of earlier rows"), (bad_layouts, "of its layouts"),
                (no_count, "number of windows"), (bad_names + bad_dims + (not known), "facts on what is watched"),
            )
            if bad
        ]  # fmt: skip
        if lost:
            warn_of_lost_state("the monitor", lost)
        windows = counted[0] if counted and counted[0] >= 0 else len(records)
        return cls(
            windows, records, events, metrics, layouts, layers, bool(state.get("outputs", False)), dims,
            known[0] if known else None, dict(pairs), optional(state.get("open"), mapping) if layers else None,
            [mapping(one) for one in items(state.get("pending", []))] if layers else [],
        )  # fmt: skip

    def check(self, layers: list[str], dims: list[int | None], classes: int | None) -> None:
        """Refuse to go on with curves of something else.

        Raises:
            ConfigurationError: with both, and what to do.
        """
        if self.layers and layers and self.layers != layers:
            raise ConfigurationError(
                f"the checkpoint's curves are of {self.layers}, this run's of {layers}. {_WAY_OUT}"
            )
        for path, before, now in zip(self.layers, self.dims, dims, strict=False):
            if None not in (before, now) and before != now:
                raise ConfigurationError(f"{path!r} had {before} dimensions in the checkpoint, now {now}. {_WAY_OUT}")
        if self.dims and classes != self.classes:
            raise ConfigurationError(
                f"the checkpoint's curves are of {self.classes} classes, this run's of {classes}. {_WAY_OUT}"
            )


def _name(window: Window, index: int) -> str:
    return f"{window.plan.stage}/{window.plan.number}/{index}"


def _record(given: Any) -> Record:
    """A record as a checkpoint has it: JSON, or in states of an earlier version a dict."""
    return checked_record(json.loads(given) if isinstance(given, str) else plain(given))


def _logged(given: Any) -> Logged:
    return Logged.checked(json.loads(given))


def _earlier(given: tuple[Any, Any]) -> tuple[str, Earlier]:
    """Of a window and layer, what the next one is compared with; before version 4, neighbours alone."""
    name, state = given
    return name_of(name), Earlier.of(state if isinstance(state, dict) else {"neighbors": state, "rows": {}})


def warn_of_lost_state(who: str, lost: Sequence[str]) -> None:
    """One warning on what of a checkpoint can't be read."""
    warnings.warn(
        f"featgeo: of the state of {who} in the checkpoint, {', '.join(lost)} can't be read (damaged, or of another "
        "version); the rest is taken up, and what is missing begins anew",
        FeatureGeometryWarning,
        stacklevel=4,
    )


def refuse_other_curves(checkpoint: Mapping[str, Any], monitor: Any, trainer: Trainer) -> None:
    """Refuse a checkpoint whose curves are of another layer or stage than those of the monitor that asks.

    Raises:
        ConfigurationError: with what it holds, and what to do.
    """
    key, kind = monitor.state_key, type(monitor).__qualname__
    callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
    here = [callback.state_key for callback in callbacks if isinstance(callback, type(monitor))]
    states = checkpoint.get("callbacks") or {}
    others = [state for state in states if state.startswith(kind) and state not in here]
    if others and key not in states:
        raise ConfigurationError(
            f"the checkpoint holds curves of {', '.join(others)}, and this run would log {key}. {_WAY_OUT}"
        )


def save(number: int, history: History, of_run: Mapping[str, Any]) -> dict[str, Any]:
    """A monitor's state for a checkpoint; ``of_run``: what :func:`run_state` says of its run."""
    return {
        "version": VERSION,
        "windows": number,
        "records": [record.text for record in history],  # strings: thousands of small dicts take seconds
        "events": [dict(event) for event in history.events],
        "metrics": [json.dumps(moment.as_dict(), allow_nan=False) for moment in history.metrics.moments],
        "layouts": [json.dumps(layout.as_dict(), allow_nan=False) for layout in history.layouts],
        **of_run,
    }


def state_of(run: Any) -> dict[str, Any]:
    """What a checkpoint keeps of a run that goes on."""
    found: dict[str, Any] = {}
    keep_before_saving(run)
    with run.guard.around("saving the monitor's state"):
        found = run_state(run.watcher)
        window = run.open_train_window()
        if window is not None:
            found["open"] = open_state(run.trainer, run.watcher, window)
        waiting = [] if run.saved is None else run.saved.pending  # of a checkpoint, not yet taken up
        computed = [] if run.background is None else [pending.state_of(job) for job in run.background.jobs]
        found.update({"pending": [*waiting, *computed]} if waiting or computed else {})
    return found


def go_on(run: Any) -> None:
    """With the training window that was open when the checkpoint was written; the loader is there by now."""
    saved = run.saved
    if saved is not None and saved.open is not None and "train" in run.caught_stages:
        with run.guard.around("going on with the open training window", run.watcher.failing("train")):
            run.open("train")
            window = run.open_train_window()
            if window is not None:
                reopen(run.trainer, run.watcher, window, saved.open)


def run_state(watcher: Watcher) -> dict[str, Any]:
    """What is watched, and what the next windows are compared with."""
    seen = next((w.layers for w in watcher.windows.values() if any(part.metric.dim for part in w.layers)), [])
    earlier = {}
    for window in watcher.windows.values():
        for index, part in enumerate(window.layers):
            if part.metric.earlier is not NOTHING:
                earlier[_name(window, index)] = part.metric.earlier.state()
    return {
        "layers": watcher.paths,
        "outputs": watcher.sources.watched.outputs,
        "dims": [part.metric.dim for part in seen],
        "classes": next((part.metric.num_classes for part in seen), None),
        "earlier": earlier,
    }


def open_state(trainer: Trainer, watcher: Watcher, window: Window) -> dict[str, Any]:
    """The training window that is half full: with its rows, if whoever resumes can add the rest to them."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    at_an_end = progress.is_last_batch or progress.current.ready == 0
    goes_on = at_an_end or stateful(loader_of(trainer, "train", 0))
    lost = window.failed or (SEVERAL if watcher.ranks.several else None if goes_on else RESTARTS)
    return {
        "start_step": window.start_step,
        "samples": window.samples,
        "batches": window.batches,
        "seconds": window.seconds,
        "lost": None if lost is None else plain_gap(lost),
        "in_epoch": not at_an_end,
        "parts": [] if lost else [
            {"failed": None if part.failed is None else plain_gap(part.failed), "metric": part.metric.checkpoint()}
            for part in window.layers
        ],
    }  # fmt: skip


def reopen(trainer: Trainer, watcher: Watcher, window: Window, state: Mapping[str, Any]) -> None:
    """Go on with the training window that was open; ``state``: as :func:`open_state` gave it."""
    window.start_step, window.samples = int(state["start_step"]), int(state["samples"])
    window.batches, window.seconds = int(state["batches"]), float(state["seconds"])
    lost = state["lost"]
    window.failed = None if lost is None else read_gap(lost, GapKind.LOST)
    if window.failed is None and watcher.ranks.several:
        window.failed = SEVERAL
    if window.failed is None and state["in_epoch"] and not stateful(loader_of(trainer, "train", 0)):
        window.failed = RESTARTS
    if window.failed is None and state["parts"]:
        window.layers = watcher.make_layers(window.plan)
        for part, kept in zip(window.layers, state["parts"], strict=True):
            part.failed = None if kept["failed"] is None else read_gap(kept["failed"], GapKind.FAILED)
            part.metric.to(trainer.strategy.root_device)
            part.metric.merge_state(kept["metric"])
