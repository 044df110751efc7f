"""Window statistics: what signals read, each computed at most once a window and only if asked for.

A statistic is a method marked ``@statistic(accumulators…)``; a catalogue row names the statistics its function
takes. From the marks follows which accumulators must run: nobody pays for a curve that isn't drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, cast

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.metrics import density, dimension
from lightning_featgeo.metrics.accumulator import state_device
from lightning_featgeo.metrics.bank import Bank, BankAccumulator
from lightning_featgeo.metrics.directions import DirectionAccumulator, Directions
from lightning_featgeo.metrics.moments import ClassMoments, Moments, MomentsAccumulator
from lightning_featgeo.metrics.spectrum import null_small_eigenvalues
from lightning_featgeo.metrics.units import UnitAccumulator, Units
from lightning_featgeo.types import Tensor, Undefined

_REQUIRES: dict[str, frozenset[str]] = {}


def statistic(*requires: str) -> Callable[[Callable[[Any], Any]], Any]:
    """Mark a method as a statistic that needs these accumulators (or "labels", "head")."""

    def mark(method: Callable[[Any], Any]) -> Any:
        _REQUIRES[method.__name__] = frozenset(requires)
        return cached_property(method)

    return mark


def required_by(needs: Iterable[str]) -> frozenset[str]:
    """What the named statistics require: accumulators, "scatter", "eigen", "labels", "head".

    Raises:
        KeyError: if a name is no statistic; the message lists those there are.
    """
    found: frozenset[str] = frozenset()
    for need in needs:
        if need not in _REQUIRES:
            raise KeyError(f"no statistic {need!r}; there are: {', '.join(sorted(_REQUIRES))}")
        found |= _REQUIRES[need]
    return found


_REQUIRES["dim"] = frozenset()  # a plain attribute: the feature dimension


class Statistics:
    """The frozen accumulators of one window, and what follows from them.

    Args:
        accumulators: by name ("moments", "directions", "units", "bank"); those that ran.
        dim: feature dimension.
        k: neighbours of the density and dimension signals.
        vote_k: neighbours of the class vote.
        head: the classifier, for its weight and bias.
        count: rows that counted.
        wanted: all statistics that will be asked for, so that one search can serve several.
    """

    def __init__(
        self,
        accumulators: Mapping[str, Any],
        dim: int,
        k: int,
        vote_k: int,
        head: torch.nn.Module | None = None,
        count: int = 0,
        wanted: frozenset[str] = frozenset(),
    ) -> None:
        self._count, self._wanted = count, wanted
        self._accumulators = accumulators
        self.dim, self.k, self.vote_k = dim, k, vote_k
        self._head = head

    def computed(self) -> frozenset[str]:
        """Statistics that some signal has asked for so far."""
        return frozenset(_REQUIRES.keys() & self.__dict__.keys())

    # --- frozen accumulators ---------------------------------------------------------------------------------

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

    @cached_property
    def _bank(self) -> Bank:
        return cast(BankAccumulator, self._accumulators["bank"]).compute()

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

    @statistic("moments", "scatter", "eigen")
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the centred covariance, descending, at most min(n−1, d); round-off is zero."""
        values = torch.linalg.eigvalsh(self.covariance)
        return null_small_eigenvalues(values, min(self._moments.count - 1, self.dim))

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
            raise Undefined(f"the head is an adapter ({type(self._head).__name__}); merge it to read its weight")
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise Undefined("no linear head is known; name it with head='path.of.the.classifier'")
        device = state_device(weight.device)  # float64 is not everywhere
        weight = weight.detach().to(device).double().flatten(1)
        bias = getattr(self._head, "bias", None)
        offset = bias.detach().to(device).double() if isinstance(bias, Tensor) else weight.new_zeros(len(weight))
        return weight, offset

    # --- neighbours ------------------------------------------------------------------------------------------

    @cached_property
    def _neighbors(self) -> tuple[Tensor, Tensor]:
        bank = self._bank
        return ops.knn(bank.rows, bank.rows, self.k, True, query_groups=bank.samples, reference_groups=bank.samples)

    @statistic("bank")
    def rows(self) -> Tensor:
        """(n, d) the bank's rows."""
        return self._bank.rows

    @statistic("bank")
    def neighbor_indices(self) -> Tensor:
        """(n, k) which rows of the bank those are; −1 where there are fewer."""
        return self._neighbors[1]

    @statistic("bank")
    def distances(self) -> Tensor:
        """(n, k) to the k nearest rows of other samples, ascending; inf where there are fewer."""
        return self._neighbors[0]

    @statistic("bank")
    def log_density(self) -> Tensor:
        """Per-point log density of the rows that have one, in nats."""
        return density.log_densities(self.distances, self.dim)

    @statistic("bank")
    def local_dimension(self) -> Tensor:
        """Per-point intrinsic dimension of the rows that have one."""
        return dimension.local_dimensions(self.distances)

    def _unit(self, mask: Tensor) -> Tensor:
        rows = self._bank.rows[mask].double()
        return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)

    @statistic("bank")
    def unit_rows(self) -> Tensor:
        """(n, d) the bank's rows that are not zero, L2-normalised."""
        return self._unit(self._has_direction)

    @statistic("bank", "labels")
    def unit_labelled_rows(self) -> Tensor:
        """(n, d) those of them that have a label."""
        return self._unit(self._voters)

    def _cosine(self, mask: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        unit = self._unit(mask)
        groups = self._bank.samples[mask]
        return ops.knn_with_kernel(
            unit,
            unit,
            k,
            True,
            query_groups=groups,
            reference_groups=groups,
            kernel_scale=density.UNIFORMITY_SCALE,
        )

    @cached_property
    def _has_direction(self) -> Tensor:
        return (self._bank.rows != 0).any(dim=1)

    @cached_property
    def _voters(self) -> Tensor:
        return self._has_direction & (self._bank.labels >= 0)

    @cached_property
    def _vote(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k = max(1, min(self.vote_k, int(self._voters.sum()) - 1))
        return self._cosine(self._voters, k)

    @cached_property
    def _kernel(self) -> tuple[Tensor, Tensor]:
        same_rows = "vote_labels" in self._wanted and torch.equal(self._voters, self._has_direction)
        _, _, sums, counts = self._vote if same_rows else self._cosine(self._has_direction, 1)
        return sums, counts

    @statistic("bank", "labels")
    def vote_similarities(self) -> Tensor:
        """(n, k) cosine of each labelled row to its nearest labelled rows, descending; −inf where there are fewer."""
        return 1 - self._vote[0].square() / 2

    @statistic("bank", "labels")
    def vote_labels(self) -> Tensor:
        """(n, k) classes of those neighbours."""
        return self._bank.labels[self._voters][self._vote[1].clamp(min=0)]

    @statistic("bank", "labels")
    def row_labels(self) -> Tensor:
        """(n,) classes of the labelled rows that have a direction."""
        return self._bank.labels[self._voters]

    @statistic("bank", "labels")
    def labelled_rows(self) -> Tensor:
        """(n, d) the bank's labelled rows."""
        return self._bank.rows[self._bank.labels >= 0]

    @statistic("bank")
    def kernel_sums(self) -> Tensor:
        """(n,) Σ_j exp(−2‖x_i−x_j‖²) on L2-normalised rows of other samples."""
        return self._kernel[0]

    @statistic("bank")
    def kernel_counts(self) -> Tensor:
        """(n,) the number of terms in each."""
        return self._kernel[1]

    @statistic("bank")
    def duplicate_count(self) -> int:
        """Rows of the bank that lie exactly on a row of another sample."""
        return int((self.distances[:, 0] == 0).sum())
