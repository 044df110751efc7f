"""Window statistics: what signals read, each computed at most once a window and only if asked for.

A statistic is a method marked ``@statistic(what it needs…)``; a catalogue row names the statistics its function
takes. From the marks follows which accumulators must run: nobody pays for a curve that isn't drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_featgeo.metrics.earlier import NOTHING, Earlier
from lightning_featgeo.metrics.statistics.needs import known
from lightning_featgeo.metrics.statistics.over_time import TimeStatistics


class Statistics(TimeStatistics):
    """The frozen accumulators of one window, and what follows from them.

    Args:
        accumulators: by name ("moments", "directions", "units", "bank", "views"); those that ran.
        dim: feature dimension.
        k: neighbours of the density and dimension signals.
        knn_k, knn_t: neighbours of the class vote, and its temperature.
        head: the classifier, for its weight and bias.
        count: rows that counted.
        wanted: all statistics that will be asked for, so that one search serves them all; None: any may be.
        reference: statistics of the window to compare with.
        no_reference: why there is none.
        has_reference: whether there should be one: a vote is then from it or a gap.
        earlier: what is known of the windows before this one.
        all_vote: whether every row of the reference should have voted.
        label_fault: why no class can be told by its labels; "": it can.
        spectrum_limit: how many of the bank's rows spectra are taken from; None: from the scatter of all rows.
    """

    def __init__(
        self,
        accumulators: Mapping[str, Any],
        dim: int,
        k: int,
        knn_k: int,
        knn_t: float,
        head: torch.nn.Module | None = None,
        count: int = 0,
        wanted: frozenset[str] | None = None,
        reference: Statistics | None = None,
        no_reference: str = "no reference was given",
        has_reference: bool = False,
        earlier: Earlier = NOTHING,
        spectrum_limit: int | None = None,
        label_fault: str = "",
        all_vote: bool = False,
    ) -> None:
        self._accumulators = accumulators
        self.dim, self.k, self.knn_k, self.knn_t = dim, k, knn_k, knn_t
        self._head, self._count, self._reference = head, count, reference
        self._no_reference, self._has_reference, self._earlier = no_reference, has_reference, earlier
        self._spectrum_limit, self.label_fault, self._all_vote = spectrum_limit, label_fault, all_vote
        self._wanted = known() if wanted is None else wanted

    def computed(self) -> frozenset[str]:
        """What was asked for so far, by name: each is kept once it is known."""
        return frozenset(self.__dict__)
