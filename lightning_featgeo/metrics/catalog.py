"""The one table of signals: logging, documentation, reports and stop rules read it.

Adding a signal: write a pure function (tensors in; a 0-d tensor or an ``Estimate`` out; ``Undefined`` raised with
the reason where it has no value) and add a row whose ``needs`` name the statistics it takes, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_featgeo.metrics import activity, coding, density, dimension, neural_collapse, spectrum, spread
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.metrics.statistics import required_by
from lightning_featgeo.types import ConfigurationError, Tensor, near_misses

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Signal:
    """One row of the table.

    ``direction``: which way is better for the representation ("none": it depends on the run).
    ``needs``: statistics its function takes, in order. ``groups``: names under which ``signals=`` finds it.
    ``ceiling``: its largest possible value given n rows and d dimensions, None where there is none.
    ``bias``: what n, d and noise do to it. ``parity``: whose number it equals or not, and why.
    """

    name: str
    function: Callable[..., Tensor | Estimate]
    needs: tuple[str, ...]
    direction: Direction
    unit: str
    value_range: str
    source: str
    groups: tuple[str, ...]
    ceiling: Callable[[int, int], float] | None = None
    bias: str = ""
    parity: str = ""

    @property
    def requires(self) -> frozenset[str]:
        """Accumulators and inputs its statistics need."""
        return required_by(self.needs)


def _centred_ceiling(n: int, d: int) -> float:
    return float(min(n - 1, d))


def _uncentred_ceiling(n: int, d: int) -> float:
    return float(min(n, d))


COUNT_SIGNAL = "n_samples"  # computed in every window, asked for or not
_CLASSES = ("class_means", "class_counts")
_PAPYAN = "Papyan, Han & Donoho 2020, arXiv 2008.08186"
_KNN_DENSITY = "Loftsgaarden & Quesenberry 1965"
# fmt: off
_ROWS: tuple[Signal, ...] = (
    Signal("feature_std", spread.feature_std, ("row_count", "direction_sums", "direction_squares"),
           "higher", "1", "[0, 1]", "Chen & He 2021, arXiv 2011.10566", ("spectrum",),
           bias="noise of about 1/√n; needs no minimum n",
           parity="lightly and SimSiam's std of normalised features (torch.std, n−1), times √d"),
    Signal("effective_rank", spectrum.effective_rank, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Roy & Vetterli 2007", ("spectrum",),
           ceiling=_centred_ceiling,
           bias="low at small n: read it against min(n−1, d) and at fixed n, n ≥ 4d",
           parity="Roy & Vetterli's erank of centred features; not RankMe, which does not centre"),
    Signal("rankme", spectrum.rankme, ("second_moment_eigenvalues",),
           "higher", "dimensions", "[1, min(n, d)]", "Garrido et al. 2023, arXiv 2210.02885", ("spectrum",),
           ceiling=_uncentred_ceiling,
           bias="low at small n; a large mean direction pulls it to 1",
           parity="RankMe's paper (uncentred, ε = 1e-7 added to each of min(n, d) shares); implementations "
                  "that use eigenvalues or centre give other numbers"),
    Signal("participation_ratio", spectrum.participation_ratio, ("covariance",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Gao et al. 2017", ("spectrum",),
           ceiling=_centred_ceiling,
           bias="low at small n, see participation_ratio_corrected",
           parity="tr(C)²/‖C‖²_F of numpy.cov"),
    Signal("stable_rank", spectrum.stable_rank, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Rudelson & Vershynin 2007", ("spectrum",),
           ceiling=_centred_ceiling,
           bias="low at small n",
           parity="‖H‖²_F/‖H‖²_2 of the centred features"),
    Signal("top_eigenvalue_share", spectrum.top_eigenvalue_share, ("eigenvalues",),
           "lower", "share", "(0, 1]", "principal component analysis", ("spectrum",),
           bias="high at small n",
           parity="scikit-learn's PCA.explained_variance_ratio_[0]"),
    Signal("mean_resultant", spread.mean_resultant, ("nonzero_count", "direction_sums"),
           "lower", "1", "[0, 1]", "Mardia & Jupp 2000", ("spectrum",),
           bias="about 1/n for a uniform spread",
           parity="squared mean resultant length; scipy.stats.directional_stats().mean_resultant_length², "
                  "zero rows left out"),
    Signal("participation_ratio_corrected", spectrum.participation_ratio_corrected, ("rows",),
           "higher", "dimensions", "(0, ∞)", "Himeno & Yamada 2014; bias: arXiv 2509.26560", ("spectrum",),
           ceiling=_centred_ceiling,
           bias="unbiased numerator and denominator; the ratio keeps a bias of order 1/n",
           parity="Himeno & Yamada's estimators; equal to the U-statistic over rows that are all different"),
    Signal("numerical_rank", spectrum.numerical_rank, ("eigenvalues", "sample_count", "dim"),
           "higher", "dimensions", "[0, min(n−1, d)]", "numerical linear algebra", ("spectrum",),
           ceiling=_centred_ceiling,
           bias="none beyond the tolerance",
           parity="numpy.linalg.matrix_rank of the centred features with float32's eps"),
    Signal("condition_number", spectrum.condition_number, ("eigenvalues", "dim"),
           "lower", "1", "[1, ∞)", "numerical linear algebra", ("spectrum",),
           bias="high at small n; infinite for n ≤ d, which is a gap here",
           parity="numpy.linalg.cond of the covariance"),
    Signal("alpha_req", spectrum.alpha_req, ("eigenvalues",),
           "none", "1", "(−∞, ∞)", "Agrawal et al. 2022", ("spectrum",),
           bias="the tail steepens at small n; compare at fixed n",
           parity="scipy.stats.linregress on ranks 6 to 50; implementations weighting ranks by 1/rank differ"),
    Signal("alpha_req_r2", spectrum.alpha_req_r2, ("eigenvalues",),
           "none", "1", "[0, 1]", "Agrawal et al. 2022", ("spectrum",),
           bias="high for few ranks",
           parity="scipy.stats.linregress' rvalue²"),
    Signal("spectral_spread", spectrum.spectral_spread, ("eigenvalues", "dim"),
           "lower", "1", "[0, 1]", "Marbut et al. 2023", ("spectrum",),
           bias="high at small n: isotropic d = 100 reads 0.40/0.18/0.06 at n = 200/1,000/10,000",
           parity="the trapezoid area of Marbut et al., over its maximum"),
    Signal("coding_rate", coding.coding_rate, ("unit_rows",),
           "higher", "nats", "(0, ∞)", "Yu et al. 2020, arXiv 2006.08558", ("spectrum",),
           bias="low at small n; computed on the bank's rows",
           parity="Yu et al. with ε² = 0.5"),
    Signal("coding_rate_reduction", coding.coding_rate_reduction, ("unit_labelled_rows", "row_labels"),
           "higher", "nats", "[0, ∞)", "Yu et al. 2020, arXiv 2006.08558", ("neural_collapse",),
           bias="high when classes have few rows",
           parity="Yu et al. with ε² = 0.5, rows weighted by class counts"),
    Signal("id_two_nn", dimension.id_two_nn, ("distances",),
           "none", "dimensions", "(0, ∞)", "Facco et al. 2017", ("dimension",),
           bias="low in high dimension: a Gaussian of dimension 20 reads 17.5 at n = 5,000",
           parity="scikit-dimension's TwoNN"),
    Signal("id_two_nn_mle", dimension.id_two_nn_mle, ("distances",),
           "none", "dimensions", "(0, ∞)", "Facco et al. 2017; Denti et al. 2022", ("dimension",),
           bias="as id_two_nn; the censoring correction removes the cut's own bias",
           parity="closed form of Denti et al.; not scikit-dimension's, which fits a line"),
    Signal("id_mle", dimension.id_mle, ("distances",),
           "none", "dimensions", "(0, ∞)", "Levina & Bickel 2004; MacKay & Ghahramani 2005", ("dimension",),
           bias="low in high dimension and at the boundary: a Gaussian of dimension 20 reads 16.0 at n = 5,000",
           parity="Levina & Bickel with MacKay & Ghahramani's inverse average; averaging d_i instead reads higher"),
    Signal("id_gride_2", dimension.id_gride_2, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_two_nn, at a coarser scale",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error"),
    Signal("id_gride_4", dimension.id_gride_4, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_gride_2, coarser",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error"),
    Signal("id_gride_8", dimension.id_gride_8, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_gride_4, coarser; curvature raises it",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error"),
    Signal("knn_log_density", density.knn_log_density, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",),
           bias="smooths over r_k: low at peaks, high in tails; grows with d",
           parity="scikit-learn's neighbours put into the formula"),
    Signal("knn_log_density_q05", density.knn_log_density_q05, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",),
           bias="as knn_log_density",
           parity="numpy.quantile of the per-row values"),
    Signal("knn_log_density_q50", density.knn_log_density_q50, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",),
           bias="as knn_log_density",
           parity="numpy.quantile of the per-row values"),
    Signal("knn_log_density_q95", density.knn_log_density_q95, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",),
           bias="as knn_log_density",
           parity="numpy.quantile of the per-row values"),
    Signal("knn_entropy", density.knn_entropy, ("distances", "dim"),
           "none", "nats", "(−∞, ∞)", "Kozachenko & Leonenko 1987", ("density",),
           bias="of order n^(−1/d): useless as an absolute number for d above about 10",
           parity="Kozachenko & Leonenko's estimator with ψ(n) − ψ(k)"),
    Signal("hubness", density.hubness, ("neighbor_indices",),
           "lower", "1", "(−∞, ∞)", "Radovanović et al. 2010", ("density",),
           bias="grows with k and d",
           parity="scipy.stats.skew of k-occurrence counts; tied neighbours go to the bank's order"),
    Signal("knn_accuracy", density.knn_accuracy, ("vote_similarities", "vote_labels", "row_labels"),
           "higher", "share", "[0, 1]", "Wu et al. 2018, arXiv 1805.01978", ("density",),
           bias="low at small banks",
           parity="Wu et al.'s weighted vote (τ = 0.07, k = 200), leave-one-out"),
    Signal("uniformity", density.uniformity, ("kernel_sums", "kernel_counts"),
           "lower", "nats", "[−8, 0]", "Wang & Isola 2020, arXiv 2005.10242", ("density",),
           bias="of order 1/n",
           parity="Wang & Isola's loss (t = 2) over all pairs of the bank"),
    Signal("dead_fraction", activity.dead_fraction, ("unit_row_count", "unit_active"),
           "lower", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",),
           bias="high at small n: a rare unit looks dead",
           parity="a count"),
    Signal("firing_rate", activity.firing_rate, ("unit_row_count", "unit_active"),
           "none", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",),
           bias="none",
           parity="a count"),
    Signal("outlier_dims", activity.outlier_dims, ("mean", "covariance"),
           "lower", "1", "[1, √d]", "Kovaleva et al. 2021, arXiv 2105.06990", ("units",),
           bias="high at small n",
           parity="a ratio of root mean squares; other papers threshold the maximum instead"),
    Signal("tolerance", spread.tolerance, ("unit_labelled_rows", "row_labels"),
           "none", "1", "[−1, 1]", "Wang & Liu 2021, arXiv 2012.09740", ("density",),
           bias="none",
           parity="Wang & Liu's mean same-class cosine, over pairs of different rows only"),
    Signal("nc1", neural_collapse.nc1, (*_CLASSES, "within_scatter"),
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",),
           bias="high when classes have few rows; 0 is not reached in practice",
           parity="Papyan et al.'s tr(Σ_W Σ_B⁺)/C; their notebook leaves out the division by C"),
    Signal("nc1_ratio", neural_collapse.nc1_ratio, (*_CLASSES, "class_variances"),
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",),
           bias="high when classes have few rows",
           parity="trΣ_W/trΣ_B with the unweighted centre of class means"),
    Signal("nc2_equinorm", neural_collapse.nc2_equinorm, _CLASSES,
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",),
           bias="noise of the class means adds to it",
           parity="Papyan et al.'s notebook (torch.std, C−1)"),
    Signal("nc2_equiangle", neural_collapse.nc2_equiangle, _CLASSES,
           "lower", "1", "[0, 2]", _PAPYAN, ("neural_collapse",),
           bias="noise of the class means adds to it; a simplex needs C ≤ d+1",
           parity="Papyan et al.'s coherence"),
    Signal("nc2_equinorm_orthogonal", neural_collapse.nc2_equinorm_orthogonal, _CLASSES,
           "lower", "1", "[0, ∞)", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",),
           bias="noise of the class means adds to it",
           parity="uncentred lengths, torch.std"),
    Signal("nc2_equiangle_orthogonal", neural_collapse.nc2_equiangle_orthogonal, _CLASSES,
           "lower", "1", "[0, 1]", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",),
           bias="noise of the class means adds to it; an orthogonal frame needs C ≤ d",
           parity="uncentred cosines"),
    Signal("gnc2", neural_collapse.gnc2, _CLASSES,
           "lower", "1", "[−ln 2, ∞)", "Liu et al. 2023, arXiv 2303.06484", ("neural_collapse",),
           bias="noise of the class means lowers it",
           parity="Liu et al.'s logarithmic kernel over pairs"),
    Signal("nc3", neural_collapse.nc3, (*_CLASSES, "head_weight"),
           "lower", "1", "[0, 2]", _PAPYAN, ("neural_collapse",),
           bias="noise of the class means adds to it",
           parity="Papyan et al.'s self-duality on the classes that are there"),
    Signal("nc4", neural_collapse.nc4, ("labelled_rows", *_CLASSES, "head_weight", "head_bias"),
           "lower", "share", "[0, 1]", _PAPYAN, ("neural_collapse",),
           bias="none; final class means against the bank's rows",
           parity="Papyan et al.; with the classifier's bias"),
    Signal("cdnv", neural_collapse.cdnv, (*_CLASSES, "class_variances"),
           "lower", "1", "[0, ∞)", "Galanti, György & Hutter 2022, arXiv 2112.15121", ("neural_collapse",),
           bias="low when classes have few rows: variances divide by n_c",
           parity="Galanti et al.'s average over pairs"),
    Signal(COUNT_SIGNAL, activity.n_samples, ("sample_count",),
           "none", "rows", "[0, ∞)", "a count", ("units",),
           bias="none",
           parity="a count"),
)
# fmt: on
CATALOG: dict[str, Signal] = {row.name: row for row in _ROWS}

PRESETS: dict[str, tuple[str, ...]] = {
    "classifier": (
        "feature_std", "effective_rank", "knn_accuracy", "nc1", "nc2_equiangle", "cdnv", "id_two_nn",
        "knn_log_density",
    ),
    "unlabelled": ("feature_std", "effective_rank", "rankme", "uniformity", "id_two_nn", "knn_log_density"),
}  # fmt: skip


def register(signal: Signal) -> None:
    """Add a signal of your own; afterwards ``signals=`` finds it by name and by its groups.

    Raises:
        ConfigurationError: if the name is taken, is not made of ``[a-z0-9_]``, or a need is no statistic.
    """
    if signal.name in CATALOG:
        raise ConfigurationError(f"a signal named {signal.name!r} exists already; choose another name")
    if not signal.name or set(signal.name) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ConfigurationError(f"signal name {signal.name!r}: use lower-case letters, digits and _ only")
    try:
        required_by(signal.needs)
    except KeyError as error:
        raise ConfigurationError(f"signal {signal.name!r}: {error.args[0]}") from None
    CATALOG[signal.name] = signal


def named(signals: str | Sequence[str]) -> frozenset[str]:
    """Those asked for by their own name: they must be computable. Members of groups are left out where they aren't."""
    return frozenset(CATALOG) & frozenset([signals] if isinstance(signals, str) else signals)


def resolve(signals: str | Sequence[str]) -> tuple[str, ...]:
    """Signal names behind names, groups, presets and "all", in order, each once.

    Raises:
        ConfigurationError: for an unknown name, with near misses, or an empty choice.
    """
    groups = {group for row in CATALOG.values() for group in row.groups}
    names: dict[str, None] = {}
    for given in [signals] if isinstance(signals, str) else list(signals):
        if given in CATALOG:
            names[given] = None
        elif given == "all":
            names.update(dict.fromkeys(CATALOG))
        elif given in PRESETS:
            names.update(dict.fromkeys(PRESETS[given]))
        elif given in groups:
            names.update({name: None for name, row in CATALOG.items() if given in row.groups})
        else:
            known = [*CATALOG, *sorted(groups), *PRESETS, "all"]
            raise ConfigurationError(f"unknown signal {given!r}.{near_misses(str(given), known)}")
    if not names:
        raise ConfigurationError('signals is empty; name some, for example signals=["effective_rank"]')
    return tuple(names)
