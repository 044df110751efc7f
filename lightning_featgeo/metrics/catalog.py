"""The one table of signals: logging, documentation, reports and stop rules read it.

Adding a signal: write a pure function (tensors in; a 0-d tensor or an ``Estimate`` out; ``Undefined`` raised with
the reason where it has no value) and add a row whose ``needs`` name the statistics it takes, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_featgeo.metrics import activity, density, dimension, neural_collapse, spectrum
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
    Signal("feature_std", spectrum.feature_std, ("row_count", "direction_sums", "direction_squares"),
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
    Signal("mean_resultant", spectrum.mean_resultant, ("nonzero_count", "direction_sums"),
           "lower", "1", "[0, 1]", "Mardia & Jupp 2000", ("spectrum",)),
    Signal("id_two_nn", dimension.id_two_nn, ("distances",),
           "none", "dimensions", "(0, ∞)", "Facco et al. 2017", ("dimension",)),
    Signal("id_mle", dimension.id_mle, ("distances",),
           "none", "dimensions", "(0, ∞)", "Levina & Bickel 2004; MacKay & Ghahramani 2005", ("dimension",)),
    Signal("knn_log_density", density.knn_log_density, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_log_density_q05", density.knn_log_density_q05, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_log_density_q50", density.knn_log_density_q50, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_log_density_q95", density.knn_log_density_q95, ("log_density",),
           "none", "nats", "(−∞, ∞)", _KNN_DENSITY, ("density",)),
    Signal("knn_accuracy", density.knn_accuracy, ("vote_similarities", "vote_labels", "row_labels"),
           "higher", "share", "[0, 1]", "Wu et al. 2018, arXiv 1805.01978", ("density",)),
    Signal("uniformity", density.uniformity, ("kernel_sums", "kernel_counts"),
           "lower", "nats", "[−8, 0]", "Wang & Isola 2020, arXiv 2005.10242", ("density",)),
    Signal("dead_fraction", activity.dead_fraction, ("unit_row_count", "unit_active"),
           "lower", "share", "[0, 1]", "Voita et al. 2023, arXiv 2309.04827", ("units",)),
    Signal("nc1", neural_collapse.nc1, (*_CLASSES, "within_scatter"),
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",)),
    Signal("nc1_ratio", neural_collapse.nc1_ratio, (*_CLASSES, "class_variances"),
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",)),
    Signal("nc2_equinorm", neural_collapse.nc2_equinorm, _CLASSES,
           "lower", "1", "[0, ∞)", _PAPYAN, ("neural_collapse",)),
    Signal("nc2_equiangle", neural_collapse.nc2_equiangle, _CLASSES,
           "lower", "1", "[0, 2]", _PAPYAN, ("neural_collapse",)),
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
