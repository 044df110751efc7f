import json
from pathlib import Path

import pytest

from lightning_featgeo import History
from lightning_featgeo.history import Record


def test_series_gaps_layers_and_events(tmp_path: Path) -> None:
    history = History(tmp_path / "deep" / "h.jsonl")
    history.describe({"layers": ["x"]})
    history.append(Record(0, "val", None, 1.0, 5, {"nc1": 2.0}))
    history.append(Record(1, "val", "net_0", 1.0, 5, {"nc1": 9.0}))
    history.append(Record(2, "val", None, 2.0, 10, {}, gaps={"nc1": "one class"}))
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
