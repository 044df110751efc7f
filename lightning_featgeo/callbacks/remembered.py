"""What is remembered for charts and tables that tell of many windows: of one layer, and over depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.sinks import tables
from lightning_featgeo.watch.plan import ClosedWindow

DEPTH_SIGNALS = 3  # that are drawn over depth
SHOWN_DIRECTIONS = (0, 1, 2, 4, 9)
Points = tuple[list[float], list[float]]  # epochs, values


class Depth:
    """Remembers the first signals of every layer of every stage."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, dict[str, Points]]] = {}  # stage -> signal -> layer

    @property
    def stages(self) -> list[str]:
        """Stages of which windows were remembered."""
        return list(self._series)

    def remember(self, record: Record, asked: Sequence[str]) -> None:
        """A window of one layer; ``asked``: its signals, in order."""
        stage = self._series.setdefault(record.stage, {})
        layer = record.facts.get("layer") or record.layer or "first layer"
        for signal in asked[:DEPTH_SIGNALS]:
            if signal in record.values:
                epochs, values = stage.setdefault(signal, {}).setdefault(str(layer), ([], []))
                epochs.append(record.epoch)
                values.append(record.values[signal])

    def charts(self, stage: str) -> Iterator[tuple[str, float, tables.Lines]]:
        """Name, epoch of the last value, and chart of each signal, where there are several layers."""
        for signal, layers in self._series.get(stage, {}).items():
            if len(layers) > 1:
                epoch = max(epochs[-1] for epochs, _ in layers.values())
                thinned = {layer: tables.thin_points(*points) for layer, points in layers.items()}
                yield (
                    f"depth_{signal}",
                    epoch,
                    tables.Lines(f"{signal} by layer, featgeo/{stage}", "epoch", signal, thinned),
                )

    def clear(self) -> None:
        """Forget all."""
        self._series.clear()


@dataclass
class Shown:
    """What was shown for one stage and layer."""

    spectra: tables.Spectra = field(default_factory=list)
    marks: dict[float, str] = field(default_factory=dict)
    windows: int = 0
    last: ClosedWindow | None = None
    step: int = 0
    best: tuple[float, str, ClosedWindow] | None = None

    def judge(self, shown: ClosedWindow, headline: str | None) -> None:
        """Keep the best window: by kNN accuracy, else by the first signal of which one way is better."""
        values = shown.record.values
        directed = [s for s in shown.signals if s in CATALOG and CATALOG[s].direction != "none"]
        by = next((s for s in ("knn_accuracy", headline, *directed) if s in directed), None)
        if by is None or by not in values:
            return
        score = values[by] if CATALOG[by].direction == "higher" else -values[by]
        if self.best is None or score > self.best[0]:
            self.best = score, by, shown


def pairs_of_layers(stage: str, shown: Mapping[str, Shown]) -> Iterator[tuple[str, float, tables.Chart]]:
    """Name, epoch and chart of how alike each two of the layers are, and what they tell of the last, if asked for."""
    last = [w.last for prefix, w in shown.items() if prefix.startswith(f"featgeo/{stage}/") and w.last is not None]
    for one in last:
        for curve, measure in (("layer_cka_matrix", "CKA"), ("layer_overlap_matrix", "shared neighbours")):
            if curve in one.curves:
                names = [str(each.record.facts.get("layer") or each.record.layer) for each in last]
                title = f"{measure} of layers, featgeo/{stage}, epoch {one.record.epoch:g}"
                values = one.curves[curve].tolist()
                yield curve, one.record.epoch, tables.Matrix(title, names, values, measure, lowest=0.0)
        if "layer_readouts" in one.curves:
            by_layer = one.curves["layer_readouts"].tolist()
            depth = [float(i) for i in range(1, len(by_layer) + 1)]
            series = {
                f"direction {k + 1}": (depth, [row[k] for row in by_layer])
                for k in SHOWN_DIRECTIONS
                if k < len(by_layer[0])
            }
            title = f"What each layer tells of the last one's directions, featgeo/{stage}, epoch {one.record.epoch:g}"
            yield "layer_readouts", one.record.epoch, tables.Lines(title, "layer", "R² of a linear map", series)
