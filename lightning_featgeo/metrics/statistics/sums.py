"""Statistics of streamed sums: directions, units, classes, and the head they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.accumulators.base import state_device
from lightning_featgeo.metrics.accumulators.codes import CodeAccumulator, Codes
from lightning_featgeo.metrics.accumulators.directions import DirectionAccumulator, Directions
from lightning_featgeo.metrics.accumulators.histograms import HistogramAccumulator, Histograms
from lightning_featgeo.metrics.accumulators.moments import ClassMoments, Moments, MomentsAccumulator
from lightning_featgeo.metrics.accumulators.positions import PositionAccumulator, Positions
from lightning_featgeo.metrics.accumulators.units import UnitAccumulator, Units
from lightning_featgeo.metrics.functional.neural_collapse import MIN_ROWS
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.types import Tensor

MOST_CLASSES = 4096  # that are compared with each other: all pairs of them are looked at


class SumStatistics:
    """Statistics that need no bank of rows."""

    _accumulators: Mapping[str, Any]
    _head: torch.nn.Module | None
    _count: int
    _wanted: frozenset[str]
    dim: int

    @cached_property
    def _moments(self) -> Moments:
        moments = cast(MomentsAccumulator, self._accumulators["moments"])
        both = moments.num_classes > 0 and "within_scatter" in self._wanted and len(moments.scatter) > 0
        return moments.compute(self._classes.within if both else None)

    @cached_property
    def _classes(self) -> ClassMoments:
        return cast(MomentsAccumulator, self._accumulators["moments"]).compute_classes(self.classes_drawn)

    @cached_property
    def _directions(self) -> Directions:
        return cast(DirectionAccumulator, self._accumulators["directions"]).compute()

    @cached_property
    def _units(self) -> Units:
        return cast(UnitAccumulator, self._accumulators["units"]).compute()

    @cached_property
    def _codes(self) -> Codes:
        return cast(CodeAccumulator, self._accumulators["codes"]).compute()

    @property
    def has_classes(self) -> bool:
        """Whether class moments were kept and a row had a label."""
        moments = self._accumulators.get("moments")
        return (
            isinstance(moments, MomentsAccumulator) and moments.num_classes > 0 and bool(self._all_class_counts.any())
        )

    @statistic()
    def sample_count(self) -> int:
        """Finite rows of the window."""
        return self._count

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

    @statistic("codes")
    def code_counts(self) -> Tensor:
        """(d,) rows whose largest entry is this one: how often each code, prototype or expert is chosen."""
        return self._codes.counts

    @statistic("codes")
    def code_entropy(self) -> Tensor:
        """Σ over these rows of the entropy of their softmax, in nats."""
        return self._codes.entropy

    @statistic("positions", "places")
    def positions(self) -> Positions:
        """Sums of tokens by their position, and of sequences: ``.counts``, ``.sums``, ``.contexts``, …"""
        return cast(PositionAccumulator, self._accumulators["positions"]).compute()

    @statistic("histograms")
    def unit_histograms(self) -> Histograms:
        """(d, 64) ``.counts`` of each unit's values by bin, and their ``.sums``; ``.squares``: (d,) Σx²."""
        return cast(HistogramAccumulator, self._accumulators["histograms"]).compute()

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

    @cached_property
    def _all_class_counts(self) -> Tensor:
        return cast(MomentsAccumulator, self._accumulators["moments"]).class_counts()

    @cached_property
    def classes_drawn(self) -> Tensor | None:
        """(k,) ascending, which classes are compared with each other; None: all.

        Of more than 4,096, those that occur; and if these are more than 4,096 with two rows and more, so many of them,
        drawn by a hash of their index: the same ones wherever the same classes occur.
        """
        counts = self._all_class_counts
        if len(counts) <= MOST_CLASSES:
            return None
        there = (counts > 0).nonzero().squeeze(1)
        if len(there) > MOST_CLASSES:  # classes of one row are left out of everything anyway
            there = (counts >= MIN_ROWS).nonzero().squeeze(1)
        order = ops.hash_priority(there, 0).argsort(stable=True)
        return there[order[:MOST_CLASSES]].sort().values

    @property
    def classes_left_out(self) -> int:
        """Classes with two rows and more that are not compared."""
        drawn, counts = self.classes_drawn, self._all_class_counts
        return 0 if drawn is None else int((counts >= MIN_ROWS).sum()) - int((counts[drawn] >= MIN_ROWS).sum())

    def _need_all_classes(self, what: str) -> None:
        if len(self._all_class_counts) > MOST_CLASSES:
            raise Undefined(
                f"{what} all classes: up to {MOST_CLASSES:,}, there are {len(self._all_class_counts):,}",
                GapKind.NO_INPUT,
            )

    @statistic("moments", "labels")
    def class_share(self) -> float:
        """The share of the classes with two rows and more that are compared."""
        drawn = self.classes_drawn
        here = 0 if drawn is None else int((self._all_class_counts[drawn] >= MIN_ROWS).sum())
        return 1.0 if drawn is None or not here else here / (here + self.classes_left_out)

    @statistic("moments", "labels")
    def class_means(self) -> Tensor:
        """(C, d) mean of each class's rows."""
        return self._classes.means

    @statistic("moments", "labels")
    def class_counts(self) -> Tensor:
        """(C,) rows a class."""
        return self._classes.counts

    @statistic("moments", "labels")
    def class_variances(self) -> Tensor:
        """(C,) mean squared distance of a class's rows to its mean."""
        return self._classes.variances

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
        weight, offset = self.head_outputs
        drawn = self.classes_drawn
        if drawn is not None and len(weight) == len(self._all_class_counts):
            drawn = drawn.to(weight.device)
            weight, offset = weight[drawn], offset[drawn]
        return weight.double(), offset.double()

    @statistic("head")
    def head_outputs(self) -> tuple[Tensor, Tensor]:
        """(O, d) weight and (O,) bias of all the head's outputs, also where classes are drawn; in its own precision."""
        weight = getattr(self._head, "weight", None)
        if hasattr(self._head, "base_layer"):
            raise Undefined(
                f"the head is an adapter ({type(self._head).__name__}); merge it to read its weight", GapKind.NO_INPUT
            )
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise Undefined("no linear head is known; name it with head='path.of.the.classifier'", GapKind.NO_INPUT)
        device = state_device(weight.device)  # float64 is not everywhere
        weight = weight.detach().to(device).flatten(1)
        bias = getattr(self._head, "bias", None)
        offset = bias.detach().to(device) if isinstance(bias, Tensor) else weight.new_zeros(len(weight))
        return weight, offset
