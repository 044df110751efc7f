"""Where the same rows lie in the plane, window after window: kept in the history, shown by the report with a slider."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.history.checked import finite, items, mapping, name_of, whole
from lightning_featgeo.types import Tensor

FINENESS = 1000  # steps from the middle to the farthest point: finer than a screen


@dataclass(frozen=True)
class Layout:
    """The first two principal components of some rows of one window.

    ``stage``, ``layer``: as in the record. ``share``: of the rows' variance, what these two have, from 0 to 1.
    ``unit``: one step of ``points``, which are x and y of each row in turn, from the rows' mean. ``samples``,
    ``labels``: whose rows they are, and their classes; −1 where there is none. ``names``: the user's names of samples,
    by number, of those that no earlier layout has named.
    """

    stage: str
    layer: str | None
    epoch: float
    share: float
    unit: float
    points: Sequence[int]
    samples: Sequence[int]
    labels: Sequence[int]
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, stage: str, layer: str | None, epoch: float, share: float, points: Tensor, samples: Tensor,
        labels: Tensor, names: Mapping[str, str],
    ) -> Layout:  # fmt: skip
        """Of (m, 2) finite points, rounded."""
        unit = float(points.abs().max()) / FINENESS or 1.0 if points.numel() else 1.0
        steps = (points / unit).round().long().flatten().tolist()
        return cls(
            stage, layer, epoch, round(share, 4), float(f"{unit:.6g}"), array("h", steps),
            array("q", samples.tolist()), array("q", labels.tolist()), dict(names),
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists; :meth:`checked` reads them back."""
        return {
            "stage": self.stage,
            "layer": self.layer,
            "epoch": self.epoch,
            "share": self.share,
            "unit": self.unit,
            "points": list(self.points),
            "samples": list(self.samples),
            "labels": list(self.labels),
            "names": dict(self.names),
        }

    @classmethod
    def checked(cls, given: Any) -> Layout:
        """One of a file or checkpoint that may come from anywhere.

        Raises:
            Exception: of those that ``History.load`` takes for a line that can't be read.
        """
        found = mapping(given)
        points, samples, labels = (
            array(kind, map(whole, items(found[name])))
            for kind, name in (("h", "points"), ("q", "samples"), ("q", "labels"))
        )
        if not len(points) == 2 * len(samples) == 2 * len(labels):
            raise ValueError(f"{len(points)} coordinates of {len(samples)} rows with {len(labels)} labels")
        return cls(
            name_of(found["stage"]), None if found["layer"] is None else name_of(found["layer"]),
            finite(found["epoch"]), finite(found["share"]), finite(found["unit"]), points, samples, labels,
            {str(whole(int(key))): name_of(value) for key, value in mapping(found.get("names", {})).items()},
        )  # fmt: skip

    @property
    def plane(self) -> Tensor:
        """(m, 2) points."""
        return torch.tensor(list(self.points), dtype=torch.float64).reshape(-1, 2) * self.unit


def is_due(windows: int) -> bool:
    """Whether a curve's n-th window has its layout, or how alike its layers are, kept.

    The first 31; one in 2, 4, 8, … from 32, 64, 128, … on.
    """
    return windows % (1 << max(0, windows.bit_length() - 5)) == 0


def principal(rows: Tensor, most: int) -> Tensor:
    """(m, ≤ most) principal components of (m, d) rows, the largest first."""
    centred = rows.double() - rows.double().mean(dim=0)
    if len(rows) < rows.shape[1]:  # of the smaller side: 0.2 s for 3 s of a decomposition of 1000 x 4096
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        return (vectors * values.clamp(min=0).sqrt()).flip(1)[:, :most]
    return centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :most]


def aligned(rows: Tensor, samples: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
    """(m, 2) principal components of the rows, turned so that samples seen before lie as near as they can to where
    they were (orthogonal Procrustes): axes that flip between epochs would look like movement.

    Args:
        rows: (m, d).
        samples: (m,) whose they are.
        before: the layout and samples of the window before.
    """
    points = principal(rows, 2)
    if points.shape[1] < 2:
        points = torch.cat([points, points.new_zeros(len(points), 2 - points.shape[1])], dim=1)
    if before is None:
        return points
    earlier = {int(sample): i for i, sample in enumerate(before[1])}
    pairs = [(i, earlier[int(sample)]) for i, sample in enumerate(samples) if int(sample) in earlier]
    if len(pairs) < 3:
        return points
    now, then = torch.tensor(pairs).unbind(1)
    u, _, wt = torch.linalg.svd(points[now].T @ before[0][then])
    return points @ (u @ wt)
