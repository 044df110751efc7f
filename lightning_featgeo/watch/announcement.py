"""What a run says of itself: the line it prints, and the facts that its history and its loggers keep."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import lightning.pytorch as pl
import torch

from lightning_featgeo._version import __version__
from lightning_featgeo.capture.sources import Layer
from lightning_featgeo.cuda_ext import backend_info
from lightning_featgeo.history.fingerprint import short
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.watch.window import Window


def run_name(trainer: pl.Trainer) -> tuple[str | None, str | None]:
    """What its first logger calls the run, for people; and what no other run is called."""
    for logger in trainer.loggers:
        version = logger.version
        last = f"version_{version}" if isinstance(version, int) else version
        given = getattr(logger, "_run_name", None) or (getattr(logger, "_name", None) if last != logger.name else None)
        named = given if type(logger).__name__ in ("WandbLogger", "MLFlowLogger") else None
        project = None if type(logger).__name__ == "MLFlowLogger" else logger.name
        parts = [str(part) for part in (project, named or last) if part]
        if parts:
            return "/".join(parts), f"{logger.name}/{version}"
    return None, None


def run_facts(
    line: str,
    layers: Sequence[str],
    signals: Sequence[str],
    memory_bytes: int,
    window: Window,
    name: tuple[str | None, str | None] = (None, None),
) -> dict[str, object]:
    """What the first line of the history file says."""
    backend = backend_info()
    return {
        "name": name[0],
        "id": name[1],
        "described": line,
        "layers": list(layers),
        "signals": list(signals),
        "memory_bytes": memory_bytes,
        "versions": {
            "lightning_featgeo": __version__,
            "torch": torch.__version__,
            "lightning": version("lightning"),
            "torchmetrics": version("torchmetrics"),
        },
        "backend": {name: backend[name] for name in ("backend", "reason")},
        "definitions": {signal: CATALOG[signal].version for signal in signals if signal in CATALOG},
        "of": window.watched[0].facts if window.watched else {},
        "fingerprint": short(window.watched[0].facts if window.watched else {}),
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
