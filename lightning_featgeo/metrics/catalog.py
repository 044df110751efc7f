"""The catalogue: finds signals by name, group or preset; logging, documentation, reports and stop rules read it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics.signals import COUNT_SIGNAL, SIGNALS, Limits, Signal
from lightning_featgeo.metrics.statistics import statistics  # noqa: F401  # registers what a row's needs may name
from lightning_featgeo.metrics.statistics.bank import BY_ANGLE, BY_DISTANCE
from lightning_featgeo.metrics.statistics.needs import required_by

__all__ = ["CATALOG", "COUNT_SIGNAL", "PRESETS", "Limits", "Signal", "named_signals", "register", "resolve"]

CATALOG: dict[str, Signal] = {row.name: row for row in SIGNALS}

PRESETS: dict[str, tuple[str, ...]] = {  # by kind of run; members that lack their input are left out
    "classifier": (
        "feature_std", "effective_rank", "knn_accuracy", "nc1", "nc2_equiangle", "cdnv", "id_two_nn",
        "knn_log_density",
    ),
    "self_supervised": (
        "feature_std", "effective_rank", "rankme", "uniformity", "alignment", "lidar", "id_two_nn", "knn_accuracy",
    ),
    "tokens": (
        "feature_std", "effective_rank", "top_eigenvalue_share", "outlier_dims", "mean_resultant", "id_two_nn",
        "knn_log_density",
    ),
    "embeddings": ("feature_std", "mean_resultant", "effective_rank", "uniformity", "alignment", "hubness"),
    "regressor": ("feature_std", "effective_rank", "nrc1", "id_ratio", "id_two_nn", "knn_log_density"),
}  # fmt: skip


def register(signal: Signal) -> None:
    """Add a signal of your own; afterwards ``signals=`` finds it by name and by its groups.

    Raises:
        ConfigurationError: if the name is taken or not made of ``[a-z0-9_]``, a need is no statistic, or the range
            none.
    """
    if signal.name in CATALOG:
        raise ConfigurationError(f"a signal named {signal.name!r} exists already; choose another name")
    if signal.name in ("alarm", "epoch"):
        raise ConfigurationError(f"signal name {signal.name!r} is taken by what is logged beside the signals")
    if not signal.name or set(signal.name) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ConfigurationError(f"signal name {signal.name!r}: use lower-case letters, digits and _ only")
    try:
        required_by(signal.needs)
        _ = signal.bounds
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"signal {signal.name!r}: {error.args[0]}") from None
    CATALOG[signal.name] = signal


def named_signals(signals: str | Sequence[str]) -> frozenset[str]:
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


def facts_not_read(name: str) -> frozenset[str]:
    """Facts of a window (see ``Record.facts``) that a signal does not depend on: its curves may differ in them."""
    signal = CATALOG.get(name)
    if signal is None:
        return frozenset()
    needs, unread = set(signal.needs), set()
    if not needs & BY_DISTANCE:
        unread.add("k")
    if not needs & {"vote_similarities", "vote_labels"}:
        unread.add("knn_vote_k")
    if "bank" not in signal.requires and not needs & (BY_DISTANCE | BY_ANGLE):
        unread.add("bank_size")
    if "scatter" not in signal.requires:
        unread.add("spectrum_rows")
    if "reference" not in signal.requires and name != "knn_accuracy":
        unread.add("reference")
    return frozenset(unread)
