"""Statistics of a window against another one: the reference (training rows, an earlier window, another loader)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property

import torch

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.cuda_ext.distances import empty_table
from lightning_featgeo.distributed.ranks import Ranks
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.accumulators.voters import VoterAccumulator
from lightning_featgeo.metrics.functional import fidelity, head_scores, outliers, probes, shifts, spectrum
from lightning_featgeo.metrics.statistics.bank import BY_VOTE, WORTH_SHARING
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.metrics.statistics.spectra import NO_SCATTER, SpectrumStatistics
from lightning_featgeo.types import Tensor

NO_VOTE = (
    "the rows of the reference have not voted on this window: they vote on rows that are all there when they come "
    "(in a loop of your own: reference.votes_on([metric]) before them)"
)


class ReferenceStatistics(SpectrumStatistics):
    """Statistics that read the frozen accumulators of the reference as well."""

    _reference: ReferenceStatistics | None
    _no_reference: str

    _has_reference: bool
    label_fault: str
    _all_vote: bool

    def _of_reference(self, accumulator: str) -> ReferenceStatistics:
        """The reference, if it keeps that accumulator ("covariance": moments with their scatter)."""
        other = self._reference
        if other is None:
            raise Undefined(self._no_reference, GapKind.NO_REFERENCE)
        if accumulator == "covariance" and other._spectrum_limit is not None:
            raise Undefined(NO_SCATTER, GapKind.NO_INPUT)
        kept = other._accumulators.get("moments" if accumulator == "covariance" else accumulator)
        if kept is None or (accumulator == "covariance" and not len(kept.scatter)):
            raise Undefined(
                f"the reference keeps no {accumulator}: give it the same signals, or name them in its serve=",
                GapKind.NO_REFERENCE,
            )
        if other.dim != self.dim:
            raise Undefined(
                f"the reference has {other.dim} dimensions, this window has {self.dim}", GapKind.NO_REFERENCE
            )
        if other._count == 0:
            raise Undefined("the reference has seen no rows", GapKind.NO_REFERENCE)
        return other

    def _classes_of_reference(self, accumulator: str) -> ReferenceStatistics:
        """The same, where its labels are the classes of this window."""
        other = self._of_reference(accumulator)
        if other.label_fault:
            raise Undefined(f"of the reference, {other.label_fault}", GapKind.NO_REFERENCE)
        return other

    @property
    def _votes_elsewhere(self) -> bool:
        return self._has_reference or self._reference is not None

    def search_together(self, ranks: Ranks) -> None:
        """Search neighbours with all ranks, each its share: in this bank, and the voters in the reference's."""
        super().search_together(ranks)
        if not ranks.several or not self._votes_elsewhere or not BY_VOTE & self._wanted or self._voters_of_reference:
            return

        def voting() -> tuple[Tensor, Tensor, Tensor] | None:
            with contextlib.suppress(Undefined):  # on every rank: the vote will be a gap
                return self._voting
            return None

        found = ranks.attempt(voting)
        if found is None or len(found[0]) * len(found[1]) * self.dim < WORTH_SHARING:
            return
        queries, voters, labels = found
        chords, indices = empty_table(len(queries), self._vote_counts[1], queries.device)
        ranks.in_shares(len(queries), lambda mine: ops.knn(queries[mine], voters, chords.shape[1]), (chords, indices))
        self.__dict__["_near"] = 1 - chords.square() / 2, labels[indices.clamp(min=0)]

    @property
    def _voters_of_reference(self) -> VoterAccumulator | None:
        """All rows of the reference, where all of them have voted as they came."""
        return None if self._reference is None else self._reference._accumulators.get("voters")

    @property
    def _voter_counts(self) -> Tensor:
        if not self._votes_elsewhere:
            return super()._voter_counts
        voters = self._voters_of_reference
        if voters is None and self._all_vote and self._reference is not None:
            raise Undefined(NO_VOTE, GapKind.NO_REFERENCE)
        if voters is not None:
            self._classes_of_reference("voters")  # of this dimension, and not empty
            return voters.class_counts
        return torch.bincount(self._classes_of_reference("bank").row_labels)

    @cached_property
    def _near(self) -> tuple[Tensor, Tensor]:
        if not self._votes_elsewhere:
            return super()._near
        if (streamed := self._voters_of_reference) is not None:
            return self._of_all(streamed)
        queries, voters, labels = self._voting
        chords, indices = ops.knn(queries, voters, self._vote_counts[1])
        return 1 - chords.square() / 2, labels[indices]

    def _of_all(self, voters: VoterAccumulator) -> tuple[Tensor, Tensor]:
        place, (_, count) = voters.voted_on(self.unit_labelled_rows), self._vote_counts
        if not int(voters.class_counts.sum()):
            raise Undefined("the reference has no labelled rows to vote", GapKind.NO_REFERENCE)
        if place is None:
            raise Undefined(NO_VOTE, GapKind.NO_REFERENCE)
        distances, labels = voters.compute()
        return 1 - distances[place, :count].square() / 2, labels[place, :count]

    @cached_property
    def _voting(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows that are voted on, rows of the reference that vote, and their classes."""
        bank = self._classes_of_reference("bank")
        labels = bank.row_labels
        if labels.numel() == 0:
            raise Undefined("the reference has no labelled rows to vote", GapKind.NO_REFERENCE)
        return self.unit_labelled_rows, bank.unit_labelled_rows, labels

    @statistic("bank")
    def bank_gram_power(self) -> Tensor:
        """‖XᵀX‖²_F of the bank's centred rows; what the spectrum is taken from, where the bank holds every row."""
        if "gram" in self._wanted and len(self.rows) == self._count == self.spectrum_count:
            return (self.gram * self._count).square().sum()
        return spectrum.gram_power(self.rows)

    @statistic("bank", "reference", "reference.bank")
    def prdc(self) -> Mapping[str, Tensor]:
        """Precision, recall, density, coverage and their symmetric forms of this bank against the reference's."""
        return fidelity.prdc(self._of_reference("bank").rows, self.rows)

    @statistic("bank", "reference", "reference.bank")
    def reference_rows(self) -> Tensor:
        """(m, d) the reference's bank."""
        return self._of_reference("bank").rows

    @statistic("reference", "reference.moments", "reference.scatter")
    def reference_mean(self) -> Tensor:
        """(d,) mean of the reference."""
        return self._of_reference("covariance").mean

    @statistic("reference", "reference.moments", "reference.scatter")
    def reference_covariance(self) -> Tensor:
        """(d, d) covariance of the reference."""
        return self._of_reference("covariance").covariance

    @statistic("moments", "scatter", "reference", "reference.moments", "reference.scatter")
    def unit_shift_scores(self) -> Tensor:
        """(d,) how far each unit, given the others, has shifted against the reference."""
        return shifts.unit_shifts(self.mean, self.covariance, self.reference_mean, self.reference_covariance)

    @statistic("moments", "scatter", "reference", "reference.moments", "reference.scatter")
    def sample_covariances(self) -> tuple[Tensor, Tensor]:
        """(d, d) covariances of this window and of the reference, over n−1."""
        other = self._of_reference("covariance")
        if min(self._count, other._count) < 2:
            raise Undefined(f"a covariance needs 2 rows, there are {self._count} and in the reference {other._count}")
        return self.covariance * (self._count / (self._count - 1)), other.covariance * (
            other._count / (other._count - 1)
        )

    @statistic("bank", "reference", "reference.bank")
    def ood_distances(self) -> Tensor:
        """(n,) distance of each row to its k-th nearest row of the reference's bank, L2-normalised."""
        return outliers.knn_ood_score(self.rows, self.reference_rows, self._ood_k)

    @statistic("bank", "reference", "reference.bank")
    def reference_ood_distances(self) -> Tensor:
        """(m,) the same of the reference's rows among each other, themselves left out."""
        unit = outliers.normalised(self.reference_rows)
        return ops.knn(unit, unit, self._ood_k, exclude_self=True)[0][:, -1]

    @cached_property
    def _ood_k(self) -> int:
        rows = len(self.reference_rows)
        if rows <= outliers.OOD_K:
            raise Undefined(f"needs more than {outliers.OOD_K} rows in the reference's bank, got {rows}")
        return outliers.OOD_K

    @statistic("bank", "reference", "reference.bank", "reference.moments", "reference.scatter")
    def gaussian_distances(self) -> Tensor:
        """(n,) squared Mahalanobis distance of each row to the reference's one Gaussian."""
        self._need_rows(self._of_reference("covariance")._count - 1)
        return outliers.mahalanobis_distances(self.rows, self.reference_mean, self.reference_covariance)

    @statistic("head", "reference", "reference.bank", "reference.moments", "reference.labels")
    def reference_head_scores(self) -> head_scores.HeadScores:
        """As ``head_scores``, of the reference's bank, under the head of this window."""
        if not self._of_reference("moments").has_classes:
            raise Undefined("the reference has no classes, so that nobody knows whether the head scores classes")
        return self._head_scores(self._of_reference("bank").rows)

    @statistic("reference", "reference.bank", "reference.moments", "reference.scatter")
    def reference_gaussian_distances(self) -> Tensor:
        """(m,) the same of the reference's own rows."""
        rows = self._of_reference("bank").rows
        self._need_rows(self._of_reference("covariance")._count - 1)
        return outliers.mahalanobis_distances(rows, self.reference_mean, self.reference_covariance)

    @statistic("reference", "reference.moments", "reference.scatter", "reference.labels")
    def reference_classes(self) -> tuple[Tensor, Tensor, Tensor]:
        """(C, d) means, (C,) rows a class, and (d, d) scatter within classes, of the reference."""
        other = self._with_classes("a row is compared with the means of")
        within = other.within_scatter
        assert isinstance(within, Tensor)
        self._need_rows(int(other.class_counts.sum()) - int((other.class_counts > 0).sum()))
        return other.class_means, other.class_counts, within

    @statistic("reference", "reference.moments", "reference.labels")
    def reference_class_means(self) -> Tensor:
        """(C, d) means of the reference's classes that have rows."""
        other = self._classes_of_reference("moments")
        if not other.has_classes:
            raise Undefined("the reference has no class statistics: it needs labels and num_classes")
        return other.class_means[other.class_counts > 0]

    @statistic("bank", "reference", "reference.bank", "reference.moments", "reference.scatter", "reference.labels")
    def class_gaussian_distances(self) -> Tensor:
        """(n,) squared Mahalanobis distance of each row to the reference's nearest class, tied covariance."""
        return self._to_classes(self.rows)

    @statistic("bank", "reference", "reference.bank", "reference.moments", "reference.scatter", "reference.labels")
    def reference_class_gaussian_distances(self) -> Tensor:
        """(m,) the same of the reference's own rows."""
        return self._to_classes(self.reference_rows)

    def _with_classes(self, what: str) -> ReferenceStatistics:
        other = self._classes_of_reference("covariance")
        if not other.has_classes:
            raise Undefined("the reference has no class statistics: it needs labels and num_classes")
        other._need_all_classes(what)
        return other

    def _need_rows(self, free: int) -> None:
        """So many of the reference's rows are free to spread, behind its means: fewer than d leave directions out."""
        if free < self.dim:
            raise Undefined(outliers.SINGULAR)

    def _to_classes(self, rows: Tensor) -> Tensor:
        other = self._with_classes("a row is compared with the means of")
        self._need_rows(int(other.class_counts.sum()) - int((other.class_counts > 0).sum()))
        return outliers.mahalanobis_score(rows, other.class_means, other.class_counts, other.within_scatter)

    @statistic("reference", "reference.moments", "reference.scatter", "reference.labels")
    def reference_probe(self) -> probes.Probe:
        """(C, d) weight and (C,) bias of a ridge classifier fitted to all labelled rows of the reference."""
        other = self._with_classes("a probe tells")
        within = other.within_scatter
        assert isinstance(within, Tensor)
        return probes.ridge_classifier(other.class_means, other.class_counts, within)

    @statistic("bank", "reference", "reference.bank")
    def reference_rows_with_target(self) -> Tensor:
        """(m, d) rows of the reference's bank that have a regression target."""
        return self._of_reference("bank").rows_with_target

    @statistic("bank", "reference", "reference.bank")
    def reference_targets(self) -> Tensor:
        """(m, t) their targets."""
        return self._of_reference("bank").targets

    @statistic("bank", "labels")
    def own_voters(self) -> Tensor:
        """(n,) how many rows of its own class each labelled row could find, of other samples or in the reference."""
        if self._votes_elsewhere:
            counts = self._voter_counts
            lacking = int(self.row_labels.max()) + 1 - len(counts)
            return torch.nn.functional.pad(counts, (0, max(0, lacking)))[self.row_labels]
        samples, sample = self.row_samples.unique(return_inverse=True)
        _, place, counts = (self.row_labels * len(samples) + sample).unique(return_inverse=True, return_counts=True)
        return torch.bincount(self.row_labels)[self.row_labels] - counts[place]

    @statistic("moments", "labels")
    def frequency(self) -> Tensor:
        """(C,) rows a class that tell head from tail: the reference's where it has classes, else this window's."""
        self._need_all_classes("head and tail are told by the counts of")
        r = self._reference
        if r is not None and r.has_classes and len(r._all_class_counts) == len(self._all_class_counts):
            return r.class_counts
        return self.class_counts
