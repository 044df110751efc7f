import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_featgeo import History
from lightning_featgeo.errors import FeatureGeometryWarning, Gap, GapKind
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


def test_a_disk_that_is_full_for_a_while_costs_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history, full = History(tmp_path / "h.jsonl"), False
    write = io.FileIO.write

    class Disk(io.FileIO):
        def write(self, data):
            if full and len(data) > 10:  # a disk takes what fits, and only then refuses
                return write(self, data[:10])
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(self, data)

    def opened(path: Path, mode: str = "r", buffering: int = -1, **more) -> Any:
        return Disk(path, mode.replace("b", "")) if mode == "ab+" else open(path, mode, buffering, **more)

    monkeypatch.setattr(Path, "open", opened)
    records = [Record(i, "val", None, float(i), i, {"feature_std": 0.5 + i}) for i in range(9)]
    for i, record in enumerate(records[:8]):
        full = i in (2, 3, 5)
        if i in (2, 5):
            with pytest.warns(FeatureGeometryWarning, match="No space left on device"):
                history.append(record)
        else:
            history.append(record)
        on_disk = History.load(tmp_path / "h.jsonl").records  # whole at every moment
        assert on_disk == records[: {2: 2, 3: 2, 5: 5}.get(i, i + 1)]
    full = True
    with pytest.warns(FeatureGeometryWarning):
        history.append(records[8])
    full = False
    history.end("ended as planned")
    read = History.load(tmp_path / "h.jsonl")
    assert read.records == records
    assert read.run["end"] == "ended as planned"


def test_a_line_that_was_cut_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    file = tmp_path / "h.jsonl"
    History(file).append(Record(0, "val", None, 1.0, 10, {"feature_std": 0.8}))
    with file.open("a") as opened:
        opened.write('{"window": {"window": 1, "sta')  # the process was killed here
    History(file).append(Record(1, "val", None, 2.0, 20, {"feature_std": 0.7}))
    with pytest.warns(FeatureGeometryWarning, match="1 lines of .* can't be read"):
        read = History.load(file)
    assert [record.window for record in read] == [0, 1]
