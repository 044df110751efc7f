"""Charts of several layers: a signal over time, one line a layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_featgeo.history.record import Record
from lightning_featgeo.sinks import tables

DEPTH_SIGNALS = 3  # that are drawn over depth
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
        """Signal, epoch of its last value, and chart, where there are several layers."""
        for signal, layers in self._series.get(stage, {}).items():
            if len(layers) > 1:
                epoch = max(epochs[-1] for epochs, _ in layers.values())
                thinned = {layer: tables.thin_points(*points) for layer, points in layers.items()}
                yield signal, epoch, tables.Lines(f"{signal} by layer, featgeo/{stage}", "epoch", signal, thinned)

    def clear(self) -> None:
        """Forget all."""
        self._series.clear()
