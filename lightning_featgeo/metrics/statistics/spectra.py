"""Second moments and spectra of a window: from the scatter of all rows, or from few rows, by their Gram matrix.

Of n rows in d dimensions the d×d covariance and the n×n Gram matrix over n have the same eigenvalues but for zeros. The
smaller one is taken where the bank holds every row. Above a width no scatter is kept at all
(``plan.spectrum_limit``), and spectra are of the bank's first rows: a uniform sample, the same in every window.
"""

from __future__ import annotations

from functools import cached_property

import torch

from lightning_featgeo.cuda_ext.distances import mean_row
from lightning_featgeo.errors import GapKind, Undefined
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.functional.neural_collapse import MIN_ROWS, ClassDeviations
from lightning_featgeo.metrics.functional.spectrum import gram_matrix, null_small_eigenvalues
from lightning_featgeo.metrics.statistics.bank import BankStatistics
from lightning_featgeo.metrics.statistics.needs import statistic
from lightning_featgeo.metrics.statistics.sums import SumStatistics
from lightning_featgeo.types import Tensor

LEAST_TOLD = 64  # rows that may stand for all labelled ones: their spread is then within some 18 % (√(2/64))
NEARLY_ONE_POINT = 1e-6  # share of the uncentred second moment that is left beside its first direction
SPECTRUM_BLOCK = 256  # rows or columns that are in float64 at a time
NO_SCATTER = (
    'no d×d covariance of such wide features is kept: spectrum_rows="all" keeps one (8·d² bytes, twice with classes)'
)


