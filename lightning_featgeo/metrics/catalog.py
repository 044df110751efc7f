"""The catalogue: finds signals by name, group or preset; logging, documentation, reports and stop rules read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.metrics import own_signals
from lightning_featgeo.metrics.signals import COUNT_SIGNAL, SIGNALS, Limits, Signal
from lightning_featgeo.metrics.statistics import statistics  # noqa: F401  # registers what a row's needs may name
from lightning_featgeo.metrics.statistics.bank import BY_ANGLE, BY_DISTANCE
from lightning_featgeo.metrics.statistics.needs import required_by

__all__ = [
    "CATALOG",
    "COUNT_SIGNAL",
    "PRESETS",
    "Limits",
    "Signal",
    "Signals",
    "adopt",
    "named_signals",
    "names",
    "register",
    "resolve",
]

Signals = str | Callable[..., Any] | Sequence[Any]  # names, groups, presets, functions, Signal(…): one or several
CATALOG: dict[str, Signal] = {row.name: row for row in SIGNALS}
SHIPPED = frozenset(CATALOG)
_ADOPTED: set[str] = set()  # signals of the user's: asked for by their own names only

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
    "drift": (
        "cka_drift", "cka_drift_first", "procrustes_drift", "anchor_drift", "neighbor_churn", "class_drift",
        "compatibility_first",
    ),
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
    groups = {group for row in CATALOG.values() for group in row.groups}
    if signal.name in {*PRESETS, *groups, "all", "auto"}:
        raise ConfigurationError(f"signal name {signal.name!r} is that of a preset or group; choose another name")
    if signal.name in ("alarm", "epoch", "best"):
        raise ConfigurationError(f"signal name {signal.name!r} is taken by what is logged beside the signals")
    if not signal.name or set(signal.name) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ConfigurationError(f"signal name {signal.name!r}: use lower-case letters, digits and _ only")
    try:
        required_by(signal.needs)
        _ = signal.bounds
    except (KeyError, ValueError) as error:
        raise ConfigurationError(f"signal {signal.name!r}: {error.args[0]}") from None
    CATALOG[signal.name] = signal


class OwnName(str):
    """The name of an own signal, which takes the signal along where settings are copied or sent to another process."""

    signal: Signal

    def __new__(cls, signal: Signal) -> OwnName:
        name = super().__new__(cls, signal.name)
        name.signal = signal
        return name

    def __copy__(self) -> OwnName:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnName:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return adopt, (self.signal,)


def adopt(given: Any) -> OwnName:
    """The name of a signal of the user's own, which is in the catalogue afterwards.

    A definition that ran again takes the place of the first one.

    Raises:
        ConfigurationError: if it can't be one, or another signal is called so.
    """
    signal = own_signals.as_signal(given)
    known = CATALOG.get(signal.name)
    if known is not None and not own_signals.is_same(known, signal):
        raise ConfigurationError(
            f"a signal named {signal.name!r} exists already, of another function: give yours another name, "
            f'Signal("my_{signal.name}", …)'
        )
    if known is None or (known != signal and signal.name not in SHIPPED):
        CATALOG.pop(signal.name, None)
        try:
            register(signal)
        except ConfigurationError:
            CATALOG.update({} if known is None else {known.name: known})
            raise
        _ADOPTED.add(signal.name)
    return OwnName(CATALOG[signal.name])


def names(signals: Signals) -> str | Sequence[str]:
    """What ``signals=`` was given, with signals of the user's own in the catalogue and called by their names.

    Raises:
        ConfigurationError: for what is neither a name nor a signal.
    """
    if isinstance(signals, str) and ":" not in signals:
        return signals
    if not isinstance(signals, (str, Signal, Sequence)) and not callable(signals):
        raise ConfigurationError(f'signals={signals!r}: give names, functions or Signal(…), for example "auto"')
    given = [signals] if isinstance(signals, (str, Signal)) or callable(signals) else list(signals)
    found: list[str] = []
    functions: dict[str, Any] = {}
    for one in given:
        if isinstance(one, str) and ":" not in one:
            found.append(one)
            continue
        signal = own_signals.as_signal(own_signals.imported(one) if isinstance(one, str) else one)
        if functions.setdefault(signal.name, signal.function) is not signal.function:
            raise ConfigurationError(
                f"signals= has two functions called {signal.name!r}: give one of them another name"
            )
        found.append(adopt(signal))
    return found


def _each(signals: Signals) -> list[str]:
    given = names(signals)
    return [given] if isinstance(given, str) else list(given)


def named_signals(signals: Signals) -> frozenset[str]:
    """Those asked for by their own name: they must be computable. Members of groups are left out where they aren't."""
    return frozenset(CATALOG) & frozenset(_each(signals))


def resolve(signals: Signals) -> tuple[str, ...]:
    """Signal names behind names, groups, presets and "all", in order, each once; also those of other packages.

    Raises:
        ConfigurationError: for an unknown name, with near misses, or an empty choice.
    """
    groups = {group for row in CATALOG.values() for group in row.groups}
    found: dict[str, None] = {}
    for given in _each(signals):
        if given in CATALOG:
            found[str(given)] = None
        elif given == "all":
            found.update(dict.fromkeys(name for name in CATALOG if name not in _ADOPTED))
        elif given in PRESETS:
            found.update(dict.fromkeys(PRESETS[given]))
        elif given in groups:
            found.update({n: None for n, row in CATALOG.items() if given in row.groups and n not in _ADOPTED})
        elif given in (elsewhere := own_signals.offered()):
            found[str(adopt(own_signals.loaded(elsewhere[given])))] = None
        else:
            known = [*CATALOG, *sorted(groups), *PRESETS, "all", *elsewhere]
            last = str(given).rpartition("/")[2]  # of a logged name
            hint = f" Say {last!r}: names of stages are not part of it" if last != given and last in CATALOG else ""
            raise ConfigurationError(f"unknown signal {given!r}.{hint or near_misses(str(given), known)}")
    if not found:
        raise ConfigurationError('signals is empty; name some, for example signals=["effective_rank"]')
    return tuple(found)


def facts_not_read(name: str) -> frozenset[str]:
    """Facts of a window (see ``Record.facts``) that a signal does not depend on: its curves may differ in them."""
    signal = CATALOG.get(name)
    if signal is None:
        return frozenset()
    needs, unread = set(signal.needs), set()
    if not needs & BY_DISTANCE:
        unread.add("k")
    if not needs & {"vote_similarities", "vote_labels", "near_similarities", "near_labels"}:
        unread |= {"knn_vote_k", "knn_t", "reference_rows"}
    if "bank" not in signal.requires and not needs & (BY_DISTANCE | BY_ANGLE):
        unread.add("bank_size")
    if "scatter" not in signal.requires:
        unread.add("spectrum_rows")
    if "reference" not in signal.requires and name != "knn_accuracy":
        unread.add("reference")
    return frozenset(unread)
