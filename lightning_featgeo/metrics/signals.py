"""The table of signals: one row each, with its needs, range, source, bias and the reference implementation it matches.

Adding a signal: write a pure function (tensors in; a 0-d tensor or an ``Estimate`` out; ``Undefined`` raised with
the reason where it has no value) and add a row whose ``needs`` name the statistics it takes, in order.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.metrics.functional import (
    activity,
    between_layers,
    codes,
    coding,
    density,
    diffusion,
    dimension,
    disagreement,
    drift,
    fidelity,
    head_scores,
    lengths,
    long_tail,
    neural_collapse,
    orthogonal_collapse,
    outliers,
    probes,
    regression,
    retrieval,
    shares,
    spanning_tree,
    spectrum,
    spread,
    subspaces,
    views,
    von_mises_fisher,
)
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.metrics.statistics.needs import required_by
from lightning_featgeo.types import Tensor

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Limits:
    """What counts as much for a signal, where a rule is not told; ``alarms.rules`` says how it is measured.

    ``drop``: a loss against the best that is a failure. ``decline``: one that is, where it came steadily. ``peak``: one
    that is the end of progress. ``gap``: one against another stage. ``bound``: a value that is a failure whatever came
    before. ``plateau``: a movement that is none. Those that differ from the defaults were fixed on small training
    runs on digits; the ready-made kinds of alarm have limits of their own.
    """

    drop: float = 0.5
    decline: float = 0.2
    peak: float = 0.15
    gap: float = 0.5
    bound: float | None = None
    plateau: float = 0.03


@dataclass(frozen=True)
class Signal:
    """One row of the table, or a signal of your own: ``signals=[Signal("spread", spread, direction="higher")]``.

    ``function``: tensors in; a number, a 0-d tensor or an ``Estimate`` out; ``Undefined`` raised where it has no value.
    ``needs``: statistics it takes, in order; left out: those that its parameters without a default are called.
    ``direction``: which way is better for the representation ("none": it depends on the run).
    ``value_range``: such as "[0, 1]". ``groups``: names under which ``signals=`` finds it.
    ``ceiling``: its largest possible value given n rows and d dimensions, None where there is none.
    ``bias``: what n, d and noise do to it. ``parity``: the reference implementation it matches, or where it differs.
    ``limits``: of alarms and stops. ``version``: of its definition, raised when its numbers change.
    """

    name: str
    function: Callable[..., Tensor | Estimate]
    needs: tuple[str, ...] = ()
    direction: Direction = "none"
    unit: str = "1"
    value_range: str = "(−∞, ∞)"
    source: str = "your own"
    groups: tuple[str, ...] = ()
    ceiling: Callable[[int, int], float] | None = None
    bias: str = ""
    parity: str = ""
    limits: Limits = Limits()
    version: int = 1

    def __post_init__(self) -> None:
        if not self.needs:
            object.__setattr__(self, "needs", _parameters(self.name, self.function))

    @functools.cached_property
    def bounds(self) -> tuple[float, float]:
        """Ends of ``value_range``; one that depends on n or d counts as infinite.

        Raises:
            ValueError: if it is not written as a range.
        """
        low, comma, high = self.value_range.strip("[]() ").partition(",")
        if not comma or self.value_range[:1] not in "[(":
            raise ValueError(f"value_range={self.value_range!r} is no range such as '[0, 1]' or '(−∞, ∞)'")
        return -math.inf if "∞" in low else _number(low), _number(high.strip())

    @functools.cached_property
    def requires(self) -> frozenset[str]:
        """Accumulators and inputs its statistics need."""
        return required_by(self.needs)


def _parameters(name: str, function: Callable[..., object]) -> tuple[str, ...]:
    """Names of the parameters that must be given."""
    what = f"the signal {name!r} takes statistics by the names of its parameters, as in def {name}(rows): …"
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ConfigurationError(f"{what}; {function!r} does not tell its own") from None
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needs = [p for p in parameters if p.default is inspect.Parameter.empty and p.kind != inspect.Parameter.VAR_KEYWORD]
    if not needs or any(p.kind not in named for p in needs):
        raise ConfigurationError(f"{what}; {function!r} has none, or takes them otherwise (*args, or behind a *)")
    return tuple(p.name for p in needs)


def _number(text: str) -> float:
    try:
        return float(text.replace("−", "-").replace("∞", "inf").replace("ln 2", "0.6931"))
    except ValueError:
        return math.inf


COUNT_SIGNAL = "n_samples"  # computed in every window, asked for or not
_CLASSES = ("class_means", "class_counts")
_PAPYAN = "Papyan, Han & Donoho 2020, arXiv 2008.08186"
_KNN_DENSITY = "Loftsgaarden & Quesenberry 1965"
# fmt: off
_SINCE_PREVIOUS: tuple[Signal, ...] = (  # each is there against the first window, too
    Signal("cka_drift", drift.cka_drift, ("with_previous",),
           "none", "1", "[0, 1]", "Kornblith et al. 2019, arXiv 1905.00414", ("over_time",),
           bias="directions of large variance decide; few rows for the dimensions lower it",
           parity="1 − repsim's linear CKA of the bank's rows"),
    Signal("procrustes_drift", drift.procrustes_drift, ("with_previous",),
           "none", "1", "[0, 1]", "Ding et al. 2021, arXiv 2108.01661", ("over_time",),
           bias="few rows for the dimensions lower it: a rotation then fits anything",
           parity="half the squared residual of scipy.linalg.orthogonal_procrustes, of centred rows of length 1"),
    Signal("rsa_drift", drift.rsa_drift, ("with_previous",),
           "none", "1", "[0, 2]", "Kriegeskorte et al. 2008", ("over_time",),
           bias="none; of 512 samples",
           parity="1 − scipy.stats.pearsonr of scipy's pdist"),
    Signal("anchor_drift", drift.anchor_drift, ("with_previous",),
           "none", "1", "[0, 2]", "Moschella et al. 2023, arXiv 2209.15430", ("over_time",),
           bias="none; of 128 anchors",
           parity="mean absolute difference of scikit-learn's cosine similarities"),
    Signal("unit_match", drift.unit_match, ("with_previous",),
           "none", "1", "[−1, 1]", "Li et al. 2016, arXiv 1511.07543", ("over_time",),
           bias="high at small n: the best of many noisy correlations is taken",
           parity="scipy.optimize.linear_sum_assignment of numpy.corrcoef"),
    Signal("class_drift", drift.class_drift, ("with_previous", "labels_with_previous"),
           "none", "1", "[0, ∞)", "shift of class means over within-class spread", ("over_time",),
           bias="about √(2/n_c) for means of n_c rows that did not move but were drawn anew; here rows are the same",
           parity="a formula"),
    Signal("compatibility", drift.compatibility, ("with_previous", "labels_with_previous", "vote_count", "knn_t"),
           "higher", "1", "[−1, 1]", "Shen et al. 2020, arXiv 2003.11942", ("over_time",),
           bias="that of knn_accuracy, in both",
           parity="difference of two weighted votes by scikit-learn's neighbours"),
    Signal("compatible_pairs", drift.compatible_pairs, ("with_previous", "labels_with_previous"),
           "higher", "share", "[0, 1]", "Shen et al. 2020, arXiv 2003.11942", ("over_time",),
           bias="none; of 512 samples",
           parity="the two inequalities of backward-compatible training, counted"),
)
# fmt: on


_AGAINST = {  # of the same measures, by the end of their names
    "first": "the run's first window",
    "best": "the best window before",
    "anchor": "rows from outside of the run",
}
_UNLIKE = {"best": {"rsa_drift", "anchor_drift", "unit_match"}, "anchor": {"anchor_drift"}}  # which are not there


def _against(which: str) -> tuple[Signal, ...]:
    """The same measures against something else than the window before."""
    return tuple(
        replace(
            row,
            name=f"{row.name}_{which}",
            needs=tuple(need.replace("with_previous", f"with_{which}") for need in row.needs),
            groups=("anchor",) if which == "anchor" else row.groups,
            bias=f"as {row.name}",
            parity=f"as {row.name}, against {_AGAINST[which]}",
        )
        for row in _SINCE_PREVIOUS
        if row.name not in _UNLIKE.get(which, ())
    )


# fmt: off
SIGNALS: tuple[Signal, ...] = (
    Signal("feature_std", spread.feature_std, ("row_count", "direction_sums", "direction_squares"),
           "higher", "1", "[0, 1]", "Chen & He 2021, arXiv 2011.10566", ("spectrum",),
           limits=Limits(drop=0.15, decline=0.05, bound=0.02),
           bias="noise of about 1/√n; needs no minimum n",
           parity="lightly and SimSiam's std of normalised features (torch.std, n−1), times √d"),
    Signal("effective_rank", spectrum.effective_rank, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Roy & Vetterli 2007", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
           limits=Limits(drop=0.45, decline=0.25),
           bias="low at small n: read it against min(n−1, d) and at fixed n, n ≥ 4d",
           parity="Roy & Vetterli's erank of centred features; not RankMe, which does not centre"),
    Signal("rankme", spectrum.rankme, ("second_moment_eigenvalues",),
           "higher", "dimensions", "[1, min(n, d)]", "Garrido et al. 2023, arXiv 2210.02885", ("spectrum",),
           ceiling=spectrum.uncentred_ceiling,
           bias="low at small n; a large mean direction pulls it to 1",
           parity="RankMe's paper (uncentred, ε = 1e-7 added to each of min(n, d) shares); implementations "
                  "that use eigenvalues or centre give other numbers"),
    Signal("participation_ratio", spectrum.participation_ratio, ("gram",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Gao et al. 2017", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
           bias="low at small n, see participation_ratio_corrected",
           parity="tr(C)²/‖C‖²_F of numpy.cov"),
    Signal("stable_rank", spectrum.stable_rank, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Rudelson & Vershynin 2007", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
           bias="low at small n",
           parity="‖H‖²_F/‖H‖²_2 of the centred features"),
    Signal("top_eigenvalue_share", spectrum.top_eigenvalue_share, ("eigenvalues",),
           "lower", "share", "(0, 1]", "principal component analysis", ("spectrum",),
           bias="high at small n",
           parity="scikit-learn's PCA.explained_variance_ratio_[0]"),
    Signal("pcs_90", spectrum.pcs_90, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "principal component analysis", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
           bias="low at small n; a whole number, so that it moves in steps",
           parity="scikit-learn's PCA(n_components=0.9).n_components_"),
    Signal("pcs_99", spectrum.pcs_99, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "principal component analysis", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
           bias="low at small n, more than pcs_90; a whole number, so that it moves in steps",
           parity="scikit-learn's PCA(n_components=0.99).n_components_"),
    Signal("mean_resultant", spread.mean_resultant, ("nonzero_count", "direction_sums"),
           "lower", "1", "[0, 1]", "Mardia & Jupp 2000", ("spectrum",),
           bias="about 1/n for a uniform spread. It is the mean cosine between rows, which a shift of all rows "
                "changes and a loss of directions may not: no measure of spread by itself (spectral_spread's source)",
           parity="squared mean resultant length; scipy.stats.directional_stats().mean_resultant_length², "
                  "zero rows left out"),
    Signal("participation_ratio_corrected", spectrum.participation_ratio_corrected, ("rows", "bank_gram_power"),
           "higher", "dimensions", "(0, ∞)", "Himeno & Yamada 2014; bias: arXiv 2509.26560", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
           bias="unbiased numerator and denominator; the ratio keeps a bias of order 1/n",
           parity="Himeno & Yamada's estimators; equal to the U-statistic over rows that are all different"),
    Signal("numerical_rank", spectrum.numerical_rank, ("eigenvalues", "spectrum_count", "dim"),
           "higher", "dimensions", "[0, min(n−1, d)]", "numerical linear algebra", ("spectrum",),
           ceiling=spectrum.centred_ceiling,
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
    Signal("coding_rate", coding.coding_rate, ("unit_coding_rate",),
           "higher", "nats", "(0, ∞)", "Yu et al. 2020, arXiv 2006.08558", ("spectrum",),
           bias="low at small n; computed on the bank's rows",
           parity="Yu et al. with ε² = 0.5"),
    Signal("coding_rate_reduction", coding.coding_rate_reduction, ("class_coding_rates",),
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
    Signal("id_gride_1", dimension.id_gride_1, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_two_nn",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error; it also drops extreme ratios"),
    Signal("id_gride_2", dimension.id_gride_2, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_two_nn, at a coarser scale",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error; it also drops extreme ratios"),
    Signal("id_gride_4", dimension.id_gride_4, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_gride_2, coarser",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error; it also drops extreme ratios"),
    Signal("id_gride_8", dimension.id_gride_8, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",),
           bias="as id_gride_4, coarser; curvature raises it",
           parity="DADApy's return_id_scaling_gride at the same n₁, value and error; it also drops extreme ratios"),
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
    Signal("knn_accuracy", density.knn_accuracy, ("vote_similarities", "vote_labels", "row_labels", "knn_t"),
           "higher", "share", "[0, 1]", "Wu et al. 2018, arXiv 1805.01978", ("density",),
           limits=Limits(peak=0.05),
           bias="low at small banks",
           parity="Wu et al.'s weighted vote (τ = 0.07, k = 200, fewer in small banks), leave-one-out"),
    Signal("label_disagreement", disagreement.label_disagreement,
           ("vote_similarities", "vote_labels", "row_labels", "knn_t"),
           "lower", "share", "[0, 1]", "Wu et al. 2018, arXiv 1805.01978", ("density",),
           bias="high at small banks, and where classes overlap",
           parity="the weights of knn_accuracy's vote that other classes get, over all weights"),
    Signal("uniformity", density.uniformity, ("kernel_sums", "kernel_counts"),
           "lower", "nats", "[−8, 0]", "Wang & Isola 2020, arXiv 2005.10242", ("density",),
           bias="of order 1/n",
           parity="Wang & Isola's loss (t = 2) over all pairs of the bank"),
    Signal("dead_fraction", activity.dead_fraction, ("unit_row_count", "unit_active"),
           "lower", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",),
           limits=Limits(bound=0.9),
           bias="high at small n: a rare unit looks dead",
           parity="a count"),
    Signal("firing_rate", activity.firing_rate, ("unit_row_count", "unit_active"),
           "none", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",),
           bias="none",
           parity="a count"),
    Signal("outlier_dims", activity.outlier_dims, ("mean", "variances"),
           "lower", "1", "[1, √d]", "Kovaleva et al. 2021, arXiv 2105.06990", ("units",),
           bias="high at small n",
           parity="a ratio of root mean squares; other papers threshold the maximum instead"),
    Signal("tolerance", spread.tolerance, ("unit_labelled_rows", "row_labels"),
           "none", "1", "[−1, 1]", "Wang & Liu 2021, arXiv 2012.09740", ("density",),
           bias="none",
           parity="Wang & Liu's mean same-class cosine, over pairs of different rows only"),
    Signal("nc1", neural_collapse.nc1, (*_CLASSES, "within_scatter", "class_share"),
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
           "none", "1", "[0, ∞)", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",),
           bias="noise of the class means adds to it; with classes of different sizes it is not 0 at the optimum: "
                "lengths follow the sizes",
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
           bias="noise of the class means adds to it; of a classifier without bias it is not 0 at the optimum (0.32 "
                "for ten equal classes, 0.60 for 1,000 to 30 rows): read nc3_orthogonal there",
           parity="Papyan et al.'s self-duality on the classes that are there"),
    Signal("nc3_orthogonal", orthogonal_collapse.nc3_orthogonal, (*_CLASSES, "head_weight"),
           "lower", "1", "[0, 2]", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",),
           bias="noise of the class means adds to it; of a classifier with a bias nc3 is the one to read",
           parity="uncentred cosines; 0 at the closed-form optimum of a squared loss without bias"),
    Signal("nc_count_slope", orthogonal_collapse.nc_count_slope, (*_CLASSES, "head_weight"),
           "none", "1", "(−∞, ∞)", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",),
           bias="noise of small classes' means lowers it",
           parity="scipy.stats.linregress of logarithms; 0.5 at that optimum"),
    Signal("nc4", neural_collapse.nc4, ("classified_rows", *_CLASSES, "head_weight", "head_bias"),
           "lower", "share", "[0, 1]", _PAPYAN, ("neural_collapse",),
           bias="none; final class means against the bank's rows",
           parity="Papyan et al.; with the classifier's bias"),
    Signal("cdnv", neural_collapse.cdnv, (*_CLASSES, "class_variances"),
           "lower", "1", "[0, ∞)", "Galanti, György & Hutter 2022, arXiv 2112.15121", ("neural_collapse",),
           bias="low when classes have few rows: variances divide by n_c",
           parity="Galanti et al.'s average over pairs"),
    Signal("lidar", views.lidar, ("view_rows",),
           "higher", "dimensions", "[1, min(s−1, d)]", "Thilak et al. 2023, arXiv 2312.04000", ("spectrum", "views"),
           ceiling=spectrum.centred_ceiling,
           bias="low with few samples or views; δ = 1e-4 ties it to the features' scale",
           parity="Thilak et al. with s samples of q real views and no ε added to the shares; slicing a queue into "
                  "groups is another number"),
    Signal("alignment", views.alignment, ("view_rows",),
           "none", "1", "[0, 4]", "Wang & Isola 2020, arXiv 2005.10242", ("density", "views"),
           bias="none; 0 for a collapsed representation too",
           parity="Wang & Isola's align_loss (α = 2), over all pairs of views of a sample"),
    Signal("vmf_kappa", von_mises_fisher.vmf_kappa, ("nonzero_count", "direction_sums"),
           "none", "1", "(0, ∞)", "Banerjee et al. 2005", ("density",),
           bias="about d/√n for directions without any concentration",
           parity="Banerjee et al.'s closed form; the maximum-likelihood κ of scipy.stats.vonmises_fisher.fit differs "
                  "from it by a few per mille"),
    Signal("vmf_log_density", von_mises_fisher.vmf_log_density, ("nonzero_count", "direction_sums"),
           "none", "nats", "(−∞, ∞)", "Banerjee et al. 2005", ("density",),
           bias="high at small n, as κ is",
           parity="mean of scipy.stats.vonmises_fisher.logpdf at that κ, which overflows in high dimension"),
    Signal("effective_kde_points", density.effective_kde_points, ("kernel_sums", "kernel_squares", "kernel_counts"),
           "none", "rows", "[1, n−1]", "Biroli & Mézard 2024, arXiv 2408.05807", ("density",),
           bias="grows with n",
           parity="1/Σw² per row; the kernel is uniformity's (a Gaussian of width ½ on the sphere)"),
    Signal("neighbor_churn", density.neighbor_churn, ("neighbor_samples", "samples", "earlier_neighbors"),
           "none", "share", "[0, 1]", "Wang et al. 2022; Goel et al. 2025, arXiv 2502.04313", ("density",),
           bias="high variance at small k; needs the same samples in both windows",
           parity="1 − mean overlap of neighbour sets (mutual kNN), k = 20"),
    Signal("robustness_index", density.robustness_index, ("neighbor_indices", "bank_labels", "bank_groups"),
           "higher", "1", "[0, ∞)", "de Jong et al. 2025, arXiv 2501.18055", ("density", "groups"),
           bias="depends on how classes and groups are mixed in the data",
           parity="same class and other group over other class and same group, over all rows' k = 20 neighbours"),
    Signal("tail_min_angle", long_tail.tail_min_angle, ("class_means", "class_counts", "frequency"),
           "higher", "degrees", "[0, 180]", "Fang et al. 2021, arXiv 2101.12699", ("neural_collapse",),
           limits=Limits(drop=0.2),
           bias="noise of rare classes' means opens angles",
           parity="angles of centred class means; tail = the third of the classes with the fewest rows"),
    Signal("class_volume_tail_gap", long_tail.class_volume_tail_gap,
           ("labelled_rows", "labelled_row_labels", "frequency"),
           "lower", "nats", "(−∞, ∞)", "Ma et al. 2023, arXiv 2212.14613", ("neural_collapse",),
           bias="noisy when the rarest class has few rows in the bank",
           parity="Ma et al.'s volume, in nats instead of bits, each class on the same number of rows"),
    Signal("class_subspace_affinity", subspaces.class_subspace_affinity, ("labelled_rows", "labelled_row_labels"),
           "lower", "1", "[0, 1]", "Soltanolkotabi & Candès 2012", ("neural_collapse",),
           bias="random subspaces read about √(5/d)",
           parity="scipy.linalg.subspace_angles' cosines, root mean square, of the first 5 uncentred directions of at "
                  "most 128 rows a class"),
    Signal("nrc1", regression.nrc1, ("rows_with_target", "targets", "mean", "principal_directions"),
           "none", "1", "[0, 1]", "Andriopoulos et al. 2024, arXiv 2409.04180", ("regression",),
           bias="low at n < d",
           parity="Andriopoulos et al. with centred rows; implementations that normalise uncentred rows differ"),
    Signal("id_ratio", regression.id_ratio, ("target_local_distances", "target_distances"),
           "none", "1", "(0, ∞)", "arXiv 2510.01105", ("regression", "dimension"),
           bias="id_two_nn's, of both",
           parity="scikit-dimension's TwoNN of the features over that of the targets"),
    Signal("fidelity_precision", fidelity.precision, ("prdc",),
           "higher", "share", "[0, 1]", "Kynkäänniemi et al. 2019, arXiv 1904.06991", ("fidelity",),
           bias="depends on both banks' sizes",
           parity="prdc's precision, k = 5"),
    Signal("fidelity_recall", fidelity.recall, ("prdc",),
           "higher", "share", "[0, 1]", "Kynkäänniemi et al. 2019, arXiv 1904.06991", ("fidelity",),
           bias="depends on both banks' sizes",
           parity="prdc's recall, k = 5"),
    Signal("fidelity_density", fidelity.density, ("prdc",),
           "higher", "1", "[0, ∞)", "Naeem et al. 2020, arXiv 2002.09797", ("fidelity",),
           bias="about 1 for equal distributions, not bounded by it",
           parity="prdc's density, k = 5"),
    Signal("fidelity_coverage", fidelity.coverage, ("prdc",),
           "higher", "share", "[0, 1]", "Naeem et al. 2020, arXiv 2002.09797", ("fidelity",),
           bias="1−2⁻⁵ for equal distributions and banks; less for a smaller bank than the reference's",
           parity="prdc's coverage, k = 5"),
    Signal("fidelity_sym_precision", fidelity.sym_precision, ("prdc",),
           "higher", "share", "[0, 1]", "Khayatkhoei & AbdAlmageed 2023, arXiv 2306.09618", ("fidelity",),
           bias="as fidelity_coverage",
           parity="the minimum of two of prdc's numbers"),
    Signal("fidelity_sym_recall", fidelity.sym_recall, ("prdc",),
           "higher", "share", "[0, 1]", "Khayatkhoei & AbdAlmageed 2023, arXiv 2306.09618", ("fidelity",),
           bias="as fidelity_coverage",
           parity="the minimum of two of prdc's numbers"),
    Signal("frechet_distance", fidelity.frechet_distance_to_reference,
           ("mean", "reference_mean", "sample_covariances"),
           "lower", "feature units²", "[0, ∞)", "Heusel et al. 2017, arXiv 1706.08500", ("fidelity",),
           bias="high at small n: compare at fixed n of both",
           parity="torchmetrics' FID on these features (means, covariances over n−1)"),
    Signal("kernel_mmd", fidelity.kernel_mmd, ("reference_rows", "rows"),
           "lower", "1", "(−∞, ∞)", "Bińkowski et al. 2018, arXiv 1801.01401", ("fidelity",),
           bias="none; below 0 by chance",
           parity="the kernel inception distance's polynomial MMD, unbiased, on all rows instead of subsets"),
    Signal("gaussian_log_density", outliers.gaussian_log_density, ("gaussian_distances", "reference_covariance"),
           "none", "nats", "(−∞, ∞)", "the multivariate normal density", ("ood",),
           bias="low when the reference has few rows for its dimensions",
           parity="scipy.stats.multivariate_normal.logpdf, averaged over the bank"),
    Signal("chi2_fraction", outliers.chi2_fraction, ("gaussian_distances", "dim"),
           "none", "share", "[0, 1]", "χ² test of Mahalanobis distances", ("ood",),
           bias="high when the reference has few rows for its dimensions, or heavy tails",
           parity="scipy.stats.chi2.ppf(0.99, d) as the threshold"),
    Signal("mahalanobis", outliers.mean_mahalanobis, ("class_gaussian_distances", "dim"),
           "none", "1", "[0, ∞)", "Lee et al. 2018, arXiv 1807.03888", ("ood",),
           bias="high when the reference has few rows for its dimensions",
           parity="scikit-learn's EmpiricalCovariance.mahalanobis of class-centred rows, least over classes, over d"),
    Signal("mahalanobis_auroc", outliers.mahalanobis_auroc,
           ("reference_class_gaussian_distances", "class_gaussian_distances"),
           "none", "share", "[0, 1]", "Lee et al. 2018, arXiv 1807.03888", ("ood",),
           bias="high when the reference has few rows for its dimensions: its own rows shaped the Gaussian",
           parity="scikit-learn's roc_auc_score"),
    Signal("knn_ood_score", outliers.mean_ood_distance, ("ood_distances",),
           "none", "1", "[0, 2]", "Sun et al. 2022, arXiv 2204.06507", ("ood",),
           bias="falls as the reference's bank grows",
           parity="Sun et al. with k = 50"),
    Signal("knn_ood_auroc", outliers.knn_ood_auroc, ("reference_ood_distances", "ood_distances"),
           "none", "share", "[0, 1]", "Sun et al. 2022, arXiv 2204.06507", ("ood",),
           bias="a little low: leave-one-out rows have one neighbour fewer",
           parity="scikit-learn's roc_auc_score"),
    *_SINCE_PREVIOUS,
    *_against("first"),
    *_against("best"),
    *_against("anchor"),
    Signal("recall_at_1", functools.partial(retrieval.recall_at, k=1),
           ("near_similarities", "near_labels", "row_labels", "own_voters"),
           "higher", "share", "[0, 1]", "Musgrave et al. 2020, arXiv 2003.08505", ("retrieval",),
           bias="high at large banks: more neighbours to be right",
           parity="scikit-learn's neighbours by cosine, leave-one-out (or of the reference)"),
    Signal("recall_at_5", functools.partial(retrieval.recall_at, k=5),
           ("near_similarities", "near_labels", "row_labels", "own_voters"),
           "higher", "share", "[0, 1]", "Musgrave et al. 2020, arXiv 2003.08505", ("retrieval",),
           bias="as recall_at_1",
           parity="as recall_at_1"),
    Signal("recall_at_10", functools.partial(retrieval.recall_at, k=10),
           ("near_similarities", "near_labels", "row_labels", "own_voters"),
           "higher", "share", "[0, 1]", "Musgrave et al. 2020, arXiv 2003.08505", ("retrieval",),
           bias="as recall_at_1",
           parity="as recall_at_1"),
    Signal("map_at_k", retrieval.map_at_k, ("near_similarities", "near_labels", "row_labels", "own_voters"),
           "higher", "1", "[0, 1]", "Musgrave et al. 2020, arXiv 2003.08505", ("retrieval",),
           bias="depends on k: that of knn_accuracy, at least 10",
           parity="average precision of the k nearest over min(k, R), by hand"),
    Signal("pair_recall_at_1", functools.partial(retrieval.pair_recall_at, k=1), ("view_rows",),
           "higher", "share", "[0, 1]", "Radford et al. 2021, arXiv 2103.00020", ("retrieval",),
           bias="high for few samples: chance is k/s",
           parity="the ranks of numpy.argsort, both ways"),
    Signal("pair_recall_at_5", functools.partial(retrieval.pair_recall_at, k=5), ("view_rows",),
           "higher", "share", "[0, 1]", "Radford et al. 2021, arXiv 2103.00020", ("retrieval",),
           bias="high for few samples: chance is k/s",
           parity="as pair_recall_at_1"),
    Signal("pair_recall_at_10", functools.partial(retrieval.pair_recall_at, k=10), ("view_rows",),
           "higher", "share", "[0, 1]", "Radford et al. 2021, arXiv 2103.00020", ("retrieval",),
           bias="high for few samples: chance is k/s",
           parity="as pair_recall_at_1"),
    Signal("pair_auroc", retrieval.pair_auroc, ("view_rows",),
           "higher", "share", "[0, 1]", "two views of a sample against two samples", ("retrieval",),
           bias="none; of 1,024 samples",
           parity="scikit-learn's roc_auc_score of all pairs"),
    Signal("verification_auroc", retrieval.verification_auroc, ("unit_labelled_rows", "row_labels", "row_samples"),
           "higher", "share", "[0, 1]", "verification by cosine", ("retrieval",),
           bias="none; of 1,024 rows",
           parity="scikit-learn's roc_auc_score of all pairs"),
    Signal("opis", retrieval.opis, ("unit_labelled_rows", "row_labels", "row_samples"),
           "lower", "1", "[0, 1]", "Zhang et al. 2024, arXiv 2307.04047", ("retrieval",),
           bias="high for few rows a class: shares of few pairs vary; of 1,024 rows",
           parity="the definition, threshold by threshold in numpy"),
    Signal("pair_overlap", retrieval.pair_overlap, ("cosine_shares",),
           "lower", "share", "[0, 1]", "overlapping coefficient of two histograms", ("retrieval",),
           bias="none; of 1,024 samples",
           parity="numpy.histogram of all pairs"),
    Signal("nearest_mean_accuracy", probes.nearest_mean_accuracy, ("classified_rows", "labelled_row_labels", *_CLASSES),
           "higher", "share", "[0, 1]", "the nearest class centre", ("probes",),
           bias="high at few rows a class: a row is part of its own mean",
           parity="scikit-learn's NearestCentroid, fitted and scored on the same rows"),
    Signal("linear_probe_accuracy", probes.linear_probe_accuracy,
           ("classified_rows", "labelled_row_labels", "reference_probe"),
           "higher", "share", "[0, 1]", "ridge classification in closed form", ("probes",),
           bias="low where the reference has few rows for its dimensions",
           parity="scikit-learn's RidgeClassifier at the same λ; ranks runs as a trained logistic probe does"),
    Signal("linear_probe_r2", probes.linear_probe_r2,
           ("rows_with_target", "targets", "reference_rows_with_target", "reference_targets"),
           "higher", "1", "(−∞, 1]", "ridge regression in closed form", ("probes",),
           bias="low where the reference's bank has few rows for its dimensions",
           parity="scikit-learn's Ridge at the same λ, and its r2_score"),
    Signal("code_perplexity", codes.code_perplexity, ("code_counts",),
           "higher", "codes", "[1, d]", "van den Oord et al. 2017, arXiv 1711.00937", ("codes",),
           bias="low at few rows: at most n",
           parity="exp of scipy.stats.entropy of numpy.bincount"),
    Signal("unused_codes", codes.unused_codes, ("code_counts",),
           "lower", "share", "[0, 1]", "Łańcucki et al. 2020, arXiv 2005.08520", ("codes",),
           bias="high at few rows: at least 1 − n/d",
           parity="a count"),
    Signal("largest_code_share", codes.largest_code_share, ("code_counts",),
           "lower", "share", "[0, 1]", "Fedus, Zoph & Shazeer 2022, arXiv 2101.03961", ("codes",),
           bias="high at few rows",
           parity="a count"),
    Signal("routing_entropy", codes.routing_entropy, ("code_counts", "code_entropy"),
           "none", "nats", "[0, ln d]", "the softmax of a router", ("codes",),
           bias="none",
           parity="scipy.stats.entropy of scipy.special.softmax, row by row"),
    Signal("own_class_cosine", lengths.own_class_cosine,
           ("classified_rows", "labelled_row_labels", *_CLASSES),
           "higher", "1", "[−1, 1]", "cosine with the own class mean", ("neural_collapse",),
           bias="high when classes have few rows: a row is part of its own mean",
           parity="a formula"),
    Signal("class_variance_share", shares.class_variance_share, (*_CLASSES, "class_variances"),
           "higher", "share", "[0, 1]", "η² of an analysis of variance", ("neural_collapse",),
           bias="(C−1)/(n−1) of rows without class structure",
           parity="sums of squares of scipy.stats.f_oneway, added over dimensions"),
    Signal("class_rank", subspaces.class_rank, ("class_ranks",),
           "none", "dimensions", "[1, min(127, d)]", "Roy & Vetterli 2007, class by class", ("neural_collapse",),
           bias="low when classes have few rows in the bank",
           parity="float64 singular values of each class's centred rows"),
    Signal("class_rank_lowest", subspaces.class_rank_lowest, ("class_ranks",),
           "none", "dimensions", "[1, min(127, d)]", "Roy & Vetterli 2007, class by class", ("neural_collapse",),
           bias="that of the class with the fewest rows",
           parity="as class_rank"),
    Signal("nc3_uniform", orthogonal_collapse.nc3_uniform, (*_CLASSES, "head_weight"),
           "lower", "1", "[0, 2]", "Wu & Papyan 2024, arXiv 2405.17767", ("neural_collapse",),
           bias="noise of the class means adds to it",
           parity="the variance of neural-collapse's similarities(weights, means, mean of means, cos=True)"),
    Signal("neighbor_purity", density.neighbor_purity, ("neighbor_indices", "bank_labels"),
           "higher", "share", "[0, 1]", "share of neighbours of the own class", ("density",),
           bias="low where a class has fewer rows than neighbours",
           parity="scikit-learn's neighbours, counted"),
    Signal("local_dimension_q50", dimension.local_dimension_q50, ("local_dimension",),
           "none", "dimensions", "(0, ∞)", "Levina & Bickel 2004", ("dimension",),
           bias="as id_mle",
           parity="numpy.quantile of the per-row values"),
    Signal("local_dimension_q95", dimension.local_dimension_q95, ("local_dimension",),
           "none", "dimensions", "(0, ∞)", "Levina & Bickel 2004", ("dimension",),
           bias="high at small k: the spread of one row's estimate",
           parity="numpy.quantile of the per-row values"),
    Signal("id_mst", spanning_tree.id_mst, ("rows",),
           "none", "dimensions", "(0, ∞)", "Birdal et al. 2021, arXiv 2111.13171", ("dimension",),
           bias="low for high dimensions at so few rows; noisy: one draw of subsets",
           parity="SciPy's minimum_spanning_tree and linregress on the same subsets"),
    Signal("dse", diffusion.dse, ("diffusion",),
           "none", "bits", "[0, 10]", "Liao et al. 2023, arXiv 2312.04823", ("diffusion",),
           bias="grows with the number of rows up to 1,024",
           parity="the definition in NumPy, at the median distance instead of a fixed bandwidth"),
    Signal("dse_bandwidth", diffusion.dse_bandwidth, ("diffusion",),
           "none", "feature units", "[0, ∞)", "Liao et al. 2023, arXiv 2312.04823", ("diffusion",),
           bias="none",
           parity="numpy.median of SciPy's pdist"),
    Signal("dsmi", diffusion.dsmi, ("diffusion", "bank_labels"),
           "none", "bits", "(−∞, ∞)", "Liao et al. 2023, arXiv 2312.04823", ("diffusion",),
           bias="noisy where classes have few rows",
           parity="the definition in NumPy, with the first as many rows as a class has in place of a random draw"),
    Signal("energy_score", head_scores.energy_score, ("head_scores",),
           "none", "nats", "(−∞, ∞)", "Liu et al. 2020, arXiv 2010.03759", ("head",),
           bias="none; −ln C of a head of zeros, and it moves with a constant in all biases",
           parity="−torch.logsumexp of the head's outputs"),
    Signal("energy_auroc", head_scores.energy_auroc, ("reference_head_scores", "head_scores_of_any"),
           "none", "share", "[0, 1]", "Liu et al. 2020, arXiv 2010.03759", ("ood",),
           bias="high where the head was trained on the reference's rows",
           parity="scikit-learn's roc_auc_score"),
    Signal("prediction_entropy", head_scores.prediction_entropy, ("head_scores",),
           "none", "nats", "[0, ∞)", "entropy of the softmax", ("head",),
           bias="none; of the features in the bank, without what a step does to its outputs",
           parity="torch.distributions.Categorical(logits=…).entropy()"),
    Signal("margin_density", head_scores.margin_density, ("head_scores", "distances"),
           "none", "1", "[−1, 1]", "Chapelle & Zien 2005", ("head",),
           bias="low where rows differ in length",
           parity="scipy.stats.spearmanr"),
    Signal("feature_norm", lengths.feature_norm, ("rows",),
           "none", "feature units", "[0, ∞)", "a mean", ("scale",),
           bias="none",
           parity="numpy.linalg.norm"),
    Signal("feature_norm_cv", lengths.feature_norm_cv, ("rows",),
           "none", "1", "[0, ∞)", "a coefficient of variation", ("scale",),
           bias="none",
           parity="numpy.linalg.norm, n−1"),
    Signal("outlier_max", activity.outlier_max, ("unit_minimum", "unit_maximum", "mean", "variances"),
           "lower", "1", "[1, ∞)", "Bondarenko et al. 2023, arXiv 2306.12929", ("scale",),
           bias="grows with n: a maximum",
           parity="a ratio"),
    Signal("unit_kurtosis", activity.unit_kurtosis, ("rows",),
           "none", "1", "[1, ∞)", "Bondarenko et al. 2023, arXiv 2306.12929", ("scale",),
           bias="low at small n",
           parity="scipy.stats.kurtosis(fisher=False)"),
    Signal("unit_redundancy", activity.unit_redundancy, ("covariance",),
           "lower", "share", "[0, 1]", "connected correlations of 0.95", ("spectrum",),
           bias="high at small n",
           parity="SciPy's connected_components of numpy.corrcoef"),
    Signal("modality_gap", views.modality_gap, ("view_rows",),
           "none", "1", "[0, 2]", "Liang et al. 2022, arXiv 2203.02053", ("views",),
           bias="about √(2/s) at s samples",
           parity="a formula"),
    Signal("distance_correlation", regression.distance_correlation, ("rows_with_target", "targets"),
           "higher", "1", "[0, 1]", "Székely, Rizzo & Bakirov 2007", ("regression",),
           bias="high at small n, and in many dimensions",
           parity="the definition on SciPy's distance matrices"),
    Signal("group_variance_share", shares.group_variance_share, ("rows", "bank_groups"),
           "lower", "share", "[0, 1]", "η² of an analysis of variance", ("groups",),
           bias="high when groups have few rows",
           parity="as class_variance_share"),
    Signal("macro_std", shares.macro_std, ("vote_similarities", "vote_labels", "row_labels", "row_groups", "knn_t"),
           "lower", "share", "[0, 0.5]", "Chiu, Chen & Ma 2023, arXiv 2212.08649", ("groups",),
           bias="high when a class has few rows in a group",
           parity="numpy.average of class by class, of knn_accuracy's votes in place of the model's predictions"),
    Signal("authenticity", fidelity.authenticity, ("reference_rows", "rows"),
           "none", "share", "[0, 1]", "Alaa et al. 2022, arXiv 2102.08921", ("fidelity",),
           bias="rises with the dimension: 1/3 for one, 1/2 for five, 0.85 for 64 of Gaussians",
           parity="scikit-learn's neighbours"),
    Signal("gaussian_auroc", outliers.gaussian_auroc, ("reference_gaussian_distances", "gaussian_distances"),
           "none", "share", "[0, 1]", "Rippel et al. 2021, arXiv 2005.14140", ("ood",),
           bias="as mahalanobis_auroc; no label is read",
           parity="scikit-learn's roc_auc_score"),
    Signal("gaussian_low_variance_share", outliers.gaussian_low_variance_share,
           ("rows", "reference_mean", "reference_covariance"),
           "none", "share", "[0, 1]", "Kamoi & Kobayashi 2020, arXiv 2003.00402", ("ood",),
           bias="high when the reference has few rows for its dimensions",
           parity="scikit-learn's PCA of the reference"),
    Signal("mixture_log_density", outliers.mixture_log_density, ("rows", "reference_classes"),
           "none", "nats", "(−∞, ∞)", "Lafon et al. 2023, arXiv 2305.16966", ("ood",),
           bias="low when the reference has few rows for its dimensions",
           parity="scipy.stats.multivariate_normal.logpdf of each class, logsumexp"),
    Signal("nc5", orthogonal_collapse.nc5, ("mean", "reference_class_means"),
           "none", "1", "[0, 1]", "Ammar et al. 2024, arXiv 2310.06823", ("ood",),
           bias="noise of the means adds to it",
           parity="neural-collapse's orthogonality_deviation"),
    Signal("layer_cka", between_layers.layer_cka, ("with_layer_before",),
           "none", "1", "[0, 1]", "Kornblith et al. 2019, arXiv 1905.00414", ("layers",),
           bias="directions of large variance decide; high with few rows for the dimensions",
           parity="repsim's linear CKA of the bank's rows"),
    Signal("layer_overlap", between_layers.layer_overlap, ("with_layer_before",),
           "none", "share", "[0, 1]", "Goel et al. 2025, arXiv 2502.04313", ("layers",),
           bias="10/n by chance",
           parity="scikit-learn's neighbours, k = 10"),
    Signal("neighbor_overlap_anchor", between_layers.layer_overlap, ("with_anchor",),
           "none", "share", "[0, 1]", "Goel et al. 2025, arXiv 2502.04313", ("anchor",),
           bias="10/n by chance",
           parity="scikit-learn's neighbours, k = 10"),
    Signal(COUNT_SIGNAL, activity.n_samples, ("sample_count",),
           "none", "rows", "[0, ∞)", "a count", ("units",),
           bias="none",
           parity="a count"),
)
# fmt: on
