"""Statistics of streamed sums: moments, spectra, directions, units, classes, and the head they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import torch

from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.accumulators.base import state_device
from lightning_featgeo.metrics.accumulators.directions import DirectionAccumulator, Directions
from lightning_featgeo.metrics.accumulators.moments import ClassMoments, Moments, MomentsAccumulator
from lightning_featgeo.metrics.accumulators.units import UnitAccumulator, Units
from lightning_featgeo.metrics.functional.spectrum import null_small_eigenvalues
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.types import Tensor


class SumStatistics:
    """Statistics that need no bank of rows."""

    _accumulators: Mapping[str, Any]
    _head: torch.nn.Module | None
    _count: int
    _wanted: frozenset[str]
    dim: int

    @cached_property
    def _moments(self) -> Moments:
        return cast(MomentsAccumulator, self._accumulators["moments"]).compute()

    @cached_property
    def _classes(self) -> ClassMoments:
        return cast(MomentsAccumulator, self._accumulators["moments"]).compute_classes()

    @cached_property
    def _directions(self) -> Directions:
        return cast(DirectionAccumulator, self._accumulators["directions"]).compute()

    @cached_property
    def _units(self) -> Units:
        return cast(UnitAccumulator, self._accumulators["units"]).compute()

    @property
    def has_classes(self) -> bool:
        """Whether class moments were kept and a row had a label."""
        moments = self._accumulators.get("moments")
        return isinstance(moments, MomentsAccumulator) and moments.num_classes > 0 and bool(self.class_counts.any())

    @statistic()
    def sample_count(self) -> int:
        """Finite rows of the window."""
        return self._count

    # --- moments ---------------------------------------------------------------------------------------------

    @statistic("moments", "scatter")
    def mean(self) -> Tensor:
        """(d,) mean over rows."""
        return self._moments.mean

    @statistic("moments", "scatter")
    def covariance(self) -> Tensor:
        """Centred covariance (d, d), averaged over rows."""
        return self._moments.scatter / max(self._moments.count, 1)

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor | None]:
        if "principal_directions" in self._wanted:
            values, vectors = torch.linalg.eigh(self.covariance)
            return values, vectors
        return torch.linalg.eigvalsh(self.covariance), None

    @statistic("moments", "scatter", "eigen")
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the centred covariance, descending, at most min(n−1, d); round-off is zero."""
        return null_small_eigenvalues(self._decomposition[0], min(self._moments.count - 1, self.dim))

    @statistic("moments", "scatter", "eigen")
    def principal_directions(self) -> Tensor:
        """(d, d) eigenvectors of the centred covariance as columns, largest eigenvalue first."""
        vectors = self._decomposition[1]
        assert vectors is not None
        return vectors.flip(1)

    @statistic("moments", "scatter", "eigen")
    def second_moment_eigenvalues(self) -> Tensor:
        """Eigenvalues of the uncentred second moment, descending, min(n, d) of them."""
        mean = self._moments.mean
        values = torch.linalg.eigvalsh(self.covariance + mean[:, None] * mean[None, :])
        return null_small_eigenvalues(values, min(self._moments.count, self.dim))

    # --- directions and units --------------------------------------------------------------------------------

    @statistic("directions")
    def row_count(self) -> int:
        """Rows of the window."""
        return self._directions.count

    @statistic("directions")
    def nonzero_count(self) -> int:
        """Rows that are not zero."""
        return self._directions.nonzero

    @statistic("directions")
    def direction_sums(self) -> Tensor:
        """Σ x/‖x‖ per dimension."""
        return self._directions.sums

    @statistic("directions")
    def direction_squares(self) -> Tensor:
        """Σ (x/‖x‖)² per dimension."""
        return self._directions.squares

    @statistic("units")
    def unit_row_count(self) -> int:
        """Rows of the window, as the unit statistics saw them."""
        return self._units.count

    @statistic("units")
    def unit_active(self) -> Tensor:
        """Rows in which each unit was above zero."""
        return self._units.active

    @statistic("units", "extremes")
    def unit_minimum(self) -> Tensor:
        """(d,) smallest value of each unit in the window."""
        smallest = self._units.minimum
        assert smallest is not None
        return smallest

    @statistic("units", "extremes")
    def unit_maximum(self) -> Tensor:
        """(d,) largest value of each unit in the window."""
        largest = self._units.maximum
        assert largest is not None
        return largest

    # --- classes ---------------------------------------------------------------------------------------------

    @statistic("moments", "labels")
    def class_means(self) -> Tensor:
        """(C, d)."""
        return self._classes.means

    @statistic("moments", "labels")
    def class_counts(self) -> Tensor:
        """(C,) rows a class."""
        return self._classes.counts

    @statistic("moments", "labels")
    def class_variances(self) -> Tensor:
        """(C,) mean squared distance of a class's rows to its mean."""
        return self._classes.variances

    @statistic("moments", "scatter", "labels")
    def within_scatter(self) -> Tensor:
        """(d, d) Σ (x−μ_c)(x−μ_c)ᵀ over labelled rows."""
        return self._classes.within

    @statistic("head")
    def head_weight(self) -> Tensor:
        """(C, d) weight of the classifier as it is now."""
        return self._head_parameters[0]

    @statistic("head")
    def head_bias(self) -> Tensor:
        """(C,) bias of the classifier as it is now, zeros if it has none."""
        return self._head_parameters[1]

    @cached_property
    def _head_parameters(self) -> tuple[Tensor, Tensor]:
        weight = getattr(self._head, "weight", None)
        if hasattr(self._head, "base_layer"):
            raise Undefined(
                f"the head is an adapter ({type(self._head).__name__}); merge it to read its weight", GapKind.NO_INPUT
            )
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise Undefined("no linear head is known; name it with head='path.of.the.classifier'", GapKind.NO_INPUT)
        device = state_device(weight.device)  # float64 is not everywhere
        weight = weight.detach().to(device).double().flatten(1)
        bias = getattr(self._head, "bias", None)
        offset = bias.detach().to(device).double() if isinstance(bias, Tensor) else weight.new_zeros(len(weight))
        return weight, offset