class SpectrumStatistics(SumStatistics, BankStatistics):
    """Statistics of the covariance."""

    _spectrum_limit: int | None

    @property
    def keeps_scatter(self) -> bool:
        """Whether the d×d scatter of all rows is there."""
        moments = self._accumulators.get("moments")
        return isinstance(moments, MomentsAccumulator) and len(moments.scatter) > 0

    @property
    def spectrum_rows(self) -> int | None:
        """Rows that spectra are of, where those are not all."""
        if self.keeps_scatter or self._spectrum_limit is None or "bank" not in self._accumulators:
            return None
        taken = min(self._spectrum_limit, len(self._bank.rows))
        return taken if taken < self._count else None

    @cached_property
    def _few(self) -> Tensor | None:
        """(m, d) rows that spectra are taken from; None: from the scatter."""
        if self.keeps_scatter:
            all_there = "bank" in self._accumulators and len(self._bank.rows) == self._count < self.dim
            return self._bank.rows if all_there else None
        return self._bank.rows[: self._spectrum_limit]

    @cached_property
    def _few_mean(self) -> Tensor:
        assert self._few is not None
        return mean_row(self._few)

    @statistic("moments", "scatter")
    def mean(self) -> Tensor:
        """(d,) mean over all rows."""
        return self._moments.mean

    @statistic("moments", "scatter")
    def covariance(self) -> Tensor:
        """Centred covariance (d, d), averaged over rows."""
        if not self.keeps_scatter:
            raise Undefined(NO_SCATTER, GapKind.NO_INPUT)
        return self._moments.scatter / max(self._moments.count, 1)

    @statistic("moments", "scatter")
    def variances(self) -> Tensor:
        """(d,) variance of each dimension, averaged over rows."""
        if self.keeps_scatter:
            return self._moments.scatter.diagonal() / max(self._moments.count, 1)
        assert self._few is not None
        total = self._few_mean.new_zeros(self.dim)
        for rows in self._few.split(SPECTRUM_BLOCK):
            total += (rows.double() - self._few_mean).square().sum(dim=0)
        return total / max(len(self._few), 1)

    @statistic("moments", "scatter")
    def gram(self) -> Tensor:
        """(r, r) with the non-zero eigenvalues of the covariance: itself, or of few rows their Gram matrix over n."""
        if self._few is None:
            return self.covariance
        return gram_matrix(self._few, self._few_mean) / max(len(self._few), 1)

    @statistic("moments", "scatter")
    def spectrum_count(self) -> int:
        """Rows that spectra are of."""
        return self.spectrum_rows or self._count

    @cached_property
    def _decomposition(self) -> tuple[Tensor, Tensor | None]:
        if "principal_directions" in self._wanted:
            values, vectors = torch.linalg.eigh(self.gram)
            return values, vectors
        return torch.linalg.eigvalsh(self.gram), None

    @statistic("moments", "scatter", "eigen")
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the centred covariance, descending, at most min(n−1, d); round-off is zero."""
        return null_small_eigenvalues(self._decomposition[0], min(self.spectrum_count - 1, self.dim))

    @statistic("moments", "scatter", "eigen")
    def principal_directions(self) -> Tensor:
        """(d, r) eigenvectors of the centred covariance as columns, largest eigenvalue first; of few rows only those
        that they spread in."""
        vectors = self._decomposition[1]
        assert vectors is not None
        vectors = vectors.flip(1)
        if self._few is None:
            return vectors
        vectors = vectors[:, : int((self.eigenvalues > 0).sum())]
        found = torch.cat([(part.double() - mean).T @ vectors for part, mean in self._column_blocks()])
        return found / torch.linalg.vector_norm(found, dim=0)

    def _column_blocks(self) -> list[tuple[Tensor, Tensor]]:
        assert self._few is not None
        return list(zip(self._few.split(SPECTRUM_BLOCK, dim=1), self._few_mean.split(SPECTRUM_BLOCK), strict=True))

    @statistic("moments", "scatter", "eigen")
    def second_moment_eigenvalues(self) -> Tensor:
        """Eigenvalues of the uncentred second moment, descending, min(n, d) of them."""
        most, few = min(self.spectrum_count, self.dim), self._few
        if few is None:
            mean = self._moments.mean
            uncentred = self.covariance + mean[:, None] * mean[None, :]
        else:
            uncentred = gram_matrix(few, torch.zeros_like(self._few_mean)) / max(len(few), 1)
        values = null_small_eigenvalues(torch.linalg.eigvalsh(uncentred), most)
        if "bank" not in self._accumulators or len(self._bank.rows) != self._count:
            return values
        alive, total = int((uncentred.diagonal() > 0).sum()), uncentred.trace()
        one_point = bool(total - values[:1].sum() < NEARLY_ONE_POINT * total)
        if one_point and int((values > 0).sum()) < min(most, alive):  # squares have lost a tail that ranks read
            values = (torch.linalg.svdvals(self._bank.rows.double()) / self._count**0.5).square()
        return values

    @statistic("moments", "scatter", "labels")
    def within_scatter(self) -> Tensor | ClassDeviations:
        """(d, d) Σ (x−μ_c)(x−μ_c)ᵀ over labelled rows; where no scatter is kept, the rows of the bank that tell it."""
        if self.keeps_scatter:
            within, counts = self._classes.within, self._all_class_counts
            if self.classes_drawn is None:
                return within
            counts = torch.where(counts >= MIN_ROWS, counts, 0)  # one row does not spread
            return within * (counts[self.classes_drawn].sum() / counts.sum().clamp(min=1))  # of all, for so many rows
        rows, labels, drawn = self.labelled_rows, self.labelled_row_labels, self.classes_drawn
        if drawn is not None:
            drawn = drawn.to(labels.device)
            slot = torch.searchsorted(drawn, labels).clamp(max=len(drawn) - 1)
            there = drawn[slot] == labels
            rows, labels = rows[there], slot[there]
        rows, labels = rows[: self._spectrum_limit], labels[: self._spectrum_limit]
        every = int(self.class_counts.sum())
        if len(rows) < min(every, LEAST_TOLD):  # the spread of none would read 0: a collapse
            raise Undefined(
                f"of {every:,} rows of classes that are compared {len(rows)} are in the bank: too few to tell how they "
                'spread. spectrum_rows="all" reads all of them',
                GapKind.NO_INPUT,
            )
        return ClassDeviations(rows, labels, self.class_means, every)
