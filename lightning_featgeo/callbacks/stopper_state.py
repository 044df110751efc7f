"""A stopper's state of a checkpoint, of this version or another, whole or damaged: what is readable is taken up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_featgeo.alarms import Alarm
from lightning_featgeo.callbacks.actions import Checkpoints
from lightning_featgeo.history.checked import items, mapping, name_of, readable, whole

VERSION = 1


def load(stopper: Any, state: Mapping[str, Any]) -> list[str]:
    """Take up a state; ``stopper``: a ``GeometryEarlyStopping``. Returns what could not be read, and begins anew.

    Lightning's own part of the state (its patience, its best score) plays no role here: rules decide.
    """
    version = state.get("version", 0)
    if not isinstance(version, int) or version > VERSION:
        return [f"all of it (format {version!r}, this version reads up to {VERSION})"]
    lost = []
    try:
        stopper.stopped_epoch = whole(state.get("stopped_epoch", 0))
    except (TypeError, ValueError, OverflowError):
        lost.append("the epoch of its stop")
    seen = _part(state, "detectors", items, lost, "what its rules have seen")
    if seen and len(seen) != len(stopper.detectors):
        lost.append(f"what {len(seen)} rules have seen: there are {len(stopper.detectors)} now")
        seen = []
    for detector, one in zip(stopper.detectors, seen, strict=False):
        try:
            detector.load_state_dict(mapping(one))
        except Exception:  # whatever is wrong with it: its rules begin anew
            lost.append(f"what the rules of {detector.kind.name!r} have seen")
    stopper.alarms, bad = readable(_part(state, "alarms", items, lost, "its alarms"), Alarm.read)
    lost += [f"{bad} of its alarms"] if bad else []
    pairs, bad = readable(_part(state, "checkpoints", mapping, lost, "the list of checkpoints").items(), _seen)
    lost += [f"{bad} of the checkpoints it knows"] if bad else []
    stopper.checkpoints = Checkpoints(dict(pairs))
    return lost


def _part(state: Mapping[str, Any], name: str, check: Any, lost: list[str], what: str) -> Any:
    try:
        return check(state[name])
    except (KeyError, TypeError):
        lost.append(what)
        return check({} if check is mapping else [])


def _seen(given: tuple[Any, Any]) -> tuple[str, tuple[int, int]]:
    path, (at, when) = given
    return name_of(path), (whole(at), int(when))
