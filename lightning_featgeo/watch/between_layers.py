"""What the layers of a window are handed before they are evaluated: rows of the one before, and the anchor's."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.earlier import Kept
from lightning_featgeo.metrics.functional.between_layers import MATRIX_ROWS, cka_matrix, overlap_matrix, readouts
from lightning_featgeo.metrics.functional.same_samples import paired
from lightning_featgeo.metrics.results import WindowResult
from lightning_featgeo.watch.anchors import Anchor
from lightning_featgeo.watch.watched_layer import WatchedLayer

LEAST_LAYERS = 3  # of which a matrix says more than the curves


class RowsOfLayers:
    """Rows of a window's layers, on rank 0, as they are evaluated one after the other.

    Args:
        anchor: that all of them are compared with; all ranks meet there.
        ranks: of the run.
    """

    def __init__(self, anchor: Anchor | None, ranks: Ranks) -> None:
        self._before: Kept | None = None
        self._first_rows: list[Kept | None] = []
        self._anchor = anchor
        if anchor is not None:
            anchor.meet(ranks)

    def give(self, part: WatchedLayer) -> None:
        """Before a layer is evaluated: the rows of the one before, and the anchor's."""
        part.metric.beside(self._before)
        if self._anchor is not None:
            self._anchor.give(len(self._first_rows), part.metric)

    def take(self, part: WatchedLayer) -> None:
        """After it was: its own, if a signal reads them."""
        if self._anchor is not None:
            self._anchor.take(len(self._first_rows), part.metric)
        own = part.metric.earlier.own if part.failed is None else None
        part.metric.beside(None)  # no layer holds another one's rows until the next window
        self._before = own
        n = slice(MATRIX_ROWS)
        self._first_rows.append(None if own is None else Kept(own.rows[n], own.samples[n], own.labels[n]))

    def compared(self, results: list[WindowResult]) -> list[WindowResult]:
        """With the matrix of all pairs, and what each tells of the last one, among the first layer's curves.

        Where there are three layers or more.
        """
        there = [one for one in self._first_rows if one is not None]
        if len(there) < max(LEAST_LAYERS, len(results)):
            return results
        try:
            rows = [there[0].rows] + [
                one.rows[paired(there[0].samples, one.samples.to(there[0].samples.device))[1]] for one in there[1:]
            ]
        except Undefined:  # other tokens or views of the samples: their curves say so
            return results
        if len({len(one) for one in rows}) > 1:
            return results
        rows = [one.cpu() for one in rows]
        with torch.no_grad():
            more = {"layer_cka_matrix": cka_matrix(rows)}
            if any("layer_overlap" in one.values for one in results):
                with contextlib.suppress(Undefined):
                    more["layer_overlap_matrix"] = overlap_matrix(rows)
            if any("layer_readout" in one.values for one in results):
                with contextlib.suppress(Undefined):  # the curves say so
                    more["layer_readouts"] = torch.stack([readouts(one, rows[-1]) for one in rows])
        first = results[0]
        return [replace(first, curves={**first.curves, **more}), *results[1:]]
