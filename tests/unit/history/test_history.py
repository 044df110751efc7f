import json
import sys
from pathlib import Path

import pytest

from lightning_featgeo import History
from lightning_featgeo.errors import Gap, GapKind
from lightning_featgeo.history.record import Record


def test_series_gaps_layers_and_events(tmp_path: Path) -> None:
    history = History(tmp_path / "deep" / "h.jsonl")
    history.describe({"layers": ["x"]})
    history.append(Record(0, "val", None, 1.0, 5, {"nc1": 2.0}))
    history.append(Record(1, "val", "net_0", 1.0, 5, {"nc1": 9.0}))
    history.append(Record(2, "val", None, 2.0, 10, {}, gaps={"nc1": Gap(GapKind.UNDEFINED, "one class")}))
    history.event(kind="stop", reason="because")
    assert history.series("featgeo/val/nc1") == [(1.0, 2.0)]
    assert history.series("featgeo/val/net_0/nc1") == [(1.0, 9.0)]
    read = History.load(tmp_path / "deep" / "h.jsonl")
    assert (read.records, read.run, read.events) == (history.records, history.run, history.events)
    assert all(json.loads(line) for line in (tmp_path / "deep" / "h.jsonl").read_text().splitlines())


def test_a_missing_file_is_an_error_and_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        History(tmp_path / "h.jsonl").append(Record(0, "val", None, 1.0, 5, {"nc1": float("nan")}))


def test_a_history_as_a_table() -> None:
    history = History()
    history.append(Record(0, "val", None, 1.0, 5, {"nc1": 2.0}, standard_errors={"nc1": 0.1}))
    history.append(Record(1, "val", "<b>", 2.0, 10, {"cdnv": 1.0}, gaps={"nc1": Gap(GapKind.UNDEFINED, "one class")}))
    first, second = history.rows()
    assert first == {"window": 0, "stage": "val", "layer": None, "epoch": 1.0, "step": 5, "nc1": 2.0, "nc1_se": 0.1}
    assert "nc1" not in second
    frame = history.to_pandas()
    assert list(frame.columns) == ["window", "stage", "layer", "epoch", "step", "nc1", "nc1_se", "cdnv"]
    assert frame.nc1.isna().tolist() == [False, True]
    shown = history._repr_html_()
    assert "<td>&lt;b&gt;</td>" in shown
    assert "2 windows" in shown
    for _ in range(30):
        history.append(Record(2, "val", None, 3.0, 15, {}))
    assert history._repr_html_().count("<tr>") == 21


def test_without_pandas_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"rows\(\) does without"):
        History().to_pandas()


def test_how_a_run_ended(tmp_path: Path) -> None:
    history = History(tmp_path / "h.jsonl")
    history.end("finished")
    assert History.load(tmp_path / "h.jsonl").run["end"] == "finished"
