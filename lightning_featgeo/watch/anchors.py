"""What windows are compared with from outside of their run: rows of a file, or what a frozen model makes of a batch.

Both are an :class:`Anchor`. A window gives its samples' numbers, and each layer is handed the rows before it is
evaluated; only rank 0, which evaluates, needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import ConfigurationError, Gap, explain
from lightning_featgeo.metrics.accumulators.bank import BankAccumulator
from lightning_featgeo.metrics.earlier import Kept
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.metrics.plan import NOT_PAIRED
from lightning_featgeo.rows.batches import batch_size
from lightning_featgeo.rows.rows import build_rows
from lightning_featgeo.types import Tensor
from lightning_featgeo.watch.plan import WindowPlan

TOO_FEW = "the anchor gave {} rows for a batch of {} samples"


class Anchor:
    """Rows from outside of the run, for the windows of one loader."""

    def open(self, plan: WindowPlan) -> None:
        """A window begins."""

    def look(self, batch: Any) -> None:
        """At a batch, before the step changes it."""

    def add(
        self, first: int, samples: int, ranks: Ranks, fresh: int | None, numbers: Tensor | None,
        metrics: list[GeometryMetric],
    ) -> None:  # fmt: skip
        """The batch was streamed into the metrics: its samples are numbered like this (see ``Window.add``)."""

    def meet(self, ranks: Ranks) -> None:
        """All rows have come; all ranks call this."""
        raise NotImplementedError  # each kind of anchor has its own; windows are given no other

    def give(self, index: int, metric: GeometryMetric) -> None:
        """Hand the rows to the metric of a layer, or the reason why there are none."""
        raise NotImplementedError  # as above

    def take(self, index: int, metric: GeometryMetric) -> None:
        """After the layer was evaluated: nobody holds the rows until the next window."""
        metric.anchored(None)

    @property
    def memory_bytes(self) -> int:
        """Of the rows that are held."""
        return 0


class FileAnchor(Anchor):
    """Rows that were computed before the run.

    Args:
        name: of the file, for messages.
        read: index of a layer -> its rows. They are read when they are first needed, and then only those are held whose
            samples are in the bank.
        has_ids: whether samples have the user's ids, not their places in the loader; None: nobody knows.
    """

    def __init__(self, name: str, read: Callable[[int], Kept], has_ids: bool | None) -> None:
        self.name, self._read, self.has_ids = name, read, has_ids
        self._held: dict[int, Kept] = {}
        self._why_not, self._evaluates = "", True

    def open(self, plan: WindowPlan) -> None:
        """Only with samples that are known can rows be found again."""
        self._why_not = ""
        if not plan.keeps_samples:
            self._why_not = NOT_PAIRED
        elif plan.pairs_by_id and self.has_ids is False:
            self._why_not = f"{self.name} has no ids, and this loader is not read in order: store them in it as 'ids'"
        elif self.has_ids and not plan.pairs_by_id:
            self._why_not = f"{self.name} has ids, and samples are numbered by their places here: leave them out of it"

    def meet(self, ranks: Ranks) -> None:
        """Nothing is to be merged."""
        self._evaluates = ranks.rank == 0

    def give(self, index: int, metric: GeometryMetric) -> None:
        """Those of the file."""
        if self._why_not or not self._evaluates:
            metric.anchored(None, self._why_not)
            return
        try:
            kept = self._held[index] if index in self._held else self._read(index)
        except Exception as error:
            metric.anchored(None, f"{self.name} can't be read: {explain(error)}")
        else:
            metric.anchored(kept)

    def take(self, index: int, metric: GeometryMetric) -> None:
        """From now on, only the rows of the bank's samples are needed."""
        kept = metric.earlier.rows.get("anchor")
        if kept is not None:
            self._held[index] = kept
        super().take(index, metric)

    @property
    def memory_bytes(self) -> int:
        """Of the rows that are held."""
        return sum(one.rows.numel() * one.rows.element_size() for one in self._held.values())


