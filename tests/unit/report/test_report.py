"""What a report compares, what it says, and the command that writes it."""

import json
import re
import sys
from pathlib import Path

import pytest

from lightning_featgeo.history.fingerprint import differences, fingerprint
from lightning_featgeo.report import ReportError, __main__, charts, write_report
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.data import MOST_NUMBERS
from lightning_featgeo.report.words import headline
from tests._helpers.histories import FACTS, SIGNALS, data_of, record, runs_below, stop, write
from tests._helpers.processes import run_script


@pytest.mark.parametrize(
    ("changed", "apart", "why"),
    [
        ({"k": 10}, {"id_two_nn"}, "neighbours (k): 10 instead of 20"),
        ({"knn_vote_k": 50}, {"knn_accuracy"}, "neighbours that vote: 50 instead of 200"),
        ({"bank_size": 100}, {"id_two_nn", "knn_accuracy"}, "rows in the bank: 100 instead of 4,096"),
        ({"bank_size": 9000}, set(), ""),  # neither was full
        ({"pool": "cls"}, set(SIGNALS), "pooling: 'cls'"),
        (
            {"skip_tokens": 1},
            set(SIGNALS),
            "tokens skipped: 1",
        ),
        ({"every_n_batches": 8}, set(SIGNALS), "every_n_batches: 8 instead of 1"),
        ({"spectrum_rows": 100}, {"effective_rank", "nc1"}, "rows that spectra are of: 100 instead of"),
        ({"spectrum_rows": 1024}, set(), ""),  # there were no more rows
        ({"dim": 32}, set(SIGNALS), "dimension: 32 instead"),
    ],
)
def test_curves_of_different_things_stand_apart(tmp_path: Path, changed: dict, apart: set, why: str) -> None:
    write(tmp_path / "a.jsonl", name="a")
    write(tmp_path / "b.jsonl", name="b", facts={**FACTS, **changed})
    found = panels(runs_below(tmp_path)[0])
    assert {p.signal for p in found if p.apart} == apart
    assert all(why in " ".join(p.apart) for p in found if p.apart)
    together = {p.signal for p in found if len(p.curves) == 2}
    assert not together & apart


def test_a_vote_from_a_reference_is_another_one(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="a")
    write(tmp_path / "b.jsonl", name="b", reference="train")
    apart = [p for p in panels(runs_below(tmp_path)[0]) if p.apart]
    assert {p.signal for p in apart} == {"knn_accuracy"}
    assert apart[0].apart == ["reference: 'train' instead of 'none'"]


def test_another_number_of_rows_or_definition_stands_apart_and_one_row_more_does_not(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="a")
    write(tmp_path / "b.jsonl", name="b", counts={"seen": 503})
    assert not any(p.apart for p in panels(runs_below(tmp_path)[0]))
    write(tmp_path / "b2.jsonl", name="b2", counts={"seen": 5000})
    assert all(
        "rows in a window: 5,000 instead of 500" in p.apart[0] for p in panels(runs_below(tmp_path)[0]) if p.apart
    )
    one = fingerprint("nc1", [record(0)], {"nc1": 1})
    assert differences(one, fingerprint("nc1", [record(0)], {"nc1": 2})) == [
        "version of the definition: 2 instead of 1"
    ]


