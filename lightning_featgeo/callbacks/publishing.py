"""Publishing: which names there are, and how a closed window reaches loggers, other callbacks and the history."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from lightning_featgeo import _compat
from lightning_featgeo.alarms import Alarm
from lightning_featgeo.callbacks.display import LoggerDisplay
from lightning_featgeo.callbacks.early_stopping import GeometryEarlyStopping
from lightning_featgeo.callbacks.lightning_types import LightningModule, Trainer
from lightning_featgeo.callbacks.stoppers import UNWATCHED
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG, COUNT_SIGNAL, PRESETS, Signals, resolve
from lightning_featgeo.sinks import ALARM, EPOCH, At, sinks_of
from lightning_featgeo.watch.guard import Guard
from lightning_featgeo.watch.plan import ClosedWindow
from lightning_featgeo.watch.window import Window

DIAGNOSTICS = (
    COUNT_SIGNAL,
    "n_nonfinite",
    "n_unlabelled",
    "n_duplicates",
    "n_near_duplicates",
    "n_reference",
    "n_padded",
    "n_repeated",
    "gaps",
    "seconds",
    "share",
)
Due = tuple[GeometryEarlyStopping, Alarm]


def known_names(
    signals: Signals, stages: Iterable[str], layers: Iterable[str | None], also: Sequence[str] = (),
    labelled: bool = True,
) -> list[str]:  # fmt: skip
    """Every name that a run with these signals can log.

    Args:
        signals: that were asked for.
        stages: as they appear in names.
        layers: as they appear in names.
        also: signals beside those of "auto".
        labelled: whether the windows have labels.
    """
    if signals == "auto":
        chosen = tuple(dict.fromkeys([*(name for preset in PRESETS.values() for name in preset), *also]))
    else:
        chosen = resolve(signals)
    chosen = tuple(name for name in chosen if labelled or "labels" not in CATALOG[name].requires)
    names = []
    for stage in stages:
        for layer in layers:
            tail = f"{stage}/{layer}/" if layer else f"{stage}/"
            names += [f"featgeo/{tail}{signal}" for signal in chosen]
            names += [f"featgeo_monitor/{tail}{signal}_se" for signal in chosen]
            names += [f"featgeo_monitor/{tail}{extra}" for extra in DIAGNOSTICS]
    return [*names, EPOCH]


def without_labels(also: Sequence[str]) -> tuple[str, ...]:
    """What "auto" can come to where there are no labels."""
    every = dict.fromkeys([*(name for preset in PRESETS.values() for name in preset), *also])
    return tuple(name for name in every if "labels" not in CATALOG[name].requires)


def names_of_run(run: Any) -> list[str]:
    """Every name that a ``LightningRun`` can log, as far as is known."""
    layers = [layer.name for layer in run.watcher.sources.layers] or [None]
    names: list[str] = []
    for stage in run.logged_stages:
        for number, name in enumerate(run.names(stage)):
            signals = run.resolved.get((stage, number), run.settings.signals)
            names += known_names(signals, [name], layers, run.also, run.probe_sets.is_labelled(name))
    return [*names, *run.stoppers.names(names)]


def diagnostics(record: Record, prefix: str) -> dict[str, float]:
    """Row counts, standard errors and cost under ``featgeo_monitor/``."""
    prefix = prefix.replace("featgeo/", "featgeo_monitor/", 1)
    found = {f"{prefix}{name}_se": error for name, error in record.standard_errors.items()}
    if COUNT_SIGNAL in record.values:
        found[prefix + COUNT_SIGNAL] = record.values[COUNT_SIGNAL]
    for name in ("nonfinite", "duplicates", "near_duplicates", "reference", "padded", "repeated"):
        if record.counts.get(name):
            found[f"{prefix}n_{name}"] = float(record.counts[name])
    seen, labelled = record.counts.get("seen", 0), record.counts.get("labelled", 0)
    if 0 < labelled < seen:
        found[prefix + "n_unlabelled"] = float(seen - labelled)
    found[prefix + "gaps"] = float(len(record.gaps))
    found[prefix + "seconds"], found[prefix + "share"] = record.seconds, record.share
    return found


class Publisher:
    """Sends records on; remembers which names carry a value, so that a stale one is never taken for a fresh one.

    Args:
        trainer: of the run.
        history: where records are kept.
        display: what loggers are shown beyond scalars.
        guard: keeps one logger's failure from the others.
        headline: the signal on the progress bar; None: the first one.
    """

    def __init__(
        self, trainer: Trainer, history: History, display: LoggerDisplay, guard: Guard, headline: str | None = None
    ) -> None:
        self.trainer, self.history, self.display, self.guard = trainer, history, display, guard
        self._live: dict[str, set[str]] = {}
        self._chosen = headline
        self._headline: str | None = None
        self._best: dict[str, float] = {}
        self._own_rows = any(sink.own_rows for sink in sinks_of(trainer.loggers))  # the same on all ranks

    def forget_stale(self, prefix: str = "featgeo/") -> None:
        """Take our values below a prefix out of ``callback_metrics``, which Lightning never clears."""
        for live in [live for live in self._live if live.startswith(prefix)]:
            for name in self._live.pop(live):
                self.trainer.callback_metrics.pop(name, None)

    def publish(
        self,
        pl_module: LightningModule,
        closed: ClosedWindow,
        inside_epoch: bool,
        due: Sequence[Due],
        state: float | None,
    ) -> None:
        """One record to the history, every logger, and ``callback_metrics``; gaps are left out everywhere.

        Args:
            pl_module: logs.
            closed: the window of one layer, and what can be shown of it.
            inside_epoch: a window of n steps: Lightning would file its values under other steps.
            due: alarms raised at this window, and whose they are.
            state: 1 while an alarm stands, 0 while none does, None if nobody watches or can tell.
        """
        record, prefix = closed.record, closed.record.prefix
        with self.guard.around("writing the history"):
            self.history.append(record)
        values = {prefix + s: v for s, v in record.values.items() if s in closed.signals}
        if state is not None:
            values[prefix + ALARM] = state
        values.update(diagnostics(record, prefix))
        self.forget_stale(prefix)
        self._live[prefix] = set(values)
        if self.display.loggers:
            self.display.leave_out_finished()
        if self.display.sinks:
            self.display.define(values, closed)
        if inside_epoch:
            self._log_inside_epoch(pl_module, record, values)
        else:
            with self.guard.around("logging"):
                self._log(pl_module, closed, values)
        if self.display.sinks:
            self.display.best(self._better(record))
        if self.display.sinks or self.display.layouts is not None:
            with self.guard.around("showing a window"):
                self.display.show(closed, [alarm.title for _, alarm in due])
        for stopper, alarm in due:
            with self.guard.around("reporting an alarm"):
                self._alarmed(record, alarm, stopper.stop(self.trainer, alarm), stopper.sends_alert(alarm))

    def _better(self, record: Record) -> dict[str, tuple[float, float]]:
        """Curves of which this window has the best value so far, those before a resume included."""
        found = {}
        for signal, value in record.values.items():
            direction, name = CATALOG[signal].direction if signal in CATALOG else "none", record.prefix + signal
            if direction != "none":
                sign = 1.0 if direction == "higher" else -1.0
                before = self._best.get(name)
                if before is None:  # the first one here: of a run that was resumed, the best so far is told anew
                    series = [*self.history.series(name), (record.epoch, value)]
                    epoch, best = max(series, key=lambda point: sign * point[1])
                    found[name], before = (best, epoch), sign * best
                elif sign * value >= before:
                    found[name] = value, record.epoch
                self._best[name] = max(before, sign * value)
        return found

    def _log(self, pl_module: LightningModule, closed: ClosedWindow, values: Mapping[str, float]) -> None:
        device, dtype = pl_module.device, _dtype(pl_module)
        as_usual = False if self._own_rows else None
        for name, value in [(EPOCH, closed.record.epoch), *values.items()]:
            tensor = torch.tensor(value, dtype=dtype, device=device)
            pl_module.log(name, tensor, on_step=False, on_epoch=True, batch_size=1, logger=as_usual)
        if self._own_rows:
            self._to_loggers(closed.record, values)
        if self._headline is None:  # of the first stage and layer, the chosen signal or the first there is
            wanted = [self._chosen] if self._chosen is not None else closed.signals
            prefix = closed.record.prefix
            self._headline = next((prefix + s for s in wanted if s in closed.record.values), None)
        if self._headline is not None and self._headline in values:
            # short, as bars cut at the right; with our prefix, as the user may have a metric of the signal's name
            name = "featgeo/" + self._headline.rpartition("/")[2]
            tensor = torch.tensor(values[self._headline], dtype=dtype, device=device)
            pl_module.log(name, tensor, on_step=False, on_epoch=True, prog_bar=True, logger=False, batch_size=1)
            self._live[closed.record.prefix].add(name)

    def _log_inside_epoch(self, pl_module: LightningModule, record: Record, values: Mapping[str, float]) -> None:
        dtype = _dtype(pl_module)
        self.trainer.callback_metrics.update({n: torch.tensor(v, dtype=dtype) for n, v in values.items()})
        self._to_loggers(record, values)

    def _to_loggers(self, record: Record, values: Mapping[str, float]) -> None:
        at = At(record.epoch, _compat.logging_step(self.trainer))
        for sink in self.display.loggers:
            with self.guard.around(f"logging to {sink.name}", lost="monitor.history and its file have the window"):
                sink.scalars(values, at)

    def _alarmed(self, record: Record, alarm: Alarm, stops: bool, alerts: bool) -> None:
        """An alarm, to the history and to loggers; ``stops``: it ended the run; ``alerts``: somebody is to be told."""
        kind, key = ("stop", "featgeo_stop_reason") if stops else (alarm.called, f"featgeo_{alarm.called}")
        self.history.event(
            kind=kind, monitor=alarm.name, epoch=record.epoch, step=record.step, reason=alarm.line,
            alarm=alarm.as_dict(),
        )  # fmt: skip
        self.display.note(key, alarm.line, At(record.epoch, _compat.logging_step(self.trainer)))
        if alerts:
            self.display.alert(f"featgeo: {alarm.title}", alarm.report, failure=alarm.is_failure)


def publish(run: Any, windows: Sequence[Window], closed: Sequence[ClosedWindow], inside_epoch: bool) -> float:
    """Ask the stoppers of windows that have closed together, and send the records on; returns the seconds it took.

    Args:
        run: the ``LightningRun``.
        windows: of one stage.
        closed: what came of them.
        inside_epoch: see ``Publisher.publish``.
    """
    begin = time.perf_counter()
    judged = run.stoppers.judge(closed) if run.stoppers.stoppers else [UNWATCHED] * len(closed)
    for one, (due, state) in zip(closed, judged, strict=True):
        run.publisher.publish(run.pl_module, one, inside_epoch, due, state)
    if run.display.sinks:
        run.display.finish_windows([window.plan.name for window in windows])
    return time.perf_counter() - begin


def _dtype(pl_module: LightningModule) -> torch.dtype:
    return torch.float32 if pl_module.device.type == "mps" else torch.float64


def silence_advice() -> Callable[[], None]:
    """Silence Lightning's advice to average our values, which are the same on all ranks; returns how to undo it."""
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\('featgeo")
    ours = warnings.filters[0]

    def undo() -> None:
        if ours in warnings.filters:
            warnings.filters.remove(ours)  # type: ignore[attr-defined] # a list, typed as a sequence

    return undo
