"""Statistics of the banks: neighbours by distance and by angle, densities, views of one sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.cuda_ext.self_search import SelfNeighbors
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.accumulators.bank import Bank, BankAccumulator, ViewBankAccumulator, picked
from lightning_featgeo.metrics.functional import (
    coding,
    density,
    dimension,
    duplicates,
    retrieval,
    verification,
)
from lightning_featgeo.metrics.statistics import shared_search
from lightning_featgeo.metrics.statistics.head import HeadStatistics
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.types import Tensor

WORTH_SHARING = 2**34  # products of single numbers from which on a search is divided among ranks
BY_DISTANCE = frozenset(
    {"distances", "neighbor_indices", "neighbor_samples", "log_density", "local_dimension", "target_local_distances"}
)
BY_VOTE = frozenset({"vote_similarities", "vote_labels", "near_similarities", "near_labels"})
BY_ANGLE = BY_VOTE | {"kernel_sums", "kernel_squares", "kernel_counts"}
LEAST_NEAR = 10  # neighbours that retrieval looks at, also where fewer vote


class BankStatistics(HeadStatistics):
    """Statistics that read kept rows. All neighbour tables of a window come from one pass over tiles of products."""

    _accumulators: Mapping[str, Any]
    _wanted: frozenset[str]
    _need_all_classes: Callable[[str], None]
    dim: int
    k: int
    knn_k: int
    knn_t: float
    _whole_head: tuple[Tensor, Tensor]

    @cached_property
    def _bank(self) -> Bank:
        return cast(BankAccumulator, self._accumulators["bank"]).compute()

    @property
    def _votes_elsewhere(self) -> bool:
        """Whether a reference is voted from instead of this bank."""
        return False

    def search_together(self, ranks: Ranks) -> None:
        """Search neighbours with all ranks, each its share; only rank 0 has the tables afterwards.

        Raises:
            RankFailure: on all ranks, if one of them failed.
        """
        if not ranks.several or not (BY_DISTANCE | BY_ANGLE) & self._wanted or "bank" not in self._accumulators:
            return
        asked = ranks.attempt(lambda: self._search_arguments)
        if len(asked[0]) ** 2 * self.dim >= WORTH_SHARING:
            self.__dict__["_search"] = shared_search.self_neighbors(ranks, *asked)

    @cached_property
    def _search(self) -> SelfNeighbors:
        return ops.self_neighbors(*self._search_arguments)

    @property
    def _search_arguments(self) -> tuple[Tensor, int, Tensor, Tensor, int, float]:
        bank, wanted = self._bank, self._wanted
        votes = BY_VOTE & wanted and not self._votes_elsewhere
        return (
            bank.rows,
            self.k if BY_DISTANCE & wanted else 0,
            bank.samples,
            self._voters,
            self._vote_counts[1] if votes else 0,
            density.UNIFORMITY_SCALE if "kernel_counts" in wanted else 0.0,
        )

    @cached_property
    def _has_direction(self) -> Tensor:
        return self._bank.has_direction

    @cached_property
    def _voters(self) -> Tensor:
        return self._bank.can_vote

    def _vote_count(self, counts: Tensor, leaves_out: bool) -> int:
        """How many rows vote, of as many a class: k, or as many as a class has on average.

        More than a class has would be outvoted by the others, however near its rows are: where everybody votes and a
        row is left out, its own class is the smallest.
        """
        rows, classes = int(counts.sum()), int((counts > 0).sum())
        return max(1, min(self.knn_k, rows // max(classes, 1), rows - leaves_out))

    @property
    def _vote_counts(self) -> tuple[int, int]:
        """How many neighbours by angle vote, and how many are searched."""
        counts, leaves_out = self._voter_counts, not self._votes_elsewhere
        votes = self._vote_count(counts, leaves_out)
        if not {"near_similarities", "near_labels"} & self._wanted:
            return votes, votes
        return votes, max(votes, min(LEAST_NEAR, int(counts.sum()) - leaves_out))

    @property
    def _voter_counts(self) -> Tensor:
        """(C,) rows of each class that vote."""
        return torch.bincount(self.row_labels)

    # --- rows ------------------------------------------------------------------------------------------------

    @statistic("bank")
    def rows(self) -> Tensor:
        """(n, d) the bank's rows."""
        return self._bank.rows

    @statistic("bank")
    def unit_rows(self) -> Tensor:
        """(n, d) the bank's rows that are not zero, L2-normalised."""
        return self._bank.unit(self._has_direction)

    @statistic("bank", "labels")
    def unit_labelled_rows(self) -> Tensor:
        """(n, d) those of them that have a label."""
        return self._bank.unit(self._voters)

    @statistic("bank", "labels")
    def verification_pairs(self) -> verification.Pairs:
        """(p,) and (q,) cosines of pairs of one class, ``.within``, and of two, ``.between``, with their classes: of
        the first 1,024 of them."""
        three = (self.unit_labelled_rows, self.row_labels, self.row_samples)
        return verification.pairs_of(*(each[: verification.PAIRS] for each in three))

    @statistic("bank", "labels")
    def row_labels(self) -> Tensor:
        """(n,) classes of the labelled rows that have a direction."""
        return self._bank.labels[self._voters]

    @statistic("bank")
    def unit_coding_rate(self) -> Tensor:
        """R of the bank's rows that are not zero."""
        shared = "class_coding_rates" in self._wanted and bool(self._voters.any())
        if shared and torch.equal(self._voters, self._has_direction):
            return self.class_coding_rates[0]
        return coding.rate(self.unit_rows)

    @statistic("bank", "labels")
    def class_coding_rates(self) -> tuple[Tensor, Tensor]:
        """R of the labelled rows, and the average of their classes' R."""
        return coding.rates_by_class(self.unit_labelled_rows, self.row_labels)

    @statistic("bank", "labels")
    def row_samples(self) -> Tensor:
        """(n,) their samples."""
        return self._bank.samples[self._voters]

    @statistic("bank", "labels")
    def labelled_rows(self) -> Tensor:
        """(n, d) the bank's labelled rows."""
        return picked(self._bank.rows, self._bank.labels >= 0)

    @statistic("bank", "moments", "labels")
    def classified_rows(self) -> Tensor:
        """``labelled_rows``, where there are means of all classes to compare them with."""
        self._need_all_classes("rows are compared with the means of")
        return self.labelled_rows

    @statistic("bank", "labels")
    def labelled_row_labels(self) -> Tensor:
        """(n,) their classes."""
        return self._bank.labels[self._bank.labels >= 0]

    @statistic("views")
    def view_rows(self) -> Tensor:
        """(s, q, d) rows of the kept samples of which all q views are there."""
        return cast(ViewBankAccumulator, self._accumulators["views"]).compute()

    @statistic("views")
    def cosine_shares(self) -> Tensor:
        """(2, 64) shares of cosines in even bins over [−1, 1]: of a sample's two views, and of two samples."""
        return retrieval.pair_cosines(self.view_rows)

    # --- neighbours by distance ------------------------------------------------------------------------------

    @statistic("bank")
    def neighbor_indices(self) -> Tensor:
        """(n, k) which rows of the bank those are; −1 where there are fewer."""
        return self._search.indices

    @statistic("bank")
    def samples(self) -> Tensor:
        """(n,) the sample of each row of the bank."""
        return self._bank.samples

    @statistic("bank")
    def neighbor_samples(self) -> Tensor:
        """(n, k) the samples of each row's neighbours; −1 where there are fewer."""
        found = self.neighbor_indices
        return torch.where(found >= 0, self._bank.samples[found.clamp(min=0)], -1)

    @statistic("bank", "labels")
    def bank_labels(self) -> Tensor:
        """(n,) class of each row of the bank; −1 where unknown."""
        return self._bank.labels

    @statistic("bank", "groups")
    def bank_groups(self) -> Tensor:
        """(n,) group of each row of the bank; −1 where unknown."""
        return self._bank.groups

    @statistic("bank")
    def distances(self) -> Tensor:
        """(n, k) to the k nearest rows of other samples, ascending; inf where there are fewer."""
        return self._search.distances

    @statistic("bank")
    def log_density(self) -> Tensor:
        """Per-point log density of the rows that have one, in nats."""
        return density.log_densities(self.distances, self.dim)

    @statistic("bank")
    def local_dimension(self) -> Tensor:
        """Per-point intrinsic dimension of the rows that have one."""
        return dimension.local_dimensions(self.distances)

    @statistic("bank")
    def duplicate_count(self) -> int:
        """Rows of the bank that lie exactly on a row of another sample."""
        return int((self.distances[:, 0] == 0).sum())

    @statistic("bank")
    def near_duplicate_count(self) -> int:
        """Rows of the bank that lie almost on a row of another sample."""
        return int(duplicates.near_duplicates(self.distances).any(dim=1).sum())

    # --- neighbours by angle ---------------------------------------------------------------------------------

    @statistic("bank", "labels")
    def vote_similarities(self) -> Tensor:
        """(n, k) cosine of each labelled row to its nearest labelled rows, descending; −inf where there are fewer.

        Those rows are the reference's where there is one with labels, else the others of this bank.
        """
        return self._near[0][:, : self._vote_counts[0]]

    @statistic("bank", "labels")
    def vote_labels(self) -> Tensor:
        """(n, k) classes of those neighbours."""
        return self._near[1][:, : self._vote_counts[0]]

    @statistic("bank", "labels")
    def near_similarities(self) -> Tensor:
        """(n, m) as ``vote_similarities``, of at least 10 neighbours where there are so many."""
        return self._near[0]

    @statistic("bank", "labels")
    def near_labels(self) -> Tensor:
        """(n, m) classes of those neighbours."""
        return self._near[1]

    @cached_property
    def _near(self) -> tuple[Tensor, Tensor]:
        found = self._search
        if self.row_labels.numel() and int(self.row_labels.unique(return_counts=True)[1].max()) < 2:
            raise Undefined("no class has two labelled rows: nobody of a row's own class could vote")
        chords, voted = picked(found.chords, self._voters), picked(found.voted, self._voters)
        return chords.square().mul_(-0.5).add_(1), self._bank.labels.clamp(min=0)[voted.clamp(min=0)]

    @statistic("bank")
    def kernel_sums(self) -> Tensor:
        """(n,) Σ_j exp(−2‖x_i−x_j‖²) on L2-normalised rows of other samples; 0 for rows that are zero."""
        return self._search.kernel_sums

    @statistic("bank")
    def kernel_squares(self) -> Tensor:
        """(n,) Σ_j of the squares of those terms."""
        return self._search.kernel_squares

    @statistic("bank")
    def kernel_counts(self) -> Tensor:
        """(n,) the number of terms in each."""
        return self._search.kernel_counts
