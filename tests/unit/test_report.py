"""The report without a browser: which runs are found, what is compared with what, what is said, and bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.history.fingerprint import differences, fingerprint
from lightning_featgeo.history.history import History
from lightning_featgeo.report import ReportError, charts, write_report
from lightning_featgeo.report.__main__ import main
from lightning_featgeo.report.curves import panels
from lightning_featgeo.report.data import MOST_NUMBERS
from lightning_featgeo.report.runs import distinct, find, load
from lightning_featgeo.report.words import NO_END, ending, headline
from tests._helpers.histories import FACTS, SIGNALS, record, stop, write


def runs_below(folder: Path):
    return distinct(list(load(find([folder]))))


def data_of(path: Path) -> dict:
    """What a report's script draws from."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


# --- which runs ------------------------------------------------------------------------------------------------------


def test_runs_are_named_and_an_evaluation_belongs_to_its_run(tmp_path: Path) -> None:
    write(tmp_path / "version_0" / "featgeo" / "1.jsonl", identity="0")
    write(tmp_path / "version_0" / "featgeo" / "2.jsonl", windows=1, identity="0", stage="test")
    write(tmp_path / "version_1" / "featgeo" / "1.jsonl", name="named")
    write(tmp_path / "version_2" / "featgeo" / "1.jsonl", name="named")
    (tmp_path / "other.jsonl").write_text('{"loss": 1}\n')
    found, left_out = runs_below(tmp_path)
    assert [run.name for run in found] == ["version_0", "named", "named (2)"]
    assert {r.stage for r in found[0].records} == {"val", "test"}
    assert left_out == []


def test_a_test_belongs_to_the_run_that_its_logger_says(tmp_path: Path) -> None:
    """Stores that all runs share have one folder for all histories."""
    for name, windows in (("a", 5), ("b", 5)):
        write(tmp_path / "featgeo" / f"1{name}.jsonl", windows=windows, name="resnet", identity=f"store/{name}")
    write(tmp_path / "featgeo" / "2a.jsonl", windows=1, name="resnet", identity="store/a", stage="test")
    write(tmp_path / "featgeo" / "3.jsonl", windows=1, stage="train")  # nobody knows whose
    found, _ = runs_below(tmp_path)
    assert [(run.name, {r.stage for r in run.records}) for run in found] == [
        ("resnet", {"val", "test"}), ("resnet (2)", {"val"}), (tmp_path.name, {"train"}),
    ]  # fmt: skip


def test_names_differ_whatever_they_are(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "a", "a (2)")):
        write(tmp_path / f"{i}.jsonl", name=name)
    assert [run.name for run in runs_below(tmp_path)[0]] == ["a", "a (2)", "a (2) (2)"]
    twice = find([tmp_path / "0.jsonl", tmp_path / ".." / tmp_path.name / "0.jsonl"])
    assert len(twice) == 1


def test_a_second_fit_in_one_folder_is_a_run_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "featgeo" / "1.jsonl")
    write(tmp_path / "featgeo" / "2.jsonl")
    assert len(runs_below(tmp_path)[0]) == 2


