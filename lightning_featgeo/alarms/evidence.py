"""What other signals say of a signal's loss: that something was learned meanwhile, or that it is a loss indeed."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_featgeo.alarms.checks import Check
from lightning_featgeo.alarms.kinds import Kind, Watch
from lightning_featgeo.alarms.past import Past
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG

LEARNING = 0.05  # a gain of another signal from which on a loss is learning


def learned_since(watch: Watch, checks: Sequence[Check]) -> int:
    """Index of the first check at which every signal named by ``unless`` had come near what it is now."""
    start = 0
    for name in watch.unless:
        now = checks[-1].values.get(name) if checks else None
        if now is None:
            continue
        scale = Past(CATALOG[name], [now])
        then = ((index, check.values[name]) for index, check in enumerate(checks) if name in check.values)
        start = max(start, next(index for index, value in then if scale.loss(now, value) <= LEARNING))
    return start


def is_confirmed(watch: Watch, checks: Sequence[Check], min_effect: float) -> bool:
    """Whether the signals named by ``confirmed_by`` have lost of their best as well, by more than their noise."""
    for name, loss in watch.confirmed_by:
        if not checks or name not in checks[-1].values:
            if watch.strictly:
                return False
            continue
        known = [check for check in checks if name in check.values and check.compares(checks[-1], name)]
        values, errors = ([getattr(check, of).get(name) for check in known] for of in ("values", "errors"))
        past = Past(CATALOG[name], values, errors, min_effect=min_effect)
        best = past.values[past.best]
        if past.loss(best, past.values[-1]) < loss or not past.is_effect(past.values[-1] - best, past.best):
            return False
    return True


def suffices(watch: Watch, checks: Sequence[Check]) -> bool:
    """Whether as many directions are left as the outputs need that are made of them, without signals that confirm."""
    needed = checks[-1].needed
    if not watch.below_needed or not needed or any(name in checks[-1].values for name, _ in watch.confirmed_by):
        return False
    return needed == 1 or checks[-1].values[watch.signal] > needed


def needed_of(record: Record) -> int:
    """How many directions the outputs can need that are made of a window's features; 0 if that is not known."""
    found = record.facts.get("needed_directions")
    return found if isinstance(found, int) and found > 0 else 0


def confirmation(watch: Watch, checks: Sequence[Check]) -> str:
    """What the signals named by ``confirmed_by`` did, or the outputs tell, in words; "" where nothing did."""
    known = {name: [c.values[name] for c in checks if name in c.values] for name, _ in watch.confirmed_by}
    best = {name: values[Past(CATALOG[name], values).best] for name, values in known.items() if values}
    if not best and watch.below_needed and (needed := checks[-1].needed):
        return f", and at most {needed}, which the outputs need"
    return "".join(f", as {name} has lost too: {best[name]:.4g} → {known[name][-1]:.4g}" for name in best)


def is_watched(name: str, kind: Kind) -> bool:
    """Whether a kind's rules read a signal."""
    return any(name in (w.signal, *w.unless, *(other for other, _ in w.confirmed_by)) for w in kind.watches)


def is_kept(name: str, kind: Kind) -> bool:
    """Watched, or able to agree or disagree."""
    return is_watched(name, kind) or (name in CATALOG and CATALOG[name].direction != "none")
