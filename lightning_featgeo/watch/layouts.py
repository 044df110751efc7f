"""Layouts of closed windows: where the same rows lie in the plane, for the history and for loggers' pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from lightning_featgeo.history.history import History
from lightning_featgeo.history.layouts import Layout, aligned, is_due
from lightning_featgeo.history.record import Record
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.plan import ClosedWindow

MOST_ROWS = 1000  # that a layout can have
NO_ROWS = "{asked}: no chosen signal looks for neighbours (id_two_nn does), so no rows are kept that could be shown"
OTHER_ROWS = (
    "{asked}: {of} is shuffled, so that its windows hold other samples each time: the history has no layouts of them"
)


@dataclass
class _Latest:
    """Of one stage and layer: its last layout, and whether the history has it."""

    record: Record
    points: Tensor
    samples: Tensor
    layout: Layout
    waits: bool = False  # to be kept, if it stays the last one


class Layouts:
    """Puts rows into the plane, each window turned towards the one before.

    Args:
        history: keeps those of windows 1 to 31, then of one in 2, 4, 8, …, and of the last one.
        asked: the user's argument, as it is said in warnings: "embedding_rows=500".
        warn: says what can't be shown; of each sentence once.
        class_names: in the order of class indices, if the user has named them.
    """

    def __init__(
        self, history: History, asked: str, warn: Callable[[str], None], class_names: Sequence[str] | None = None
    ) -> None:
        self.history, self.asked, self.warn, self.class_names = history, asked, warn, class_names
        self._latest: dict[str, _Latest] = {}
        self._windows: dict[str, int] = {}
        self._named: set[str] = set()  # samples whose names the history has

    def add(self, closed: ClosedWindow) -> None:
        """A window that has just been closed: into the history, if it is due."""
        record, prefix = closed.record, closed.record.prefix
        if not record.values:  # a gap
            return
        if "shown_rows" not in closed.curves:
            self.warn(NO_ROWS.format(asked=self.asked))
        elif not closed.keeps_samples:  # a picture by itself
            self._latest[prefix] = self._place(closed, None)
        else:
            count = self._windows[prefix] = self._windows.get(prefix, self._so_far(record)) + 1
            latest = self._latest[prefix] = self._place(closed, self._before(record))
            latest.waits = True
            if is_due(count):
                self._keep(latest)

    def points(self, record: Record) -> Tensor | None:
        """(m, 2) where the window's rows lie, if it is the last one of its stage and layer."""
        latest = self._latest.get(record.prefix)
        return latest.points if latest is not None and latest.record is record else None

    def finish(self) -> None:
        """The run ends: the last windows, too."""
        for latest in self._latest.values():
            self._keep(latest)
        if self._latest and not self.history.layouts:
            self.warn(OTHER_ROWS.format(asked=self.asked, of=next(iter(self._latest)).rstrip("/")))

    def _so_far(self, record: Record) -> int:
        """Windows before this one, of a run that was resumed."""
        own = [one for one in self.history if (one.stage, one.layer) == (record.stage, record.layer)]
        return sum(one.window < record.window for one in own)

    def _keep(self, latest: _Latest) -> None:
        if latest.waits:
            latest.waits = False
            if self.class_names is not None:
                self.history.describe({"class_names": list(self.class_names)})
                self.class_names = None
            self.history.add_layout(latest.layout)

    def _place(self, closed: ClosedWindow, before: tuple[Tensor, Tensor] | None) -> _Latest:
        record, curves = closed.record, closed.curves
        rows, samples = curves["shown_rows"].double(), curves["shown_samples"]
        points = aligned(rows, samples, before)
        total = float((rows - rows.mean(dim=0)).square().sum())
        share = float(points.square().sum()) / total if total else 1.0
        return _Latest(
            record, points, samples,
            Layout.of(
                record.stage, record.layer, record.epoch, min(share, 1.0), points, samples, curves["shown_labels"],
                self._new_names(closed.ids, samples),
            ),
        )  # fmt: skip

    def _before(self, record: Record) -> tuple[Tensor, Tensor] | None:
        latest = self._latest.get(record.prefix)
        if latest is not None:
            return latest.points, latest.samples
        own = [one for one in self.history.layouts if (one.stage, one.layer) == (record.stage, record.layer)]
        return (own[-1].plane, torch.tensor(list(own[-1].samples))) if own else None  # of a run that was resumed

    def _new_names(self, ids: Mapping[int, str], samples: Tensor) -> dict[str, str]:
        shown = {str(sample): ids[sample] for sample in samples.tolist() if sample in ids}
        found = {sample: name for sample, name in shown.items() if sample not in self._named}
        self._named.update(found)
        return found