class ModelAnchor(Anchor):
    """What a model that is not trained makes of the same batches.

    Where samples are the same in every window, it runs in the first one only.

    Args:
        features_of: a batch -> (samples, e) features, without gradient, leaving no trace.
    """

    def __init__(self, features_of: Callable[[Any], Any]) -> None:
        self._features_of = features_of
        self._features: Tensor | None = None
        self._bank: BankAccumulator | None = None
        self._kept: Kept | None = None
        self._why_not, self._keeps = "", False
        self.failed = ""

    def open(self, plan: WindowPlan) -> None:
        """Rows of the last window are over, unless its samples come again."""
        self._features, self._bank, self._why_not, self._keeps = None, None, "", plan.keeps_samples
        self.failed = ""
        if not self._keeps:
            self._kept = None

    def fail(self, gap: Gap) -> None:
        """This window has no such rows."""
        self.failed = str(gap)

    def look(self, batch: Any) -> None:
        """Run the model on a batch.

        Raises:
            ConfigurationError: if it gives something else than a matrix of features, a row a sample.
        """
        self._features = None
        if self._kept is None and not self.failed:
            features, size = _checked(self._features_of(batch)), batch_size(batch)
            if size is not None and len(features) != size:
                raise ConfigurationError(TOO_FEW.format(len(features), size))
            self._features = features

    def add(
        self, first: int, samples: int, ranks: Ranks, fresh: int | None, numbers: Tensor | None,
        metrics: list[GeometryMetric],
    ) -> None:  # fmt: skip
        """Keep the rows of those samples that the banks keep."""
        features, self._features = self._features, None
        capacity = max((metric.bank_size or 0 for metric in metrics), default=0)
        if features is None or not capacity:
            return
        if len(features) != samples:
            self.failed = TOO_FEW.format(len(features), samples)
            return
        if numbers is None:
            numbers = (first + torch.arange(samples)) * ranks.size + ranks.rank
        with torch.inference_mode(False), torch.no_grad():
            rows = build_rows(features[:fresh], sample_index=numbers[:fresh].to(features.device))
            if self._bank is None:
                seed, dtype = metrics[0].neighbors.seed, rows.features.dtype
                self._bank = BankAccumulator(features.shape[1], capacity, seed, dtype, features.device)
            self._bank.update(rows)

    def meet(self, ranks: Ranks) -> None:
        """Rows of all ranks together."""
        if self._kept is not None:
            return
        bank = self._bank
        mine = None if bank is None else (bank.rows.shape[1], bank.capacity, bank.seed, bank.rows.dtype)
        told = ranks.gather((self.failed, mine)) if ranks.several else [(self.failed, mine)]
        shapes = list(dict.fromkeys(shape for _, shape in told if shape is not None))
        self._why_not = next((why for why, _ in told if why), "")
        if not self._why_not and len(shapes) != 1:
            self._why_not = "the anchor has seen no batch" if not shapes else f"ranks have other anchors: {shapes}"
        if self._why_not:
            return
        own = ranks.attempt(lambda: bank or BankAccumulator(*shapes[0]))  # one that has seen no batch takes part
        merged = own.across(ranks, keep=False).compute()
        self._kept, self._bank = Kept(merged.rows, merged.samples, merged.labels), None

    def give(self, index: int, metric: GeometryMetric) -> None:
        """The same for every layer."""
        metric.anchored(self._kept, self._why_not)

    @property
    def memory_bytes(self) -> int:
        """Of the rows that are held."""
        if self._kept is not None:
            return self._kept.rows.numel() * self._kept.rows.element_size()
        return 0 if self._bank is None else self._bank.memory_bytes


def _checked(features: Any) -> Tensor:
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or not features.is_floating_point():
        shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ConfigurationError(
            f"the anchor must give (samples, dimensions) of floating point, and gave {shape}: take them out of it, as "
            "in Windows(anchor=lambda batch: model(batch[0]).last_hidden_state.mean(1))"
        )
    return features.detach()
