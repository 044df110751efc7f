"""GeometryMetric: accumulators and catalogue behind one ``torchmetrics.Metric``; no Lightning needed.

>>> metric = GeometryMetric(signals=["effective_rank", "id_two_nn"])
>>> for start in range(0, 300, 100):
...     metric.update(torch.sin(torch.arange(start, start + 100.0)[:, None] * torch.arange(1, 9)))
>>> sorted(metric.compute())
['effective_rank', 'id_two_nn', 'n_samples']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.distributed.sharding import whole_head
from lightning_featgeo.errors import ConfigurationError, Gap, GapKind, explain
from lightning_featgeo.metrics.catalog import CATALOG, Signal, Signals, named_signals, names, resolve
from lightning_featgeo.metrics.earlier import NOTHING, Earlier
from lightning_featgeo.metrics.evaluation import empty_window, evaluate, label_fault
from lightning_featgeo.metrics.plotting import plot_signals
from lightning_featgeo.metrics.results import WindowResult
from lightning_featgeo.metrics.settings import (
    USUAL_NEIGHBORS,
    USUAL_POLICY,
    Neighbors,
    Policy,
    check_spectrum_rows,
)
from lightning_featgeo.metrics.statistics.statistics import Statistics
from lightning_featgeo.metrics.streaming import Streaming
from lightning_featgeo.rows.waiting import Waiting
from lightning_featgeo.types import Tensor

_COUNTERS = ("seen", "nonfinite", "labelled", "out_of_range", "largest_label")


class GeometryMetric(Streaming):
    """Streams features, and computes the chosen signals of all rows seen since the last ``reset``.

    Args:
        signals: names, groups or presets (see ``catalog``), and functions of your own whose parameters name statistics.
            A name that can't be computed is an error at the first batch; a group's member that can't is left out
            (``left_out`` says why). "auto": the preset of the kind of run that the first batch tells (``preset`` says
            which, and why).
        num_classes: C, needed by class signals. Memory grows with it (C·d·12 bytes).
        head: the classifier module, read for its weight by ``nc3`` and ``nc4``; not registered as a submodule.
        neighbors: how neighbours are searched: ``Neighbors(k=10)``.
        has_reference: whether ``window(reference=…)`` will be given one. None: yes, if a signal or group that needs one
            is asked for by name.
        sync_on_compute: in a ``torch.distributed`` process group, results are those of all processes' rows: every
            process must then call ``compute`` or ``window``, and gets the same. False: of this process's rows alone.
        process_group: of those that see different data. None: all processes.
        serve: names of signals of other metrics whose reference this one will be: what they read of it is kept. If
            its own signals need a reference (and ``has_reference`` is None) they are meant.
        policy: what is an error and what a gap, and what a window brings besides numbers.
        earlier: what another metric's ``earlier`` gave: the first window is compared with it, sample by sample.
        spectrum_rows: what spectra (ranks, eigenvalues, ``nc1``) are of: "all" rows, by a d×d scatter (8·d² bytes,
            twice with classes; a close takes d³); or so many of the bank's rows, at least 2, without it. "auto": all
            up to 4,096 dimensions, 1,024 above. If no more rows than that come, they are of all rows either way.

    ``compute()`` returns the defined signals only: a name that is missing is a gap, and ``window()`` has the reason.
    Memory is fixed once the first batch has told the dimension: ``memory_bytes``.
    """

    full_state_update: bool = False
    is_differentiable: bool = False
    higher_is_better: bool | None = None

    def __init__(
        self,
        signals: Signals = "auto",
        num_classes: int | None = None,
        head: torch.nn.Module | None = None,
        neighbors: Neighbors = USUAL_NEIGHBORS,
        has_reference: bool | None = None,
        serve: Sequence[str] = (),
        sync_on_compute: bool = True,
        process_group: Any = None,
        policy: Policy = USUAL_POLICY,
        earlier: Earlier = NOTHING,
        spectrum_rows: int | Literal["auto", "all"] = "auto",
    ) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)  # merging is ours
        self.sync_on_compute, self.process_group = sync_on_compute, process_group
        if num_classes is not None and num_classes < 1:
            raise ConfigurationError(f"num_classes must be at least 1, got {num_classes}")
        signals = names(signals)
        self.signals: tuple[str, ...] | None = None if signals == "auto" else resolve(signals)
        self._named = named_signals(signals)
        self.left_out: dict[str, str] = {}
        self.preset: str | None = None  # what "auto" came to, and why
        self.num_classes, self.neighbors = num_classes, neighbors
        self.spectrum_rows, self.spectrum_limit = check_spectrum_rows(spectrum_rows), None
        self.has_reference = _asks_for_reference(signals) if has_reference is None else has_reference
        pair = has_reference is None and self.has_reference  # two metrics with the same signals can be compared
        self.serve = resolve(serve) if serve else (self.signals or ()) if pair else ()
        if policy.tolerated is None:
            policy = replace(policy, tolerated=frozenset() if has_reference is None else frozenset({"reference"}))
        # in a tuple: as attributes, modules would be registered and travel in the state_dict
        self._owner_says: tuple[Policy, torch.nn.Module | None] = policy, head
        self.impossible: dict[str, Gap] = {}
        self._modules["accumulators"] = torch.nn.ModuleDict()  # read by a property, which adds rows that wait
        self._waiting, self._begun = Waiting(policy.waiting_bytes), False
        self._reads_views, self._lost, self._target_width = False, False, None
        self.dim: int | None = None
        self._counters: dict[str, Tensor] = {}
        self._arrived = 0
        self._earlier, self._latest = earlier, None

    @property
    def policy(self) -> Policy:
        """What its owner has decided."""
        return self._owner_says[0]

    @property
    def head(self) -> torch.nn.Module | None:
        """The classifier."""
        return self._owner_says[1]

    def use_head(self, head: torch.nn.Module | None) -> None:
        """From now on, ``nc3`` and ``nc4`` read this classifier."""
        self._owner_says = self.policy, head

    @property
    def earlier(self) -> Earlier:
        """What the next window is compared with, sample by sample."""
        return self._latest or self._earlier

    # --- results ---------------------------------------------------------------------------------------------

    def compute(self) -> dict[str, Tensor]:
        """The defined signals as 0-d float64 tensors, and ``n_samples``."""
        values = self.window().values
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def window(
        self,
        reference: GeometryMetric | None = None,
        no_reference: str = "no reference was given",
        ranks: Ranks | None = None,
        last: bool = False,
        failure: Gap | None = None,
    ) -> WindowResult:
        """Values with standard errors, gaps with reasons, ceilings, counts and curves.

        With several processes every one of them must call this; all get the same numbers, and rank 0 the curves.

        Args:
            reference: another metric, whose rows those of this window are compared with: fidelity and
                out-of-distribution signals read it, and ``knn_accuracy`` votes from its labelled rows.
            no_reference: the reason to give in gaps where there is none.
            ranks: the processes to merge with; None: as ``sync_on_compute`` and ``process_group`` say.
            last: no more rows come before ``reset``: merging may take the memory of this rank's own.
            failure: why this rank's rows are no window: no rank gets one then.

        Raises:
            RankFailure: on all ranks, if one of them failed.
            BrokenGroup: if a process has died.
        """
        ranks = ranks or self._ranks()
        try:
            for part in (self,) if reference is None else (self, reference):
                part.complete()
        except Exception as error:
            if not ranks.several:  # else the others would wait
                raise
            failure = failure or Gap(GapKind.FAILED, f"rows could not be added: {explain(error)}")
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.state_device.type, enabled=False):
            merged = self.across(ranks, failure, keep=not last) if ranks.several or failure else self
            other = reference.across(ranks) if reference is not None and ranks.several else reference
            result = merged.evaluate(other, no_reference, ranks)
        self._latest = merged._latest
        if last and self._latest is not None:  # nobody asks again: the rows before the last ones can go
            self._earlier, self._latest = self._latest, None
        if self.signals is None:  # this rank has seen no row that could have told
            self.signals, self.left_out = merged.signals, merged.left_out
        return result

    def evaluate(self, reference: GeometryMetric | None, no_reference: str, ranks: Ranks) -> WindowResult:
        """:meth:`window` of a metric that holds the rows of all ranks: searched together, evaluated by rank 0."""
        counts = {name: int(counter) for name, counter in self._counters.items()}
        signals = self.signals or ()
        if self.dim is None or counts["seen"] == 0:
            reason = "no rows arrived" if self.dim is None else "every row was left out (NaN, Inf or padding)"
            return empty_window(signals, reason, counts)
        other = None if reference is None else reference._statistics()
        if reference is not None and other is None:
            no_reference = "the reference has seen no rows"
        head = self.head
        if head is not None and any("head" in row.requires for row in self.chosen):
            head = whole_head(head, self.policy.head_root)
        statistics = self._statistics(other, no_reference, head)
        assert statistics is not None
        if ranks.several:
            statistics.search_together(ranks)

        def on_first_rank() -> WindowResult | None:
            if ranks.rank > 0:
                return None
            result = evaluate(signals, statistics, counts, self.num_classes, self.policy.strict, self.policy.details)
            result = replace(result, gaps={**result.gaps, **self.impossible, **self._not_paired})
            if other is not None:
                result = replace(result, counts={**result.counts, "reference": other.sample_count})
            if any(row.requires & {"earlier", "layers", "anchor", "sketches", "past"} for row in self.chosen):
                self._latest = statistics.as_earlier(self.kept_windows)
            return result

        if not ranks.several and (alone := on_first_rank()) is not None:
            return alone
        result = ranks.attempt(on_first_rank)
        shared = ranks.share(None if result is None else replace(result, curves={}))
        final = shared if result is None else result
        assert final is not None
        return final

    def _ranks(self) -> Ranks:
        return Ranks(self.process_group) if self.sync_on_compute else Ranks.alone()

    def _statistics(
        self, reference: Statistics | None = None, no_reference: str = "", head: torch.nn.Module | None = None
    ) -> Statistics | None:
        """What the accumulators hold now; None before the first batch."""
        if self.dim is None:
            return None
        return Statistics(
            dict(self.accumulators),
            self.dim,
            self.neighbors.k,
            self.neighbors.knn_k,
            self.neighbors.knn_t,
            self.head if head is None else head,
            int(self._counters["seen"]),
            frozenset(need for row in self.chosen for need in row.needs),
            reference,
            no_reference,
            self.has_reference,
            self._earlier,
            self.spectrum_limit,
            label_fault(self._counters, self.num_classes, self.unlabelled),
            self.neighbors.reference_rows == "all",
        )

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw the signals, an axes each; returns the figure and the axes.

        Args:
            val: what ``compute()`` has returned, or a list of it, one a step. None: what it returns now.
            ax: matplotlib axes to draw into. None: new ones.

        Raises:
            ModuleNotFoundError: without matplotlib.
            ValueError: if there is no value.
        """
        return plot_signals(self.compute() if val is None else val, ax)

    # --- state -----------------------------------------------------------------------------------------------

    @property
    def chosen(self) -> tuple[Signal, ...]:
        """Catalogue rows of the chosen signals; empty until "auto" has seen a batch."""
        return tuple(CATALOG[name] for name in self.signals or ())

    @property
    def state_device(self) -> torch.device:
        """Where the accumulators are."""
        return next(iter(self._counters.values())).device if self._counters else torch.device("cpu")

    def reset(self) -> None:
        """Forget the rows, keep the configuration and the memory."""
        super().reset()
        self._waiting.forget()
        self._begun = self._lost = False
        self._arrived = 0
        self._earlier, self._latest = self._latest or self._earlier, None
        if "voters" in self._made:
            del self._made["voters"]
        for accumulator in self.each_accumulator():
            accumulator.reset()
        for counter in self._counters.values():
            counter.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        self.catch_up()
        self._counters = {name: c.to(fn(torch.empty(0, device=c.device)).device) for name, c in self._counters.items()}
        return super()._apply(fn, exclude_state)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Like :meth:`update`: the geometry of one batch alone would be another number, so none is returned."""
        self.update(*args, **kwargs)


def _asks_for_reference(signals: Signals) -> bool:
    """Whether a signal, or a group all of whose members need a reference, was asked for."""
    asked = names(signals)
    given = [asked] if isinstance(asked, str) else asked
    return any(all("reference" in CATALOG[name].requires for name in resolve(part)) for part in given if part != "auto")