def test_layers_and_stages_are_parts_of_their_own(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl")
    history.append(record(0, layer="net_0", signals=("nc1", "own_signal")))
    history.append(record(0, stage="train"))
    found = panels(runs_below(tmp_path / "a.jsonl")[0])
    assert list(dict.fromkeys((p.stage, p.layer) for p in found)) == [("val", None), ("val", "net_0"), ("train", None)]
    assert "own_signal" in {p.signal for p in found}


def test_the_headline_is_what_happened(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl")
    (run,), _ = runs_below(tmp_path / "a.jsonl")
    assert headline(run)[0] == "quiet"
    stop(history, 3.0, "alarm", "tail merging at epoch 3")
    stop(history, 4.0, "alarm", "tail merging at epoch 4")
    (run,), _ = runs_below(tmp_path / "a.jsonl")
    assert headline(run) == ("alarm", "tail merging at epoch 3. 1 more alarm after that.")
    stop(history, 5.0)
    (run,), _ = runs_below(tmp_path / "a.jsonl")
    assert headline(run) == ("stop", "total collapse at epoch 5.00. Before that, 2 alarms.")
    page = write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True).read_text()
    for text in ("no stop-gradient", "rankme 13 → 11", "look at the loss"):
        assert text in page
    assert [(m["kind"], m["epoch"]) for m in data_of(tmp_path / "r.html")["marks"]] == [
        ("alarm", 3), ("alarm", 4), ("stop", 5),
    ]  # fmt: skip


def test_names_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script>"
    history = write(tmp_path / "a.jsonl", name=bad, facts={**FACTS, "layer": bad}, gap=("nc1",))
    stop(history, 3.0, text=bad)
    page = write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True).read_text()
    assert "<script>alert" not in page
    assert page.count("<script") == 3  # data, libraries, ours
    assert data_of(tmp_path / "r.html")["runs"][0]["name"] == bad


def test_an_alarm_is_marked_in_its_own_layer(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl")
    history.append(record(0, layer="net_0"))
    history.event(kind="alarm", monitor="featgeo/val/net_0/nc1", epoch=1.0, step=20, reason="x", alarm={})
    (mark,) = data_of(write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True))["marks"]
    assert (mark["stage"], mark["layer"]) == ("val", "net_0")


def test_the_output_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    with pytest.raises(ReportError, match=r"is a folder: name the file to write"):
        write_report(tmp_path / "a.jsonl", tmp_path)
    assert not list(tmp_path.parent.glob("*.part"))


def test_a_baseline_by_name_or_part_of_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="resnet/version_0")
    write(tmp_path / "b.jsonl", name="resnet/version_1")
    page = write_report(tmp_path, tmp_path / "r.html", baseline="version_1", quiet=True).read_text()
    assert "resnet/version_1 <span class='badge'>baseline" in page
    assert "+0 against the baseline at epoch 12" in page
    with pytest.raises(ReportError, match="several of the runs: resnet/version_0, resnet/version_1"):
        write_report(tmp_path, tmp_path / "r.html", baseline="resnet", quiet=True)
    with pytest.raises(ReportError, match="none of the runs"):
        write_report(tmp_path, tmp_path / "r.html", baseline="vgg", quiet=True)


def test_a_run_that_stopped_early_is_compared_where_both_were(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="whole")
    write(tmp_path / "b.jsonl", name="short", windows=3)
    page = write_report(tmp_path, tmp_path / "r.html", baseline="whole", quiet=True).read_text()
    assert "against the baseline at epoch 3" in page
    assert "against the baseline at epoch 12" not in page


@pytest.mark.slow
def test_too_many_numbers_are_thinned_and_that_is_said(tmp_path: Path) -> None:
    signals = tuple(f"s_{i}" for i in range(50))
    windows = MOST_NUMBERS // 50 + 100
    lines = [json.dumps({"window": {**vars(record(i, signals=signals)), "spectrum": []}}) for i in range(windows)]
    lines.append(json.dumps({"event": {"kind": "stop", "monitor": "featgeo/val/s_0", "epoch": 1000.0, "step": 1}}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    path = write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True)
    assert "one window in 2 is drawn" in path.read_text()
    epochs = data_of(path)["axes"][0]["epoch"]
    assert len(epochs) <= windows // 2 + 2
    assert {1, 1000, windows} <= set(epochs)


def test_libraries_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ReportError, match=r"needs altair.*pip install 'lightning-featgeo\[report\]'"):
        charts.libraries()


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl")
    monkeypatch.chdir(tmp_path)
    printed = run_script(Path(__main__.__file__), "a.jsonl", "-o", "out/r.html")
    assert re.fullmatch(r"featgeo: out/r\.html \(\d\.\d\d MB\); open it in a browser\n", printed)
    page = (tmp_path / "out" / "r.html").read_text()
    assert "https://cdn" not in page
