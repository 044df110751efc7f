"""State of a GeometryMetric: saved, restored and folded together, with its settings compared first."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from torchmetrics import Metric

from lightning_featgeo import _compat
from lightning_featgeo.distributed.ranks import RankFailure, Ranks
from lightning_featgeo.errors import Gap
from lightning_featgeo.metrics.accumulators.bank import BankAccumulator
from lightning_featgeo.metrics.accumulators.base import Accumulator
from lightning_featgeo.metrics.accumulators.histograms import HistogramAccumulator
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.earlier import NOTHING, Earlier, Kept
from lightning_featgeo.metrics.settings import Neighbors
from lightning_featgeo.rows.rows import Rows, build_rows
from lightning_featgeo.rows.waiting import ON_A_GPU, PlainRows, Waiting, joined
from lightning_featgeo.types import Tensor

_TILES = 96 * 2**20  # bytes of products and of pairs of points, at a time
M = TypeVar("M", bound="Mergeable")


class Mergeable(Metric):
    """What a GeometryMetric does with its own state, as opposed to rows."""

    signals: tuple[str, ...] | None  # None: "auto", before the first batch
    num_classes: int | None
    neighbors: Neighbors
    dim: int | None
    has_reference: bool
    _waiting: Waiting
    _begun: bool  # a batch of this window was added
    _lost: bool  # rows were only partly added
    spectrum_rows: int | Literal["auto", "all"]
    spectrum_limit: int | None
    _counters: dict[str, Tensor]
    _arrived: int
    _earlier: Earlier
    _latest: Earlier | None
    unlabelled = ""  # why rows were given no label, as their owner knows

    @property
    def _made(self) -> torch.nn.ModuleDict:
        """The accumulators as they are."""
        made = self.__dict__["_modules"]["accumulators"]
        assert isinstance(made, torch.nn.ModuleDict)
        return made

    @property
    def accumulators(self) -> torch.nn.ModuleDict:
        """States by name, with all rows that have come."""
        self.catch_up()
        return self._made

    @abstractmethod
    def catch_up(self) -> None:
        """Add the rows that wait."""

    @abstractmethod
    def update_rows(self, rows: Rows | PlainRows, present: frozenset[str], owned: bool = True) -> None:
        """Add rows."""

    def across(self: M, ranks: Ranks, failure: Gap | None = None, keep: bool = True) -> M:
        """This metric as if it had seen the rows of all ranks, by one sequence of collectives that is the same on all.

        Ranks without rows take part. Banks are merged by their priorities, so that every rank ends with the same rows:
        those that one process would have kept.

        Args:
            ranks: all of them call this, for the same metric.
            failure: why this rank has nothing to give; then no rank gets anything.
            keep: go on afterwards with this rank's rows. Else this metric itself changes, and needs less memory.

        Raises:
            RankFailure: on all ranks, if one has failed, or if they disagree about signals, dimension or classes.
        """
        settings = None if self.dim is None else (self.dim, self._settings())
        counts = {name: int(counter) for name, counter in self._counters.items()}
        heard = ranks.gather((failure, settings, counts))
        told = {rank: gap for rank, (gap, _, _) in enumerate(heard) if gap is not None}
        if told:
            raise RankFailure.of(told if ranks.several else failure)
        known = [mine for _, mine, _ in heard if mine is not None]
        if not ranks.several or not known:
            return self
        dim, agreed = known[0]
        if any(mine != (dim, agreed) for mine in known):
            raise RankFailure(f"ranks watch different things: {'; '.join(dict.fromkeys(map(str, known)))}")
        target = self.twin() if keep else self
        ranks.attempt(lambda: target._rebuild({"dim": dim, "settings": agreed}) if self.dim is None else None)
        for name in sorted(target.accumulators):
            accumulator = target.accumulators[name]
            assert isinstance(accumulator, Accumulator)
            shared = self.dim is not None or name == "voters"  # with the metric that goes on
            target.accumulators[name] = accumulator.across(ranks, keep and shared)
        for name, counter in target._counters.items():
            values = [counts[name] for _, _, counts in heard if name in counts]
            counter.fill_(max(values) if name == "largest_label" else sum(values))
        return target

    def twin(self: M, owned: bool = False) -> M:
        """A metric of the same settings that shares no state tensor which merging replaces; ``owned``: none at all."""
        twin, made = copy.copy(self), dict(self.accumulators)
        made = copy.deepcopy(made) if owned else made
        twin.__dict__["_modules"] = {"accumulators": torch.nn.ModuleDict(made)}
        twin._waiting = Waiting(self._waiting.limit)
        twin._counters = {name: counter.clone() for name, counter in self._counters.items()}
        return twin

    def each_accumulator(self) -> list[Accumulator]:
        """Those that run: none before the first batch. Rows may wait to be added to them."""
        return [a for a in self._made.values() if isinstance(a, Accumulator)]

    @property
    def bank(self) -> BankAccumulator | None:
        """The kept rows, with all that have come; None before the first batch, or if no signal reads them."""
        self.catch_up()
        return self._bank_as_is

    @property
    def bank_size(self) -> int | None:
        """Rows that the bank can keep; None before the first batch, or if there is none."""
        bank = self._bank_as_is
        return None if bank is None else bank.capacity

    @property
    def _bank_as_is(self) -> BankAccumulator | None:
        found = dict(self._made).get("bank")
        return found if isinstance(found, BankAccumulator) else None

    @property
    def memory_bytes(self) -> int:
        """Bytes of all accumulators: 0 before the first batch, fixed after it."""
        tables, bank = 0, self._bank_as_is
        if "neighbor_churn" in (self.signals or ()) and bank is not None:
            tables = 2 * 8 * bank.capacity * (self.neighbors.k + 1)  # who is whose neighbour, now and before
        if bank is not None:
            tables += len(self.kept_windows) * (bank.rows.numel() * bank.rows.element_size() + 8 * bank.capacity)
        if isinstance(histograms := dict(self._made).get("histograms"), HistogramAccumulator):
            past = any("past" in CATALOG[name].requires for name in self.signals or ())
            tables += 2 * histograms.memory_bytes * past  # those of the window before and of the first
        on_a_gpu = self.device.type == "cuda"
        waiting = self._waiting.limit * (ON_A_GPU if on_a_gpu else 1) if self.dim is not None else 0
        return sum(a.memory_bytes for a in self.each_accumulator()) + 8 * len(self._counters) + tables + waiting

    @property
    def kept_windows(self) -> frozenset[str]:
        """Of which windows rows are kept, as far as a signal reads them: "previous", "first"; "layer": this one."""
        read = frozenset[str]().union(*(CATALOG[name].requires for name in self.signals or ()))
        found = frozenset(need.removeprefix("earlier.") for need in read if need.startswith("earlier."))
        return found | {"previous"} if "best" in found else found  # which may turn out to be the best

    def beside(self, kept: Kept | None) -> None:
        """Take the rows of the layer before, in this window; those of this one are in ``earlier.own`` afterwards."""
        self._earlier = self._earlier.beside(kept)
        self._latest = None if self._latest is None else self._latest.beside(kept)

    def anchored(self, kept: Kept | None, why_not: str = "") -> None:
        """Take rows from outside of the run, which this window's are compared with; None: there are none, and why."""
        self._earlier = self._earlier.anchored(kept, why_not)
        self._latest = None if self._latest is None else self._latest.anchored(kept, why_not)

    def go_on_from(self, computed: Mergeable) -> None:
        """The window before was computed by another metric (see ``snapshot``): the next one is compared with it."""
        self._earlier, self._latest = computed._latest or computed._earlier, None

    def last_was_best(self) -> None:
        """The window that was computed last is the best so far: later ones are compared with it, too."""
        self._earlier = self._earlier.last_was_best()
        self._latest = None if self._latest is None else self._latest.last_was_best()

    @property
    def closing_bytes(self) -> int:
        """Peak extra bytes when a window closes: decompositions, class means, tables of neighbours."""
        moments, bank = dict(self._made).get("moments"), self._bank_as_is
        total = points = 0
        if isinstance(moments, MomentsAccumulator):
            total += 32 * moments.dim * (moments.dim * bool(len(moments.scatter)) + 2 * len(moments.counts))
            points = moments.num_classes
        if bank is not None:
            total += bank.capacity * (16 * bank.rows.shape[1] + 32 * (self.neighbors.k + self.neighbors.knn_k))
            total += 16 * min(bank.capacity, self.spectrum_limit or 0) ** 2
            total += len(self.kept_windows) * (
                32 * bank.rows.numel() + 24 * bank.rows.shape[1] ** 2
            )  # pairs, in float64
            points = max(points, bank.capacity)
        return total + min(_TILES, 64 * points**2)

    def sync_bytes(self, size: int, keep: bool = False) -> int:
        """Peak extra bytes while ``size`` processes merge their states; ``keep``: and go on with their own rows."""
        copies = sum(a.memory_bytes for a in self.each_accumulator()) if keep else 0
        return copies + max((a.sync_bytes(size) for a in self.each_accumulator()), default=0)

    @abstractmethod
    def _build(self, rows: Rows, present: frozenset[str]) -> None:
        """Make the accumulators for rows like these."""

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Fold another GeometryMetric, or its :meth:`checkpoint`, into this one, as if it had seen those rows too.

        Rows should carry global sample indices when the parts are merged: arrival numbers repeat between parts.

        Raises:
            ValueError: if signals, dimension, classes, bank size or seed differ.
        """
        if "voters" in self._made:
            raise ValueError("merge_state: a vote is under way (votes_on), and rows that are merged have no vote in it")
        other = incoming_state.checkpoint() if isinstance(incoming_state, Mergeable) else incoming_state
        if not isinstance(other, dict) or "settings" not in other:
            raise ValueError("merge_state takes a GeometryMetric or what its checkpoint() returned")
        if other["dim"] is None:
            return
        if self.dim is None:
            self._rebuild(other)
        if self._settings() != other["settings"] or self.dim != other["dim"]:
            raise ValueError(
                f"cannot merge: here {self._settings()}, dim {self.dim}; there {other['settings']}, dim {other['dim']}"
            )
        if self._begun:  # two that have seen rows: what waits here comes first
            self.catch_up()
        for name, states in other["accumulators"].items():
            accumulator = self._made[name]
            if isinstance(accumulator, Accumulator):
                accumulator.merge_state(states)
        for name, value in other["counters"].items():
            mine = self._counters[name]
            self._counters[name] = max(mine, value.to(mine)) if name == "largest_label" else mine + value.to(mine)
        self._begun = self._begun or bool(other.get("begun", True))
        self._lost = self._lost or bool(other.get("lost", False))
        if other.get("waiting") is not None:
            rows = Rows(**{name: column.to(self.device) for name, column in other["waiting"].items()})
            self.update_rows(rows, frozenset(), owned=False)
        self._arrived += other["arrived"]
        if self._earlier is NOTHING and other.get("earlier"):
            self._earlier = Earlier.of(other["earlier"])
        _compat.has_updates(self)

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on later: plain tensors, lists and numbers, loadable with ``weights_only=True``."""
        if "voters" in self._made:
            raise ValueError("checkpoint: a vote is under way (votes_on) and can't be saved; call reset() after it")
        waiting = joined(self._waiting.batches) if self._waiting.batches else None
        return {
            "settings": self._settings(),
            "dim": self.dim,
            "arrived": self._arrived,
            "earlier": self._earlier.state(),
            "begun": self._begun,
            "lost": self._lost,
            "waiting": None if waiting is None else {name: column.clone() for name, column in vars(waiting).items()},
            "counters": {name: c.clone() for name, c in self._counters.items()},
            "accumulators": {
                name: {key: state.clone() for key, state in a.metric_state.items() if isinstance(state, Tensor)}
                for name, a in zip(self._made, self.each_accumulator(), strict=True)
            },
        }

    def _settings(self) -> dict[str, Any]:
        """What must be equal where rows are merged."""
        bank = self._bank_as_is
        return {
            "signals": list(self.signals or ()),
            "num_classes": self.num_classes,
            "bank_size": self.neighbors.bank_size,
            "seed": self.neighbors.seed,
            "spectrum_rows": self.spectrum_rows,
            "accumulators": sorted(set(self._made) - {"voters"}),
            "dtype": str(bank.rows.dtype) if bank is not None else "",
            "target_dim": bank.targets.shape[1] if bank is not None else 0,
            "target_dtype": str(bank.targets.dtype) if bank is not None else "",
        }

    def _rebuild(self, saved: Mapping[str, Any]) -> None:
        """Accumulators like those of a checkpoint, before any row was seen here."""
        signals = tuple(saved["settings"]["signals"])
        if self.signals is not None and not set(signals) <= set(self.signals):
            signals = self.signals  # of another metric: the comparison of settings will say so
        self.signals = signals
        double = saved["settings"]["dtype"] == "torch.float64"
        empty = torch.zeros(0, saved["dim"], dtype=torch.float64 if double else torch.float32, device=self.device)
        double = saved["settings"]["target_dtype"] == "torch.float64"
        kind = torch.float64 if double else torch.float32
        targets = torch.zeros(0, saved["settings"]["target_dim"], dtype=kind, device=self.device)
        requires = frozenset[str]().union(*(CATALOG[s].requires for s in signals))
        self.has_reference = self.has_reference or "reference" in requires
        with torch.inference_mode(False):
            self._build(build_rows(empty, targets=targets), requires)
