"""Very long runs: memory, checkpoints and reports stay bounded, and the file has every window."""

from itertools import pairwise
from pathlib import Path

import pytest

from lightning_featgeo.callbacks.checkpointing import Saved, save
from lightning_featgeo.history import thinning
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.report.runs import load
from tests._helpers.histories import record


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the usual lengths."""
    monkeypatch.setattr(thinning, "MOST", 40)
    monkeypatch.setattr(thinning, "LEAST", 8)
    monkeypatch.setattr(thinning, "ALL", 160)


def windows(n: int, layers: int = 1) -> list[Record]:
    return [
        record(i, ("feature_std",), stage="val" if i % 2 else "train", layer=str(layer), spectrum=[])
        for i in range(n)
        for layer in range(layers)
    ]


def numbers(history: History, stage: str) -> list[int]:
    return [record.window for record in history if record.stage == stage]


@pytest.mark.usefixtures("short")
def test_the_first_the_last_those_with_an_alarm_and_evenly_spread_ones_stay(tmp_path: Path) -> None:
    history = History(tmp_path / "featgeo" / "long.jsonl")
    for one in windows(1000):
        history.append(one)
        if one.window == 333:
            history.event(monitor="m", epoch=one.epoch, step=one.step, reason="it collapsed")
    assert history.closed == 1000
    for stage, last in (("train", 998), ("val", 999)):
        kept = numbers(history, stage)
        assert kept == sorted(set(kept))
        assert len(kept) <= 41
        assert kept[0] == last % 2
        assert kept[-10:] == list(range(last - 18, last + 1, 2))
        older = [number for number in kept[:-30] if number != 333]
        gaps = [b - a for a, b in pairwise(older)]
        assert max(gaps) <= 2 * 1000 / 10  # about as far apart as each other
    assert 333 in numbers(history, "val")
    whole = History.load(history.path)
    assert len(whole) == whole.closed == 1000
    assert [r.window for r in History.load(history.path, thin=True)] == [r.window for r in history]
    whole_run = next(iter(load([history.path])))  # as alarms are replayed: every check counts
    assert len(whole_run.records) == 1000
    assert not whole_run.notes
    run = next(iter(load([history.path], thin=True)))
    assert len(run.records) == len(history)
    assert "1,000 windows are in the file" in run.notes[0]
    assert "<p>1000 windows, the last:" in history._repr_html_()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("layers", [1, 10, 50])
def test_a_checkpoint_is_bounded_whatever_the_number_of_curves(layers: int) -> None:
    history, sizes = History(), []
    for one in windows(300, layers):
        history.append(one)
        sizes.append(len(history))
    most = max(160, 2 * layers * 8)
    assert max(sizes) <= most
    saved = Saved.read(save(300, history, {}))
    assert saved is not None
    assert [r.window for r in saved.records] == [r.window for r in history]
    assert saved.records == history.records
    again = History()
    again.restore(saved.records, saved.events)
    assert again.records == history.records


def test_short_runs_are_whole_and_old_checkpoints_are_read() -> None:
    history = History()
    for one in windows(500):
        history.append(one)
    assert len(history) == 500
    old = {"version": 2, "windows": 500, "records": [one.as_dict() for one in history], "events": []}
    saved = Saved.read(old)
    assert saved is not None
    assert saved.records == history.records


@pytest.mark.usefixtures("short")
def test_alarms_in_every_window_and_numbers_that_go_back_are_bounded_too() -> None:
    history = History()
    for one in windows(600):
        history.append(one)
        history.event(monitor="m", epoch=one.epoch, step=one.step, reason="again")
    assert len(history) <= 84
    damaged = [record(i, ("feature_std",), spectrum=[]) for i in [*range(30, 0, -1), *range(30)]]
    assert 0 < len(thinning.thinned(damaged, [])) < 60
