"""What a window is of, what ranks tell each other of it, and what a closed one holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from lightning_featgeo.errors import Gap
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.geometry import GeometryMetric
from lightning_featgeo.types import Tensor


@dataclass(frozen=True)
class WindowPlan:
    """What a window is of, as its engine says when it opens one.

    Args:
        name: as in the logged names.
        stage: "train", "val" or "test"; in a loop of one's own, the name.
        number: of its loader in the stage.
        logged: whether it has a record; False: it only serves as a reference.
        reference: name of the window that it is compared with; None: nothing is compared.
        serves: signals of other windows whose reference this one is; () if it is none.
        positions: whether samples are numbered by their positions in the data set.
        keeps_samples: whether a sample is known to have the same number in every window.
        pairs_by_id: whether it has that number by the user's ids, and not by its place.
        several_loaders: whether a batch is made of batches of several loaders.
        every_n_batches: of its batches, one in so many is watched.
    """

    name: str
    stage: str
    number: int = 0
    logged: bool = True
    reference: str | None = None
    serves: tuple[str, ...] = ()
    positions: bool = False
    keeps_samples: bool = True
    pairs_by_id: bool = False
    several_loaders: bool = False
    every_n_batches: int = 1


class Compared(NamedTuple):
    """What a layer is compared with: the reference's metric, or why there is none."""

    metric: GeometryMetric | None = None
    why_not: str = ""


class Report(NamedTuple):
    """What one rank tells the others of its part of a window before it is closed; all of it is known by then."""

    batches: int
    repeats: int
    samples: int
    failed: Gap | None
    watched: bool
    drops_repeats: bool
    bound: int | None
    length: int | None
    needed: int | None


class ClosedWindow(NamedTuple):
    """A closed window of one layer.

    ``record``: its numbers. ``curves``: on rank 0, tensors by name (see ``metrics.evaluation``, ``metrics.details``).
    ``ids``: the user's names of samples, by number. ``positions``: whether a sample's number is its position in the
    data set. ``signals``: those that were chosen, in order. ``keeps_samples``: whether it is that of the same sample in
    every window.
    """

    record: Record
    curves: Mapping[str, Tensor]
    ids: Mapping[int, str]
    positions: bool
    signals: tuple[str, ...]
    keeps_samples: bool = True