def test_what_turns_text_around_is_taken_out_of_names(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="a\u202eb\x00c" + "x" * 500)
    name = runs_below(tmp_path / "a.jsonl")[0][0].name
    assert name.startswith("a b c")
    assert len(name) == 80


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda p: None, "there is no such file or folder"),
        (lambda p: p.mkdir(), "no history below this folder"),
        (lambda p: p.write_text(""), "no window has closed"),
        (lambda p: p.write_text('{"run": {"layers": ["fc"]}}\n'), "no window has closed"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "no window has closed"),
    ],
)
def test_nothing_to_report_on_is_said_plainly(tmp_path: Path, made, said: str, capsys) -> None:
    made(tmp_path / "x.jsonl")
    with pytest.raises(ReportError, match=said):
        write_report(tmp_path / "x.jsonl", tmp_path / "r.html")
    assert main([str(tmp_path / "x.jsonl"), "-o", str(tmp_path / "r.html")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_an_old_report_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("old")
    with pytest.raises(ReportError):
        write_report(tmp_path / "none.jsonl", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "old"


def test_a_crashed_run(tmp_path: Path) -> None:
    """Cut in the middle of a line: what is whole is shown, and how it ends is not guessed."""
    write(tmp_path / "a.jsonl", windows=4, end=None)
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text[:-40])
    (run,), _ = runs_below(tmp_path / "a.jsonl")
    assert len(run.records) == 3
    assert ending(run) == f"3 windows, up to epoch 3. {NO_END}"
    assert write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True).stat().st_size > 500_000


def test_lines_that_are_damaged_or_of_a_later_version_are_said_on_the_page(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("{not json}\n")
        file.write(json.dumps({"run": {"format": 99}}) + "\n")
        file.write(json.dumps({"weather": {"sun": 1}}) + "\n")
        file.write(json.dumps({"window": {**vars(history.records[0]), "window": 99, "epoch": 99.0, "new": 1}}) + "\n")
    with pytest.warns(FeatureGeometryWarning, match="later"), pytest.warns(FeatureGeometryWarning, match="1 lines"):
        assert len(History.load(tmp_path / "a.jsonl")) == 13
    page = write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True).read_text()
    assert "was written by a later version (format 99" in page
    assert "can&#x27;t be read" in page


WRONG = {
    "epoch": [None, "2", [1], 10**400, float("nan")],
    "step": [None, float("nan"), "x"],
    "stage": [None, 3],
    "layer": [["a"], 3],
    "values": [None, [], {"nc1": "0.3"}, {"nc1": None}],
    "standard_errors": [None, {"nc1": []}],
    "gaps": [[]],
    "counts": [None, {"seen": "500"}],
    "ceilings": [None],
    "spectrum": [None, {}, [[1, 2, 3]], [["a", 1]]],
    "facts": [[], {"layer": []}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_malformed_window_is_left_out_and_said(tmp_path: Path, field: str, value: object) -> None:
    write(tmp_path / "a.jsonl", windows=3)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"window": {**vars(record(3)), field: value}}) + "\n")
    (run,), _ = runs_below(tmp_path / "a.jsonl")
    assert len(run.records) == 3
    assert "1 lines" in run.notes[0]


@pytest.mark.parametrize(
    "line",
    [
        {"run": []}, {"run": {"format": "3"}}, {"run": {"definitions": []}}, {"event": []}, {"event": {"epoch": [1]}},
        {"event": {"kind": "stop", "step": float("nan")}}, {"event": {"alarm": 3}}, [], 3, None, "text",
    ],
)  # fmt: skip
def test_other_malformed_lines_are_left_out(tmp_path: Path, line: object) -> None:
    write(tmp_path / "a.jsonl", windows=3)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    path = write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True)
    assert "can&#x27;t be read" in path.read_text()


def test_odd_text_and_the_largest_numbers_are_written(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", windows=1)
    odd = {**vars(record(1)), "stage": "\ud800x", "values": {"nc1": 1.7976e308, "\ud800": 1.0}}
    odd["standard_errors"] = {"nc1": 1.797e308}
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"window": odd}) + "\n")
    assert len(data_of(write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True))["panels"]) > 1


def test_an_infinite_value_is_a_gap(tmp_path: Path) -> None:
    """JSON from elsewhere may hold it."""
    write(tmp_path / "a.jsonl", windows=2)
    line = json.dumps({"window": {**vars(record(2)), "values": {"nc1": float("inf"), "id_two_nn": float("nan")}}})
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(line + "\n")
    data = data_of(write_report(tmp_path / "a.jsonl", tmp_path / "r.html", quiet=True))
    (panel,) = [p for p in data["panels"] if p["signal"] == "nc1"]
    assert panel["curves"][0]["value"][2] is None


# --- what is compared ------------------------------------------------------------------------------------------------


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


# --- what is said ----------------------------------------------------------------------------------------------------


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


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl")
    command = [sys.executable, "-m", "lightning_featgeo.report", "a.jsonl", "-o", "out/r.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "out/r.html" in done.stdout
    assert done.stderr == ""
    page = (tmp_path / "out" / "r.html").read_text()
    assert "https://cdn" not in page
