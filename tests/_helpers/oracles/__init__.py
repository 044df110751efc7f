"""Independent float64 formulas and other libraries: what every signal is compared with.

NumPy, SciPy, mpmath, scikit-learn, prdc and torchmetrics; nothing here imports lightning_featgeo.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests._helpers.oracles.classes import classes
from tests._helpers.oracles.comparisons import compared, regression, views
from tests._helpers.oracles.neighbors import among_known_copies, dimensions, distances, neighbours, two_nn
from tests._helpers.oracles.others import against, distance_correlation, eta_squared, macro_std, rows_of
from tests._helpers.oracles.over_time import cka, over_time, overlap, readouts
from tests._helpers.oracles.retrieval import pairs, probe_accuracy, probe_r2, retrieval
from tests._helpers.oracles.spectra import Array, log_vmf_normaliser, rank_signals, singular_values, spectrum

__all__ = [
    "against",
    "among_known_copies",
    "cka",
    "compared",
    "dimensions",
    "distance_correlation",
    "distances",
    "eta_squared",
    "every_signal",
    "log_vmf_normaliser",
    "macro_std",
    "over_time",
    "overlap",
    "pairs",
    "probe_accuracy",
    "probe_r2",
    "rank_signals",
    "readouts",
    "regression",
    "retrieval",
    "singular_values",
    "spectrum",
    "two_nn",
    "views",
]


def every_signal(x: Array, y: NDArray[np.int64], weight: Array, bias: Array) -> dict[str, float | None]:
    """None where the definition has no value."""
    return {
        **spectrum(x),
        **neighbours(x, y),
        **retrieval(x, y),
        **classes(x, y, weight, bias),
        **rows_of(x, y, weight, bias),
        "n_samples": float(len(x)),
    }
