"""Statistics of kept rows by themselves: what a head says of them, how far apart they are, and class by class."""

from __future__ import annotations

from typing import Any

from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.functional import activity, clusters, diffusion, retrieval, subspaces
from lightning_featgeo.metrics.functional.head_scores import HeadScores, scores_of
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.metrics.statistics.targets import TargetStatistics
from lightning_featgeo.types import Tensor


class HeadStatistics(TargetStatistics):
    """Statistics of kept rows that take no search."""

    dim: int
    head_outputs: Any
    labelled_rows: Any
    labelled_row_labels: Any
    _voters: Any

    @statistic("bank", "head", "labels")
    def head_scores(self) -> HeadScores:
        """(n,) each, of the head's outputs z for the bank's rows: ``.total`` ln Σ exp(z), ``.entropy`` of the softmax,
        and ``.margin``, the distance to the nearest decision boundary."""
        if not bool((self._bank.labels >= 0).any()):
            raise Undefined("no row has a class: nobody knows whether the head scores classes", GapKind.NO_INPUT)
        return self.head_scores_of_any

    @statistic("bank", "head")
    def head_scores_of_any(self) -> HeadScores:
        """The same, whether or not rows have classes."""
        return self._head_scores(self._bank.rows)

    def _head_scores(self, rows: Tensor) -> HeadScores:
        weight, bias = self.head_outputs
        if weight.shape[1] != self.dim:
            raise Undefined(f"the head takes {weight.shape[1]} dimensions, the features have {self.dim}")
        return scores_of(rows, weight, bias)

    @statistic("bank")
    def diffusion(self) -> diffusion.Diffusion:
        """(m, m) squared distances of at most 1,024 rows, ``.squares``, and the median of those that are not 0,
        ``.bandwidth``."""
        return diffusion.distances_of(self._bank.rows)

    @statistic("bank")
    def row_clusters(self) -> Tensor:
        """(m,) cluster of each of at most 1,024 rows, as HDBSCAN finds them; −1 for noise."""
        return clusters.clusters_of(self.diffusion)

    @statistic("bank", "labels", "groups")
    def row_groups(self) -> Tensor:
        """(n,) groups of the labelled rows that have a direction; −1 where unknown."""
        return self._bank.groups[self._voters]

    @statistic("bank", "groups")
    def group_hits(self) -> tuple[Tensor, Tensor]:
        """(q, 10) whether the nearest rows by cosine, of other samples, are of a row's group, and (q,) how many there
        could be: of the first 2,048 rows with a group, among all of them."""
        return retrieval.found_by_group(self._bank.rows, self._bank.samples, self._bank.groups)

    @statistic("bank", "labels")
    def class_ranks(self) -> Tensor:
        """(C,) effective rank of each class's rows in the bank (128 at most); NaN where two rows don't differ."""
        labels = self.labelled_row_labels
        return subspaces.class_ranks(self.labelled_rows, labels, int(labels.max()) + 1 if len(labels) else 0)

    @statistic("bank", "labels")
    def best_class_units(self) -> tuple[Tensor, Tensor]:
        """(C,) the unit that tells each class's rows best from others, −1 for none, and its AUROC: of the bank's first
        4,096 labelled rows."""
        labels = self.labelled_row_labels[: activity.RANKED_ROWS]
        return activity.best_units(
            self.labelled_rows[: activity.RANKED_ROWS], labels, int(labels.max()) + 1 if len(labels) else 0
        )
