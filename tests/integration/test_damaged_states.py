"""States of a checkpoint, damaged leaf by leaf: a resumed run goes on with what is readable, and says what is not."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lightning_featgeo import FeatureGeometryMonitor, GeometryEarlyStopping
from lightning_featgeo.callbacks.checkpointing import Saved
from lightning_featgeo.errors import FeatureGeometryWarning
from tests._helpers.models import WHOLE, Classifier, loaders, trainer

MISSING = object()
DAMAGE: list[Any] = [
    math.nan, math.inf, None, "x", -1, 10**30, True, 0.5, [], {}, torch.zeros(2), b"\x00", {"unknown": 1}, MISSING,
]  # fmt: skip


def callbacks() -> tuple[FeatureGeometryMonitor, GeometryEarlyStopping]:
    stop = GeometryEarlyStopping("collapse", patience=3)
    return FeatureGeometryMonitor(
        signals=["feature_std", "effective_rank", "neighbor_churn"], stages=("val", "train")
    ), stop


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a run of three epochs, with an alarm and an event in it."""
    monitor, stop = callbacks()
    folder = tmp_path_factory.mktemp("run")
    save = pl.callbacks.ModelCheckpoint(folder, save_last=True)
    trainer(monitor, stop, save, max_epochs=3, enable_checkpointing=True).fit(Classifier(), *loaders())
    found: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    own = next(state for key, state in found["callbacks"].items() if "Stopping" in key)
    assert own["detectors"][0]["checks"]
    own["alarms"] = [
        {
            "kind": "collapse", "title": "total collapse", "name": "featgeo/val/feature_std", "rule": "Drop()",
            "epoch": 2.0, "step": 8, "since_epoch": 1.0, "since_step": 4, "checks": 2, "old_epoch": 1.0, "old": 1.0,
            "new": 0.1, "text": "lost", "limit": "0.5", "source": "given", "noise": 0.0, "level": 0.5, "also": ["a"],
            "agree": [], "disagree": [], "checkpoint": "x.ckpt", "causes": ["b"], "steps": ["c"],
        }
    ]  # fmt: skip
    geometry = next(state for key, state in found["callbacks"].items() if "Monitor" in key)
    geometry["events"] = [{"epoch": 2.0, "step": 8, "monitor": "val", "reason": "it was seen"}]
    return found


def places(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every part of a state; of long lists the first two."""
    if path:
        yield path
    parts = state.items() if isinstance(state, dict) else enumerate(state[:2]) if isinstance(state, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def damaged(state: Any, path: tuple[Any, ...], by: Any) -> Any:
    found = holder = copy.copy(state)
    for key in path[:-1]:
        inner = copy.copy(holder[key])
        holder[key], holder = inner, inner
    if by is MISSING:
        del holder[path[-1]]
    else:
        holder[path[-1]] = by
    return found


def as_text(state: dict[str, Any]) -> dict[str, Any]:
    """With records as JSON, as far as they can be that."""
    records = state.get("records")
    if not isinstance(records, list):
        return state
    return {**state, "records": [json.dumps(one, default=str) for one in records]}


def own_state(checkpoint: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(state for key, state in checkpoint["callbacks"].items() if kind in key)


def test_every_leaf_of_a_monitors_state(checkpoint: dict[str, Any]) -> None:
    kept = own_state(checkpoint, "Monitor")
    whole, tried = Saved.read(kept), 0
    assert whole is not None
    assert (len(whole.records), len(whole.events)) == (len(kept["records"]), 1)
    state = {**kept, "records": [json.loads(text) for text in kept["records"]]}  # as versions before the third did
    for path in places(state):
        for by in DAMAGE:
            tried += 1
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = damaged(state, path, by)
                saved = Saved.read(as_text(found) if tried % 2 else found)
            assert len(said) <= 1, (path, by)
            if path[0] in ("records", "events") and len(path) > 1:
                assert saved is not None
                assert len(saved.records) + len(saved.events) >= len(whole.records), (path, by)  # one is lost at most
    assert tried > 1000


def test_every_leaf_of_a_stoppers_state(checkpoint: dict[str, Any]) -> None:
    state, tried = own_state(checkpoint, "Stopping"), 0
    callbacks()[1].load_state_dict(state)  # whole: nothing is said
    record = Saved.of(own_state(checkpoint, "Monitor")).records[0]
    for path in places(state):
        for by in DAMAGE:
            tried += 1
            _, stop = callbacks()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                stop.load_state_dict(damaged(state, path, by))
            assert len(said) <= 1, (path, by)
            for detector in stop.detectors:
                detector.observe(record)  # what was taken up can be gone on with
                detector.state_dict()
            assert all(alarm.report and alarm.line for alarm in stop.alarms)
    assert tried > 1000


@pytest.mark.parametrize("kind", ["Monitor", "Stopping"])
@pytest.mark.parametrize("by", [math.nan, torch.zeros(2), {"unknown": 1}, MISSING])
@pytest.mark.parametrize("of", range(3))
def test_a_resumed_run_goes_on(kind: str, by: Any, of: int, checkpoint: dict[str, Any], tmp_path: Any) -> None:
    state = own_state(checkpoint, kind)
    deep = sorted(places(state), key=len)
    path = (deep[0], deep[len(deep) // 2], deep[-1])[of]
    found = copy.deepcopy(checkpoint)
    key = next(key for key in found["callbacks"] if kind in key)
    found["callbacks"][key] = damaged(state, path, by)
    torch.save(found, tmp_path / "damaged.ckpt")
    monitor, stop = callbacks()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", FeatureGeometryWarning)
        trainer(monitor, stop, max_epochs=5, enable_checkpointing=True).fit(
            Classifier(), *loaders(), ckpt_path=str(tmp_path / "damaged.ckpt"), **WHOLE
        )
    assert [epoch for epoch, _ in monitor.history.series("featgeo/val/feature_std")][-2:] == [4, 5]
    told = [str(one.message) for one in said if "in the checkpoint" in str(one.message)]
    assert len(told) <= 1, told


def test_a_state_of_a_later_version_begins_anew_and_says_so(checkpoint: dict[str, Any]) -> None:
    _, stop = callbacks()
    with pytest.warns(FeatureGeometryWarning, match="format 99, this version reads up to 1"):
        stop.load_state_dict(own_state(checkpoint, "Stopping") | {"version": 99})
    assert not stop.detectors[0].checks
    with pytest.warns(FeatureGeometryWarning, match="written by a later version"):
        assert Saved.read(own_state(checkpoint, "Monitor") | {"version": 99}) is None
