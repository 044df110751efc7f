"""Limits of a kind that were fixed on a user's own runs: a small YAML file that stoppers read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs would be a package for these two calls

from lightning_featgeo.alarms.kinds import KINDS, Kind, Watch
from lightning_featgeo.alarms.rules import LossRule
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.history.checked import finite, items, mapping, name_of, whole
from lightning_featgeo.metrics.catalog import CATALOG

VERSION = 1


def fraction_of(watch: Watch) -> float | None:
    """The loss from which on a watch's rule holds; None for a rule that measures none."""
    rule = watch.rule
    if not isinstance(rule, LossRule):
        return None
    known: float = getattr(CATALOG[watch.signal].limits, rule.limit_name)
    return known if rule.fraction is None else rule.fraction


def with_fractions(kind: Kind, fractions: dict[int, float]) -> Kind:
    """A kind with other limits. ``fractions``: by a watch's number."""
    watches = list(kind.watches)
    for at, fraction in fractions.items():
        rule: Any = watches[at].rule  # a ready-made one: a dataclass with a fraction
        watches[at] = replace(watches[at], rule=replace(rule, fraction=fraction))
    return replace(kind, watches=tuple(watches))


def write(path: Path, kind: Kind, fractions: dict[int, float], intact: int) -> None:
    """Keep limits in a file, in whose place nothing may stand.

    Args:
        path: of the file.
        kind: the ready-made kind.
        fractions: by a watch's number.
        intact: runs that they were fixed on.
    """
    limits = [_entry(at, kind.watches[at], fraction) for at, fraction in sorted(fractions.items())]
    told = {"kind": kind.name, "version": VERSION, "intact_runs": intact, "limits": limits}
    with path.open("x", encoding="utf-8") as file:
        file.write(f"# Limits of {kind.name!r}. Use: GeometryEarlyStopping({kind.name!r}, limits={path.name!r})\n")
        yaml.safe_dump(told, file, sort_keys=False)


def _entry(at: int, watch: Watch, fraction: float) -> dict[str, Any]:
    rule = type(watch.rule).__name__
    return {"watch": at, "signal": watch.signal, "rule": rule, "grade": watch.grade, "fraction": round(fraction, 4)}


def read(path: str | Path, kind: str) -> Kind:
    """A ready-made kind with the limits of a file.

    Raises:
        ConfigurationError: if there is none, it can't be read, or it is of another kind or of other rules.
    """
    again = f"make it anew: python -m lightning_featgeo.alarms calibrate RUN… --kind {kind} --out {path}"
    try:
        found = mapping(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        if name_of(found["kind"]) != kind:
            raise ConfigurationError(f"limits={str(path)!r} are of {found['kind']!r}, not of {kind!r}; {again}")
        if whole(found["version"]) > VERSION:
            raise ConfigurationError(f"limits={str(path)!r} are of a later version of lightning-featgeo; {again}")
        limits = {whole(each["watch"]): each for each in map(mapping, items(found["limits"]))}
        fractions = {at: finite(each["fraction"]) for at, each in limits.items()}
    except ConfigurationError:
        raise
    except OSError as error:
        raise ConfigurationError(f"limits={str(path)!r} can't be read ({error.strerror or error}); {again}") from None
    except Exception as error:
        raise ConfigurationError(f"limits={str(path)!r} are damaged ({error}); {again}") from None
    for at, each in limits.items():
        watch = KINDS[kind].watches[at] if 0 <= at < len(KINDS[kind].watches) else None
        if (
            watch is None
            or fraction_of(watch) is None
            or {**each, "fraction": 0} != {**_entry(at, watch, 0.0), "fraction": 0}
        ):
            raise ConfigurationError(f"limits={str(path)!r} are of other rules than this version's; {again}")
        if not 0 < fractions[at] < 1:
            raise ConfigurationError(f"limits={str(path)!r}: fraction {fractions[at]} is not between 0 and 1; {again}")
    return with_fractions(KINDS[kind], fractions)
