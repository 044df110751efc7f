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
           "higher", "1", "[0, 1]", "Chen & He 2021, arXiv 2011.10566", ("spectrum",)),
    Signal("effective_rank", spectrum.effective_rank, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Roy & Vetterli 2007", ("spectrum",), _centred_ceiling),
    Signal("rankme", spectrum.rankme, ("second_moment_eigenvalues",),
           "higher", "dimensions", "[1, min(n, d)]", "Garrido et al. 2023, arXiv 2210.02885", ("spectrum",),
           _uncentred_ceiling),
    Signal("participation_ratio", spectrum.participation_ratio, ("covariance",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Gao et al. 2017", ("spectrum",), _centred_ceiling),
    Signal("stable_rank", spectrum.stable_rank, ("eigenvalues",),
           "higher", "dimensions", "[1, min(n−1, d)]", "Rudelson & Vershynin 2007", ("spectrum",), _centred_ceiling),
    Signal("top_eigenvalue_share", spectrum.top_eigenvalue_share, ("eigenvalues",),
           "lower", "share", "(0, 1]", "principal component analysis", ("spectrum",)),
    Signal("mean_resultant", spread.mean_resultant, ("nonzero_count", "direction_sums"),
           "lower", "1", "[0, 1]", "Mardia & Jupp 2000", ("spectrum",)),
    Signal("participation_ratio_corrected", spectrum.participation_ratio_corrected, ("rows",),
           "higher", "dimensions", "(0, ∞)", "Himeno & Yamada 2014; Chun et al. 2025, arXiv 2509.26560", ("spectrum",),
           _centred_ceiling),
    Signal("numerical_rank", spectrum.numerical_rank, ("eigenvalues", "sample_count", "dim"),
           "higher", "dimensions", "[0, min(n−1, d)]", "numerical linear algebra", ("spectrum",), _centred_ceiling),
    Signal("condition_number", spectrum.condition_number, ("eigenvalues", "dim"),
           "lower", "1", "[1, ∞)", "numerical linear algebra", ("spectrum",)),
    Signal("alpha_req", spectrum.alpha_req, ("eigenvalues",),
           "none", "1", "(−∞, ∞)", "Agrawal et al. 2022", ("spectrum",)),
    Signal("alpha_req_r2", spectrum.alpha_req_r2, ("eigenvalues",),
           "none", "1", "[0, 1]", "Agrawal et al. 2022", ("spectrum",)),
    Signal("spectral_spread", spectrum.spectral_spread, ("eigenvalues", "dim"),
           "lower", "1", "[0, 1]", "Marbut et al. 2023", ("spectrum",)),
    Signal("coding_rate", coding.coding_rate, ("unit_rows",),
           "higher", "nats", "(0, ∞)", "Yu et al. 2020, arXiv 2006.08558", ("spectrum",)),
    Signal("coding_rate_reduction", coding.coding_rate_reduction, ("unit_labelled_rows", "row_labels"),
           "higher", "nats", "[0, ∞)", "Yu et al. 2020, arXiv 2006.08558", ("neural_collapse",)),
    Signal("id_two_nn", dimension.id_two_nn, ("distances",),
           "none", "dimensions", "(0, ∞)", "Facco et al. 2017", ("dimension",)),
    Signal("id_two_nn_mle", dimension.id_two_nn_mle, ("distances",),
           "none", "dimensions", "(0, ∞)", "Facco et al. 2017; Denti et al. 2022", ("dimension",)),
    Signal("id_mle", dimension.id_mle, ("distances",),
           "none", "dimensions", "(0, ∞)", "Levina & Bickel 2004; MacKay & Ghahramani 2005", ("dimension",)),
    Signal("id_gride_2", dimension.id_gride_2, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",)),
    Signal("id_gride_4", dimension.id_gride_4, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",)),
    Signal("id_gride_8", dimension.id_gride_8, ("distances",),
           "none", "dimensions", "(0, ∞)", "Denti et al. 2022", ("dimension",)),
    Signal("knn_log_density", density.knn_log_density, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_log_density_q05", density.knn_log_density_q05, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_log_density_q50", density.knn_log_density_q50, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_log_density_q95", density.knn_log_density_q95, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_entropy", density.knn_entropy, ("distances", "dim"),
           "none", "nats", "(−∞, ∞)", "Kozachenko & Leonenko 1987", ("density",)),
    Signal("hubness", density.hubness, ("neighbor_indices",),
           "lower", "1", "(−∞, ∞)", "Radovanović et al. 2010", ("density",)),
    Signal("knn_accuracy", density.knn_accuracy, ("vote_similarities", "vote_labels", "row_labels"),
           "higher", "share", "[0, 1]", "Wu et al. 2018, arXiv 1805.01978", ("density",)),
    Signal("uniformity", density.uniformity, ("kernel_sums", "kernel_counts"),
           "lower", "nats", "[−8, 0]", "Wang & Isola 2020, arXiv 2005.10242", ("density",)),
    Signal("dead_fraction", activity.dead_fraction, ("unit_row_count", "unit_active"),
           "lower", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",)),
    Signal("firing_rate", activity.firing_rate, ("unit_row_count", "unit_active"),
           "none", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",)),
    Signal("outlier_dims", activity.outlier_dims, ("mean", "covariance"),
           "lower", "1", "[1, √d]", "Kovaleva et al. 2021, arXiv 2105.06990", ("units",)),
    Signal("tolerance", spread.tolerance, ("unit_labelled_rows", "row_labels"),
           "none", "1", "[−1, 1]", "Wang & Liu 2021, arXiv 2012.09740", ("density",)),
    Signal("nc1", neural_collapse.nc1, (*_CLASSES, "within_scatter"),
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",)),
    Signal("nc1_ratio", neural_collapse.nc1_ratio, (*_CLASSES, "class_variances"),
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",)),
    Signal("nc2_equinorm", neural_collapse.nc2_equinorm, _CLASSES,
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",)),
    Signal("nc2_equiangle", neural_collapse.nc2_equiangle, _CLASSES,
           "lower", "1", "[0, 2]", _PAPYAN, ("neural_collapse",)),
    Signal("nc2_equinorm_orthogonal", neural_collapse.nc2_equinorm_orthogonal, _CLASSES,
           "lower", "1", "[0, ∞)", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",)),
    Signal("nc2_equiangle_orthogonal", neural_collapse.nc2_equiangle_orthogonal, _CLASSES,
           "lower", "1", "[0, 1]", "Dang et al. 2023, arXiv 2301.00437", ("neural_collapse",)),
    Signal("gnc2", neural_collapse.gnc2, _CLASSES,
           "lower", "1", "[−ln 2, ∞)", "Liu et al. 2023, arXiv 2303.06484", ("neural_collapse",)),
    Signal("nc3", neural_collapse.nc3, (*_CLASSES, "head_weight"),
           "lower", "1", "[0, 2]", _PAPYAN, ("neural_collapse",)),
    Signal("nc4", neural_collapse.nc4, ("labelled_rows", *_CLASSES, "head_weight", "head_bias"),
           "lower", "share", "[0, 1]", _PAPYAN, ("neural_collapse",)),
    Signal("cdnv", neural_collapse.cdnv, (*_CLASSES, "class_variances"),
           "lower", "1", "[0, ∞)", "Galanti, György & Hutter 2022, arXiv 2112.15121", ("neural_collapse",)),
    Signal(COUNT_SIGNAL, activity.n_samples, ("sample_count",),
           "none", "rows", "[0, ∞)", "a count", ("units",)),
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
