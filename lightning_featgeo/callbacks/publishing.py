"""Publishing: which names there are, and how a closed window reaches loggers, other callbacks and the history."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_featgeo.alarms import Alarm
from lightning_featgeo.callbacks.display import Gallery
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import COUNT_SIGNAL, PRESETS, resolve
from lightning_featgeo.sinks import ALARM, EPOCH, At
from lightning_featgeo.watch.window import Shown

DIAGNOSTICS = (
    COUNT_SIGNAL,
    "n_nonfinite",
    "n_unlabelled",
    "n_duplicates",
    "n_reference",
    "n_padded",
    "n_repeated",
    "gaps",
    "seconds",
    "share",
)
Guard = Callable[[str], AbstractContextManager[None]]


def known_names(signals: str | Sequence[str], stages: Iterable[str], layers: Iterable[str | None]) -> list[str]:
    """Every name that a run with these signals can log; ``stages`` as they appear in names."""
    if signals == "auto":
        chosen = tuple(dict.fromkeys(name for preset in PRESETS.values() for name in preset))
    else:
        chosen = resolve(signals)
    names = []
    for stage in stages:
        for layer in layers:
            tail = f"{stage}/{layer}/" if layer else f"{stage}/"
            names += [f"featgeo/{tail}{signal}" for signal in chosen]
            names += [f"featgeo_monitor/{tail}{signal}_se" for signal in chosen]
            names += [f"featgeo_monitor/{tail}{extra}" for extra in DIAGNOSTICS]
    return [*names, EPOCH]


def fractional_epoch(trainer: pl.Trainer) -> float:
    """Epochs done, with the fraction of the running one; strictly increasing over a fit."""
    epoch = float(trainer.current_epoch)
    if trainer.state.fn != "fit":
        return epoch
    started = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    total = trainer.num_training_batches
    return epoch + (min(1.0, started / total) if math.isfinite(total) and total else started / (started + 1))


def history_path(trainer: pl.Trainer) -> Path | None:
    """A new file next to the run; None for ``fast_dev_run`` and on other ranks."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)  # asked on every rank: it is a broadcast
    if trainer.loggers and type(trainer.loggers[0]).__name__ == "MLFlowLogger":
        folder = Path(trainer.default_root_dir)  # the other one is MLflow's store, where a folder is an experiment
    if getattr(trainer, "fast_dev_run", False) or not trainer.is_global_zero:
        return None
    if "://" in str(folder) or ":/" in str(folder):  # a remote store: no local file stands beside that run
        return None
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")  # names sort as they were begun
    return folder / "featgeo" / f"{stamp}-{uuid.uuid4().hex[:4]}.jsonl"


def diagnostics(record: Record) -> dict[str, float]:
    """Row counts, standard errors and cost under ``featgeo_monitor/``."""
    prefix = record.prefix.replace("featgeo/", "featgeo_monitor/", 1)
    found = {f"{prefix}{name}_se": error for name, error in record.standard_errors.items()}
    if COUNT_SIGNAL in record.values:
        found[prefix + COUNT_SIGNAL] = record.values[COUNT_SIGNAL]
    for name in ("nonfinite", "duplicates", "reference", "padded", "repeated"):
        if record.counts.get(name):
            found[f"{prefix}n_{name}"] = float(record.counts[name])
    seen, labelled = record.counts.get("seen", 0), record.counts.get("labelled", 0)
    if 0 < labelled < seen:
        found[prefix + "n_unlabelled"] = float(seen - labelled)
    found[prefix + "gaps"] = float(len(record.gaps))
    found[prefix + "seconds"], found[prefix + "share"] = record.seconds, record.share
    return found


class Publisher:
    """Sends records on; remembers which names carry a value, so that a stale one is never taken for a fresh one."""

    def __init__(self, history: History, gallery: Gallery, headline: str | None = None) -> None:
        self.history, self.gallery = history, gallery
        self._live: dict[str, set[str]] = {}
        self._chosen = headline
        self._headline: str | None = None

    def forget_stale(self, trainer: pl.Trainer, prefix: str = "featgeo/") -> None:
        """Take our values below a prefix out of ``callback_metrics``, which Lightning never clears."""
        for live in [live for live in self._live if live.startswith(prefix)]:
            for name in self._live.pop(live):
                trainer.callback_metrics.pop(name, None)

    def publish(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        shown: Shown,
        asked: Sequence[str],
        inside_epoch: bool,
        guarded: Guard,
        alarms: Sequence[Alarm] = (),
        state: float | None = None,
    ) -> None:
        """One record to the history, every logger, and ``callback_metrics``; gaps are left out everywhere.

        Args:
            trainer, pl_module: of the run.
            shown: the closed window of one layer, and what can be shown of it.
            asked: the signals that were chosen; ``n_samples`` is logged among them only if it was.
            inside_epoch: a window of n steps: Lightning would file its values under other steps.
            guarded: keeps one sink's failure from the others.
            alarms: those raised at this window, marked in its charts.
            state: 1 while an alarm stands, 0 while none does, None if nobody watches or can tell.
        """
        record = shown.record
        with guarded("writing the history"):
            self.history.append(record)
        values = {record.prefix + s: v for s, v in record.values.items() if s in asked}
        if state is not None:
            values[record.prefix + ALARM] = state
        values.update(diagnostics(record))
        self.gallery.define(values, record, asked)
        self.forget_stale(trainer, record.prefix)
        self._live[record.prefix] = set(values)
        device = pl_module.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if inside_epoch:
            trainer.callback_metrics.update({n: torch.tensor(v, dtype=dtype) for n, v in values.items()})
            for logger in trainer.loggers:
                with guarded(f"logging to {type(logger).__name__}"):
                    logger.log_metrics({**values, EPOCH: record.epoch}, step=int(trainer.global_step))
        else:
            self._choose_headline(record, asked)
            with guarded("logging"):
                for name, value in [(EPOCH, record.epoch), *values.items()]:
                    tensor = torch.tensor(value, dtype=dtype, device=device)
                    pl_module.log(name, tensor, on_step=False, on_epoch=True, batch_size=1)
                if self._headline in values:  # by the signal's name alone: bars cut the full one at its right
                    short = self._headline.rpartition("/")[2]
                    tensor = torch.tensor(values[self._headline], dtype=dtype, device=device)
                    pl_module.log(
                        short, tensor, on_step=False, on_epoch=True, prog_bar=True, logger=False, batch_size=1
                    )
                    self._live[record.prefix].add(short)
        with guarded("showing a window"):
            self.gallery.hang(shown, asked, [alarm.title for alarm in alarms])

    def _choose_headline(self, record: Record, asked: Sequence[str]) -> None:
        """The one curve on the progress bar: of the first stage and layer, the chosen signal or the first there is."""
        if self._headline is None:
            wanted = [self._chosen] if self._chosen is not None else asked
            self._headline = next((record.prefix + s for s in wanted if s in record.values), None)

    def alarmed(self, record: Record, alarm: Alarm, stops: bool) -> None:
        """An alarm, to the history and to loggers; ``stops``: it ended the run."""
        kind, key = ("stop", "featgeo_stop_reason") if stops else ("alarm", "featgeo_alarm")
        self.history.event(
            kind=kind, monitor=alarm.name, epoch=record.epoch, step=record.step, reason=alarm.line,
            alarm=alarm.as_dict(),
        )  # fmt: skip
        self.gallery.note(key, alarm.line, At(record.epoch, record.step))
        self.gallery.alert(f"featgeo: {alarm.title}", alarm.report, failure=alarm.kind != "converged")
