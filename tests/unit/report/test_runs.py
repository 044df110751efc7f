"""Which runs a report shows, and what it makes of files that are damaged."""

import json
from pathlib import Path

import pytest

from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.history.history import History
from lightning_featgeo.report import ReportError, write_report
from lightning_featgeo.report.__main__ import main
from lightning_featgeo.report.runs import find
from lightning_featgeo.report.words import NO_END, ending
from lightning_featgeo.watch.announcement import say
from tests._helpers.histories import data_of, record, runs_below, write


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
    "spectrum": [None, {}, [[1, 2, 3]], [["a", 1]], [[float("nan"), 1.0]]],
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


def test_a_report_is_not_written_through_a_link_that_somebody_has_put_there(tmp_path: Path) -> None:
    """The half-written file had a name that everybody could guess."""
    run = tmp_path / "run" / "featgeo" / "a.jsonl"
    write(run, 3)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("report.html.part", ".report.html.part"):
        (tmp_path / name).symlink_to(mine)
    (tmp_path / "report.html").symlink_to(mine)
    write_report(run, tmp_path / "report.html", quiet=True)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "report.html").is_symlink()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".report.html.part", "mine", "report.html", "report.html.part", "run"]


def test_names_reach_a_terminal_without_what_drives_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "\x1b[31mred\x07\u202e.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "red" in said
    assert not {"\x1b", "\x07", "\u202e"} & set(said)
    say("layer \x1b[2Jnet\nand a second line")
    assert capsys.readouterr().err == "layer  [2Jnet\nand a second line\n"


@pytest.mark.parametrize("fit_first", [True, False])  # False: the clock was set back in between
@pytest.mark.parametrize("ends", [("finished", None), (None, "finished"), ("finished", "finished")])
def test_a_run_has_ended_only_if_all_its_parts_have(
    tmp_path: Path, fit_first: bool, ends: tuple[str | None, ...]
) -> None:
    for name, stage, end in zip("12" if fit_first else "21", ("val", "test"), ends, strict=True):
        write(tmp_path / "featgeo" / f"{name}.jsonl", windows=1, identity="0", stage=stage, end=end)
    ((run,), _) = runs_below(tmp_path)
    assert {r.stage for r in run.records} == {"val", "test"}
    assert ("The run finished." in ending(run)) == (None not in ends)


def test_a_history_that_begins_with_a_metric_is_found(tmp_path: Path) -> None:
    """A loop that logs before its first window closes."""
    history = History(tmp_path / "h.jsonl")
    history.log_metrics({"loss": 1.0}, 1.0, 5)
    history.append(record(0))
    assert find([tmp_path]) == [tmp_path / "h.jsonl"]
