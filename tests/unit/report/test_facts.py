"""What the report's command prints for scripts and for people, of whole, damaged and hostile histories."""

import json
import math
from pathlib import Path

import pytest

from lightning_featgeo.report import __main__
from tests._helpers.histories import FACTS, record, stop, write


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert __main__.main([*arguments, "--quiet"]) == 0
    return capsys.readouterr().out


def test_json_has_curves_gaps_alarms_and_what_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = write(tmp_path / "a.jsonl", name="a", end=None)
    history.append(record(12, gap=("nc1",)))
    stop(history, 5.0)
    history.end("finished")
    (run,) = json.loads(printed(capsys, str(tmp_path), "--json"))["runs"]
    curves = {curve["signal"]: curve for curve in run["curves"]}
    values = [each.values["effective_rank"] for each in history]
    assert curves["effective_rank"]["curve"] == "featgeo/val/effective_rank"
    assert curves["effective_rank"]["first"] == {"epoch": 1.0, "value": values[0]}
    assert curves["effective_rank"]["last"] == {"epoch": 13.0, "value": values[-1]}
    assert curves["effective_rank"]["highest"]["value"] == max(values)
    assert curves["nc1"]["gaps"] == {
        "undefined": {"windows": 1, "last_epoch": 13.0, "reason": "the rows were all the same"}
    }
    assert (curves["nc1"]["windows"], curves["nc1"]["healthier"]) == (13, "lower")
    assert (run["outcome"], run["end"]) == ("stop", "finished")
    assert [alarm["kind"] for alarm in run["alarms"]] == ["stop"]
    assert run["look_at"][0].startswith("total collapse")
    assert run["look_at"][1] == "No value (undefined): featgeo/val/nc1. the rows were all the same"


def test_curves_that_cannot_be_compared_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.jsonl", name="a")
    write(tmp_path / "b.jsonl", name="b", facts={**FACTS, "k": 10})
    found = json.loads(printed(capsys, str(tmp_path), "--json"))
    assert found["apart"] == [
        {"curve": "featgeo/val/id_two_nn", "runs": ["b"], "differs_in": ["neighbours (k): 10 instead of 20"]}
    ]
    assert [run["name"] for run in found["runs"]] == ["a", "b"]


def test_values_that_are_no_numbers_stay_valid_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.jsonl", name="a", end=None)
    event = {"kind": "alarm", "epoch": math.nan, "reason": "r", "alarm": {"title": "t", "limit": math.inf, "steps": 3}}
    with (tmp_path / "a.jsonl").open("a") as file:  # a history of ours has none: this one was made by somebody else
        file.write(json.dumps({"event": event}) + "\n")
    text = printed(capsys, str(tmp_path), "--json")
    (run,) = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))["runs"]
    assert run["alarms"] == []
    assert "can't be read" in run["notes"][0]
    assert run["look_at"][-1].startswith("The record says nothing of an end")


def test_markdown_is_a_table_from_which_nothing_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = "x | y ![p](http://evil) <script>alert(1)</script> `code`"
    history = write(tmp_path / "a.jsonl", name=bad, layer="a`b|c")
    stop(history, 5.0, text=bad)
    text = printed(capsys, str(tmp_path), "--markdown")
    assert "<script" not in text
    assert "![p](" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1  # as many cells in each
    assert "### What to look at next" in text


def test_a_quiet_run_asks_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.jsonl", name="a")
    assert printed(capsys, str(tmp_path), "--markdown").endswith(
        "- Nothing asks for a look: no alarm, no gap, and the run has ended.\n"
    )


def test_into_a_file_and_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.jsonl", name="a")
    assert __main__.main([str(tmp_path), "--json", "-o", str(tmp_path / "facts.json")]) == 0
    assert json.loads((tmp_path / "facts.json").read_text())["runs"][0]["name"] == "a"
    assert "open it" not in capsys.readouterr().out
    assert __main__.main([str(tmp_path / "nowhere"), "--json"]) == 2
    assert __main__.main([str(tmp_path), "--markdown", "-o", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_every_window_of_a_very_long_run_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        for i in range(5000):
            values = {"feature_std": 1e-6 if i == 500 else 1.0 + i / 1000}
            made = record(i, values=values, spectrum=[], gaps={}, standard_errors={}, facts={})
            file.write(json.dumps({"window": json.loads(made.text)}) + "\n")
        file.write('{"end": "finished"}\n')
    (run,) = json.loads(printed(capsys, str(tmp_path), "--json"))["runs"]
    (curve,) = run["curves"]
    assert (curve["windows"], curve["lowest"]) == (5000, {"epoch": 501.0, "value": 1e-6})
    assert run["ended"].startswith("5000 windows, up to epoch 5000")


def test_an_alarm_without_steps_and_text_that_cannot_be_encoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = write(tmp_path / "a.jsonl", name="a")
    history.event(kind="stop", epoch=3.0, reason="Drop of feature_std", alarm={"title": "Drop of feature_std"})
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(json.dumps({"event": {"kind": "notice", "reason": "s\ud800 @name http://x"}}) + "\n")
    (run,) = json.loads(printed(capsys, str(tmp_path), "--json"))["runs"]
    assert run["look_at"][0] == "Drop of feature_std at epoch 3"
    text = printed(capsys, str(tmp_path), "--markdown")
    assert "@name" not in text
    assert "http://" not in text


def test_a_baseline_is_of_the_page(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="a")
    with pytest.raises(SystemExit):
        __main__.main([str(tmp_path), "--json", "--baseline", "a"])
