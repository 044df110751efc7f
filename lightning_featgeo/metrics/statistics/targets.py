"""Statistics of kept rows that have a regression target, or are mixtures of two samples."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.functional.mixtures import Mixtures
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.types import Tensor


class TargetStatistics:
    """Statistics that read the bank's targets."""

    _bank: Any
    distances: Any
    k: int

    @cached_property
    def _has_target(self) -> Tensor:
        known = self._bank.targets.isfinite().all(dim=1)
        if not bool(known.any()):
            raise Undefined("no row of the bank has a regression target", GapKind.NO_INPUT)
        return known

    @statistic("bank", "mixtures")
    def mixtures(self) -> Mixtures:
        """The bank's rows that are mixtures of two samples: ``.rows`` (n, d), their classes ``.first`` and ``.second``
        (n,) each, and ``.share`` (n,) of the first."""
        known = self._bank.targets.isfinite().all(dim=1)
        if not bool(known.any()):
            raise Undefined("no row of the bank is a mixture", GapKind.NO_INPUT)
        first, second, share = self._bank.targets[known].T
        return Mixtures(self._bank.rows[known], first.long(), second.long(), share.double())

    @statistic("bank", "targets")
    def rows_with_target(self) -> Tensor:
        """(n, d) the bank's rows that have a regression target."""
        return self._bank.rows[self._has_target]

    @statistic("bank", "targets")
    def targets(self) -> Tensor:
        """(n, t) their targets."""
        return self._bank.targets[self._has_target]

    @statistic("bank", "targets")
    def target_local_distances(self) -> Tensor:
        """(n, k) of the features, among the rows that have a target."""
        if bool(self._has_target.all()):
            return self.distances
        return self._neighbors_with_target(self.rows_with_target)

    @statistic("bank", "targets")
    def target_distances(self) -> Tensor:
        """(n, k) of the targets themselves, between the same rows."""
        return self._neighbors_with_target(self.targets)

    def _neighbors_with_target(self, points: Tensor) -> Tensor:
        groups = self._bank.samples[self._has_target]
        found, _ = ops.knn(points, points, self.k, True, query_groups=groups, reference_groups=groups)
        return found
