"""What stays of closed windows, so that later ones can be compared with them sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from lightning_featgeo.types import Tensor

HANDED_IN = ("layer", "anchor")  # rows that are no earlier window's: they come anew with each window


@dataclass(frozen=True)
class Kept:
    """(n, d) rows of a closed window's bank, (n,) their samples, and their labels (−1 where unknown).

    ``known``: numbers of all these rows that windows have computed, by name.
    """

    rows: Tensor
    samples: Tensor
    labels: Tensor
    known: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def of(self, samples: Tensor) -> Kept:
        """Those of these samples alone."""
        there = torch.isin(self.samples, samples.to(self.samples.device))
        return self if bool(there.all()) else Kept(self.rows[there], self.samples[there], self.labels[there])


@dataclass(frozen=True)
class Earlier:
    """Of the windows before: who was whose neighbour in the last one, and rows of the last, first and best one.

    ``neighbors``: (n, k) samples of each row's neighbours, and (n,) the rows' own. Only what some signal reads is kept.
    ``own``: rows of the window itself, for the layer that is watched next; ``rows["layer"]``: those of the layer
    before, in the same window. ``rows["anchor"]``: from outside of the run; ``no_anchor``: why there are none.
    ``sketches`` and ``histograms``: of the last and the first window's distribution, and of its units.
    ``is_late``: windows have closed of which nothing was kept (the run was resumed): what comes now is not the first.
    """

    neighbors: tuple[Tensor, Tensor] | None = None
    rows: Mapping[str, Kept] = field(default_factory=dict)  # "previous", "first", "best"; and those that are handed in
    is_late: bool = False
    own: Kept | None = None
    no_anchor: str = ""
    sketches: Mapping[str, Tensor] = field(default_factory=dict)  # "previous" and "first"
    histograms: Mapping[str, Tensor] = field(default_factory=dict)

    def then(self, neighbors: tuple[Tensor, Tensor] | None, kept: Kept | None, names: frozenset[str]) -> Earlier:
        """What stays when one more window has closed.

        Args:
            neighbors: in it, if they were searched.
            kept: its rows, if any signal reads them.
            names: "previous", "first", "best" and "layer", as far as they are read.
        """
        rows = {name: one for name, one in self.rows.items() if name not in HANDED_IN}
        if kept is not None:
            rows.update({"previous": kept} if names & {"previous", "best"} else {})
            rows.setdefault("first", kept) if "first" in names and not self.is_late else None
        own = kept if "layer" in names else None
        return replace(self, neighbors=neighbors or self.neighbors, rows=rows, own=own, no_anchor="")

    def sketched(self, sketch: Tensor | None) -> Earlier:
        """With the sketch of one more window that has closed; None: it has none."""
        return replace(self, sketches=self._with(self.sketches, sketch))

    def with_histograms(self, stacked: Tensor | None) -> Earlier:
        """With the units' histograms of one more window that has closed; None: it has none."""
        return replace(self, histograms=self._with(self.histograms, stacked))

    def _with(self, known: Mapping[str, Tensor], one: Tensor | None) -> Mapping[str, Tensor]:
        kept = {name: table for name, table in known.items() if name == "first"}
        if one is not None:
            kept["previous"] = one
            kept.setdefault("first", one) if not self.is_late else None
        return kept

    def beside(self, kept: Kept | None) -> Earlier:
        """With the rows of the layer before (None: without), and without its own, which that layer's next has had."""
        if kept is None and self.own is None and "layer" not in self.rows:
            return self
        rows = {name: one for name, one in self.rows.items() if name != "layer"}
        return replace(self, rows=rows if kept is None else {**rows, "layer": kept}, own=None)

    def last_was_best(self) -> Earlier:
        """The last window was the best of all so far, and is kept as that."""
        return replace(self, rows={**self.rows, "best": self.rows["previous"]}) if "previous" in self.rows else self

    def anchored(self, kept: Kept | None, why_not: str = "") -> Earlier:
        """With rows from outside of the run; None: without, and why."""
        rows = {name: one for name, one in self.rows.items() if name != "anchor"}
        return replace(self, rows=rows if kept is None else {**rows, "anchor": kept}, no_anchor=why_not)

    def state(self) -> dict[str, Any]:
        """Tensors in dicts and lists, on the CPU: for a checkpoint."""
        return {
            "neighbors": None if self.neighbors is None else [t.cpu() for t in self.neighbors],
            "rows": {
                name: [t.cpu() for t in (one.rows, one.samples, one.labels)]
                for name, one in self.rows.items()
                if name not in HANDED_IN
            },
            "is_late": self.is_late,
            "sketches": {name: sketch.cpu() for name, sketch in self.sketches.items()},
            "histograms": {name: table.cpu() for name, table in self.histograms.items()},
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Earlier:
        """From :meth:`state`.

        Raises:
            Exception: of any kind, if it is not one.
        """
        neighbors = state["neighbors"]
        if neighbors is not None:
            table, samples = neighbors
            _check(table, 2, torch.int64, samples)
            neighbors = (table, samples)
        rows = {}
        for name, (kept, samples, labels) in state["rows"].items():
            _check(kept, 2, None, samples)
            _check(labels, 1, torch.int64, samples)
            rows[str(name)] = Kept(kept, samples, labels)
        tables = [_tables(state.get(name, {})) for name in ("sketches", "histograms")]
        return cls(neighbors, rows, bool(state.get("is_late", False)), sketches=tables[0], histograms=tables[1])


def _tables(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    for table in state.values():
        if not isinstance(table, torch.Tensor) or table.ndim != 2 or not table.is_floating_point():
            raise TypeError(f"expected a table of numbers, got {table!r:.100}")
    return {str(name): table for name, table in state.items()}


def _check(table: Any, ndim: int, dtype: torch.dtype | None, samples: Any) -> None:
    for one, dimensions, kind in ((table, ndim, dtype), (samples, 1, torch.int64)):
        told = isinstance(one, torch.Tensor) and one.ndim == dimensions
        if not told or (one.dtype != kind if kind else not one.is_floating_point()):
            raise TypeError(f"expected rows or samples, got {one!r:.100}")
    if len(table) != len(samples):
        raise ValueError("a table of other rows")


NOTHING = Earlier()
