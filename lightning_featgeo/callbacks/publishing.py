"""Publishing: which names there are, and how a closed window reaches loggers, other callbacks and the history."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_featgeo import sinks
from lightning_featgeo._version import __version__
from lightning_featgeo.alarms import Alarm
from lightning_featgeo.callbacks.windows import Window
from lightning_featgeo.history import History, Record
from lightning_featgeo.metrics.catalog import COUNT_SIGNAL, PRESETS, resolve
from lightning_featgeo.sources import Layer
from lightning_featgeo.types import Tensor

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
    return [*names, sinks.EPOCH]


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
    if getattr(trainer, "fast_dev_run", False) or not trainer.is_global_zero:
        return None
    if "://" in str(folder) or ":/" in str(folder):  # a remote store: no local file stands beside that run
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return folder / "featgeo" / f"{stamp}-{uuid.uuid4().hex[:6]}.jsonl"


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

    def __init__(self, history: History) -> None:
        self.history = history
        self._live: dict[str, set[str]] = {}
        self._defined: set[str] = set()
        self._spectra: dict[str, sinks.Spectra] = {}
        self._marks: dict[str, dict[float, str]] = {}
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
        record: Record,
        curves: Mapping[str, Tensor],
        asked: Sequence[str],
        inside_epoch: bool,
        guarded: Guard,
        alarms: Sequence[Alarm] = (),
        state: float | None = None,
    ) -> None:
        """One record to the history, every logger, and ``callback_metrics``; gaps are left out everywhere.

        Args:
            trainer, pl_module: of the run.
            record: the closed window of one layer.
            curves: its curves.
            asked: the signals that were chosen; ``n_samples`` is logged among them only if it was.
            inside_epoch: a window of n steps: Lightning would file its values under other steps.
            guarded: keeps one sink's failure from the others.
            alarms: those raised at this window, marked in its charts.
            state: 1 while an alarm stands, 0 while none does, None if nobody watches or can tell.
        """
        with guarded("writing the history"):
            self.history.append(record)
        values = {record.prefix + s: v for s, v in record.values.items() if s in asked}
        if state is not None:
            values[record.prefix + sinks.ALARM] = state
        marks = self._marks.setdefault(record.prefix, {})
        if alarms:
            marks[record.epoch] = ", ".join(alarm.title for alarm in alarms)
        values.update(diagnostics(record))
        with guarded("naming metrics in W&B"):
            self._tell_wandb_names(trainer, values)
        self.forget_stale(trainer, record.prefix)
        self._live[record.prefix] = set(values)
        device = pl_module.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if inside_epoch:
            trainer.callback_metrics.update({n: torch.tensor(v, dtype=dtype) for n, v in values.items()})
            for logger in trainer.loggers:
                with guarded(f"logging to {type(logger).__name__}"):
                    logger.log_metrics({**values, sinks.EPOCH: record.epoch}, step=int(trainer.global_step))
        else:
            self._headline = self._headline or next((record.prefix + s for s in asked if s in record.values), None)
            with guarded("logging"):
                for name, value in [(sinks.EPOCH, record.epoch), *values.items()]:
                    tensor = torch.tensor(value, dtype=dtype, device=device)
                    on_bar = name == self._headline
                    pl_module.log(name, tensor, on_step=False, on_epoch=True, prog_bar=on_bar, batch_size=1)
        with guarded("sending curves"):
            self._send_curves(trainer, record, curves)

    def _tell_wandb_names(self, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        new = [name for name in values if name not in self._defined]
        self._defined.update(new)
        if new and trainer.is_global_zero:
            for logger in sinks.wandb_loggers(trainer.loggers):
                sinks.wandb_define(logger, new)

    def _send_curves(self, trainer: pl.Trainer, record: Record, curves: Mapping[str, Tensor]) -> None:
        if not curves or not trainer.is_global_zero:
            return
        spectra = self._spectra.setdefault(record.prefix, [])
        if "eigenvalues" in curves:
            spectra.append((record.epoch, curves["eigenvalues"].clamp(min=0).tolist()))
            if len(spectra) > 4 * sinks.MAX_LINES:
                spectra[:] = sinks.thin(spectra, set(self._marks[record.prefix]))
        for logger in sinks.wandb_loggers(trainer.loggers):
            sinks.wandb_curves(logger, spectra, record, curves, self._marks[record.prefix])

    def alarmed(self, trainer: pl.Trainer, record: Record, alarm: Alarm, stops: bool) -> None:
        """An alarm, to the history and the W&B summary; ``stops``: it ended the run."""
        kind, key = ("stop", "featgeo_stop_reason") if stops else ("alarm", "featgeo_alarm")
        self.history.event(
            kind=kind, monitor=alarm.name, epoch=record.epoch, step=record.step, reason=alarm.line,
            alarm=alarm.as_dict(),
        )  # fmt: skip
        if trainer.is_global_zero:
            for logger in sinks.wandb_loggers(trainer.loggers):
                sinks.wandb_note(logger, key, alarm.line)


def run_facts(line: str, layers: Sequence[str], signals: Sequence[str], memory_bytes: int) -> dict[str, object]:
    """What the first line of the history file says."""
    return {
        "described": line,
        "layers": list(layers),
        "signals": list(signals),
        "memory_bytes": memory_bytes,
        "versions": {
            "lightning_featgeo": __version__,
            "torch": torch.__version__,
            "lightning": version("lightning"),
        },
    }


def describe(
    layers: Sequence[Layer],
    window: Window,
    stages: Sequence[str],
    loaders: int,
    reference: str | None = None,
    held: int = 0,
    ranks: int = 1,
) -> str:
    """The one line that a run prints: layer and why, dimension, classes, signals, memory, and what was assumed."""
    seen = [part for part in window.watched if part.metric.dim is not None]
    parts = []
    for layer, part in zip(layers, window.watched, strict=True):
        if part in seen:
            pool = part.assembler.chosen_pool
            pooled = "" if pool in (None, "rows") else f", pooled by {pool!r}"
            parts.append(f"{layer.described}, {part.metric.dim} dimensions{pooled}")
        else:
            parts.append(f"{layer.described}, which did not run in this batch")
    metric = seen[0].metric
    reads_labels = any("labels" in row.requires for row in metric.rows)
    classes = f"{metric.num_classes} classes" if reads_labels else "no class signals"
    memory = sum(part.metric.memory_bytes for part in seen)
    merging = max(part.metric.sync_bytes(ranks, window.serves) for part in seen) + 2 * held
    closing = max(part.metric.closing_bytes for part in seen)  # a layer at a time
    kind = f" ({metric.preset})" if metric.preset else ""
    left_out = {} if window.serves or metric.preset else metric.left_out  # what others refer to has no reference itself
    told = {f"{name} {reason}": None for name, reason in left_out.items()}
    told.update({note: None for part in seen for note in part.assembler.notes})
    return (
        f"featgeo: watching {'; '.join(parts)}; {classes}; stages {', '.join(stages)}; "
        f"signals {', '.join(metric.signals or ())}{kind}; accumulators hold {memory:,} bytes a window"
        f"{f', {loaders} windows' if loaders > 1 else ''}"
        f"{f', and {held:,} for the reference' if held else ''} on {metric.state_device}"
        f"; closing one takes up to {closing:,} more"
        f"{f', on each of {ranks} ranks, and up to {merging:,} more while they are merged' if ranks > 1 else ''}"
        f"{f'; compared with {reference!r}' if reference else ''}" + "".join(f". Note: {note}" for note in told)
    )
