"""What a run prints at its start, and the facts that its history and loggers keep."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from lightning_featgeo._version import __version__
from lightning_featgeo.capture.names import Layer
from lightning_featgeo.cuda_ext import backend_info
from lightning_featgeo.errors import printable
from lightning_featgeo.history.fingerprint import short
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.metrics.statistics.sums import MOST_CLASSES
from lightning_featgeo.watch.window import Window

LONGEST = 100  # printed lines, in characters; shorter where the terminal is narrower


def say(text: str) -> None:
    """Print to standard error, above a progress bar that is being drawn (tqdm's, or Rich's, which redirects prints)."""
    text, tqdm = printable(text), sys.modules.get("tqdm")
    with contextlib.suppress(OSError, ValueError):  # a closed terminal must not cost more than the words
        if tqdm is not None:
            tqdm.tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)


def fill(text: str, hanging: int) -> str:
    """Wrap each line to the terminal's width, its rest indented by so many more characters."""
    width = min(LONGEST, shutil.get_terminal_size((LONGEST, 24)).columns)
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        )
        for line in text.splitlines()
    )  # fmt: skip


def _classes(metric: GeometryMetric) -> str:
    """How many there are, and how many of them are compared with each other."""
    of = metric.num_classes or 0
    return str(of) if of <= MOST_CLASSES else f"{of:,}; where more than {MOST_CLASSES:,} occur, so many are compared"


def mebibytes(count: int) -> str:
    """Bytes in words: "1.5 MiB", "12 KiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count} bytes"


class Announcement:
    """What is watched, once layer, dimension, classes, signals and memory are known.

    Args:
        layers: that are watched.
        window: the first one that has seen rows.
        stages: that are logged.
        windows: how many are open at most, one a loader.
        ranks: processes that share a window.
        held: bytes of a reference that is not logged itself.
        name: of the run, for people; and one that no other run has.
        doing: "fit", or "validate" or "test" where nothing is trained.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        window: Window,
        stages: Sequence[str],
        windows: int = 1,
        ranks: int = 1,
        held: int = 0,
        name: tuple[str | None, str | None] = (None, None),
        doing: str = "fit",
    ) -> None:
        self.layers, self.window, self.stages = layers, window, stages
        self.windows, self.ranks, self.held = windows, ranks, held
        self.seen = [part for part in window.layers if part.metric.dim is not None]
        self.memory_bytes = sum(part.metric.memory_bytes for part in window.layers) + held
        self.name, self.doing = name, doing
        self.more: dict[str, Any] = {}  # that only an engine knows
        self.copies = False  # whether closed windows are computed beside training

    @property
    def lines(self) -> list[tuple[str, str]]:
        """(what, in words): what is watched, then classes, stages, signals, preset, memory and notes."""
        metric, compared = self.seen[0].metric, self.window.plan.reference
        reads_labels = any("labels" in row.requires for row in metric.chosen)
        lines = [
            ("watching", self._layer(layer, part)) for layer, part in zip(self.layers, self.window.layers, strict=True)
        ]
        lines.append(("rows", "; ".join(dict.fromkeys(part.assembler.evidence.summary for part in self.seen))))
        lines.append(("classes", _classes(metric) if reads_labels else "not used by these signals"))
        lines.append(("stages", ", ".join(self.stages) + (f"; compared with {compared!r}" if compared else "")))
        lines.append(("signals", ", ".join(metric.signals or ())))
        few = metric.spectrum_limit
        if few is not None and any("scatter" in row.requires for row in metric.chosen):
            kept = min(few, metric.bank_size or few)
            lines.append(("spectra", f'of at most {kept:,} rows of a window; spectrum_rows="all" takes all of them'))
        if metric.preset:
            lines.append(("preset", metric.preset))
        lines.append(("memory", self._memory()))
        return lines + [("note", note) for note in self._notes()]

    @property
    def text(self) -> str:
        """A short block to print, as wide as the terminal."""
        return fill(
            "\n".join(
                f"featgeo: watching {value}" if what == "watching" else f"  {what:<8} {value}"
                for what, value in self.lines
            ),
            11,
        )

    def _layer(self, layer: Layer, part: Any) -> str:
        if part not in self.seen:
            return f"{layer.described}, which did not run in this batch"
        pool = part.assembler.chosen_pool
        pooled = "" if pool in (None, "rows") else f", pooled by {pool!r}"
        return f"{layer.described}, {part.metric.dim} dimensions{pooled}"

    def _memory(self) -> str:
        metrics = [part.metric for part in self.seen]
        many = f" (up to {self.windows} windows)" if self.windows > 1 else ""
        parts = [f"{mebibytes(sum(m.memory_bytes for m in metrics))} a window{many} on {metrics[0].state_device}"]
        if self.copies:
            parts.append("as much again for copies, while these are computed beside training")
        anchor = self.window.anchor
        if anchor is not None and anchor.memory_bytes:
            parts.append(f"{mebibytes(anchor.memory_bytes)} for the anchor")
        if self.held:
            parts.append(f"{mebibytes(self.held)} for the reference")
        parts.append(f"peak extra when a window closes: {mebibytes(max(m.closing_bytes for m in metrics))}")
        if self.ranks > 1:
            merging = max(m.sync_bytes(self.ranks, bool(self.window.plan.serves)) for m in metrics) + 2 * self.held
            parts.append(f"per process ({self.ranks} processes); {mebibytes(merging)} more while they merge")
        return ", ".join(parts)

    def _notes(self) -> list[str]:
        metric = self.seen[0].metric
        # what others refer to has no reference itself, and members of a preset go without a word
        left_out = {} if self.window.plan.serves or metric.preset else metric.left_out
        by_reason: dict[str, list[str]] = {}
        for name, reason in left_out.items():
            by_reason.setdefault(reason, []).append(name)
        told = {f"left out: {', '.join(names)}; each {reason}": None for reason, names in by_reason.items()}
        told.update({note: None for part in self.seen for note in part.assembler.notes})
        return list(told)

    @property
    def header(self) -> dict[str, Any]:
        """What the first line of the history file says."""
        backend, signals = backend_info(), self.window.signals
        of: Mapping[str, Any] = self.window.layers[0].facts if self.window.layers else {}
        return {
            "name": self.name[0],
            "id": self.name[1],
            "doing": self.doing,
            **self.more,
            "described": "\n".join(f"{what}: {value}" for what, value in self.lines),
            "layers": [layer.described for layer in self.layers],
            "rows": [part.assembler.evidence.summary for part in self.seen],
            "signals": list(signals),
            "memory_bytes": self.memory_bytes,
            "versions": {
                "lightning_featgeo": __version__,
                "torch": torch.__version__,
                "lightning": version("lightning"),
                "torchmetrics": version("torchmetrics"),
            },
            "backend": {key: backend[key] for key in ("backend", "reason")},
            "definitions": {signal: CATALOG[signal].version for signal in signals if signal in CATALOG},
            "of": dict(of),
            "fingerprint": short(of),
        }
