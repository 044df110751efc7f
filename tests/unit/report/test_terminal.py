"""A run in the terminal: what is drawn at 80 columns, and that it follows a history that grows."""

import io
import math
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from lightning_featgeo.report import ReportError, terminal
from lightning_featgeo.watch.__main__ import main
from tests._helpers.histories import record, stop, write


def drawn(
    path: Path, width: int = 80, signals: Sequence[str] = (), stage: str | None = None, layer: str | None = None
) -> list[str]:  # fmt: skip
    file = io.StringIO()
    terminal.show(path, Console(width=width, file=file, color_system=None), terminal.named(signals, stage, layer))
    return file.getvalue().splitlines()


def followed(folder: Path) -> tuple[threading.Thread, io.StringIO]:
    """A view of a folder's runs that has begun, and what it prints."""
    file = io.StringIO()
    to = Console(width=80, file=file, color_system=None, force_terminal=True)
    thread = threading.Thread(target=terminal.follow, args=(str(folder), to), kwargs={"every": 0.01}, daemon=True)
    thread.start()
    return thread, file


@pytest.mark.parametrize("width", [80, 60, 200])
def test_curves_fit_the_terminal(tmp_path: Path, width: int) -> None:
    write(tmp_path / "a.jsonl", windows=300, name="a run of mine")
    lines = drawn(tmp_path, width)
    assert max(map(len, lines)) <= width
    (row,) = [line for line in lines if line.startswith("effective_rank")]
    assert row.split()[0] == "effective_rank"
    assert row.split()[-2:] == ["0.3625", "1.98"]
    assert set(row.split()[1]) <= set(terminal.BARS)
    assert lines[0].startswith("a run of mine  No alarm")


def test_gaps_are_told_below_and_alarms_above_what_may_be_cut_off(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl", name="a", end=None)
    history.append(record(12, gap=("nc1", "id_two_nn")))
    stop(history, 5.0)
    lines = drawn(tmp_path)
    assert lines[0] == "a  stopped"
    (row,) = [line for line in lines if line.startswith("nc1")]
    assert row.split()[1].endswith(terminal.GAP)
    (alarm,) = [i for i, line in enumerate(lines) if line.startswith("stop  epoch 5: total collapse")]
    assert alarm < lines.index(row)
    assert any(line.startswith("gap  id_two_nn, nc1: 1 of 13 windows: the rows were all") for line in lines)


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="a")
    text = "\n".join(drawn(tmp_path, signals=["nc*"], stage="val"))
    assert "nc1" in text
    assert "effective_rank" not in text
    assert "There is no such curve" in "\n".join(drawn(tmp_path, stage="train"))


def test_names_from_elsewhere_cannot_drive_the_terminal(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl", name="\x1b[2J[red]name", layer="l\x1b]0;x\x07")
    stop(history, 5.0, text="\x1b[31mred [bold]text[/bold]")
    text = "\n".join(drawn(tmp_path))
    assert "\x1b" not in text
    assert "[red]name" in text  # no markup either
    assert "[bold]text[/bold]" in text


def test_it_waits_for_a_run_follows_it_and_ends_with_it(tmp_path: Path) -> None:
    follower, file = followed(tmp_path)
    folder = tmp_path / "featgeo"
    folder.mkdir()
    history = write(folder / "a.jsonl", windows=1, name="a", end=None)
    for i in range(1, 6):
        history.append(record(i))
    while "6 windows, up to epoch 6" not in file.getvalue():  # one that had ended before it was seen is an old one
        time.sleep(0.01)
    assert follower.is_alive()
    history.end("finished")
    follower.join(60)
    assert not follower.is_alive()
    assert "6 windows, up to epoch 6. The run finished." in file.getvalue()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([1.0, 1.0], "▄▄"),
        ([0.7] * 100, "▄" * 10),  # means of equal numbers round differently
        ([math.nan, math.inf], "··"),
        ([0.0, 7.0, 3.5, math.nan], "▁█▅·"),
        ([0.0] * 50 + [1.0] * 50, "▁▁▁▁▁█████"),
        ([1e308, -1e308], "█▁"),
    ],
)
def test_sparklines(values: list[float], line: str) -> None:
    assert terminal.sparkline([float(i) for i in range(len(values))], values, 10) == line


def test_a_long_run_is_drawn_over_time_not_over_what_is_kept_of_it() -> None:
    times = [float(t) for t in (*range(0, 900, 100), *range(900, 1001))]  # late ones densely
    assert terminal.sparkline(times, times, 8) == "▁▂▃▄▅▆▇█"


def test_after_an_ended_run_of_a_folder_the_next_one_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="old")
    follower, file = followed(tmp_path)
    while "Waiting for a run to begin" not in file.getvalue() or "old" not in file.getvalue():
        time.sleep(0.01)
    history = write(tmp_path / "b.jsonl", name="new", end=None)
    while "new" not in file.getvalue():
        time.sleep(0.01)
    history.end("finished")
    follower.join(60)
    assert not follower.is_alive()


def test_layers_are_told_apart_and_can_be_chosen(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl", name="a", end=None, layer="model.encoder.layers.10." + "x" * 80)
    history.append(record(12, layer="model.encoder.layers.11." + "y" * 80))
    lines = drawn(tmp_path)
    assert {line[-3:] for line in lines if line.startswith("…")} == {"xxx", "yyy"}
    assert len([line for line in drawn(tmp_path, layer="*layers.11*") if line.startswith("…")]) == 1


@pytest.mark.parametrize("width", [40, 50])
def test_a_narrow_terminal_keeps_names_curve_and_last_value(tmp_path: Path, width: int) -> None:
    write(tmp_path / "a.jsonl", name="a")
    (row,) = [line for line in drawn(tmp_path, width) if line.startswith("effec")]
    assert len(row) <= width
    assert row.split()[-1] == "1.839"
    assert set(row.split()[1]) & set(terminal.BARS)


def test_a_terminal_without_such_characters(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="a")
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding="ascii", errors="replace")
    terminal.show(tmp_path, Console(width=80, file=file))
    file.flush()
    text = written.getvalue().decode("ascii")
    (row,) = [line for line in text.splitlines() if line.startswith("effective_rank")]
    assert set(row.split()[1]) <= set(terminal.PLAIN_BARS)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", name="a")
    assert main([str(tmp_path), "--once", "--width", "80", "--signal", "nc1"]) == 0
    assert "nc1" in capsys.readouterr().out
    assert main([str(tmp_path / "a.jsonl"), "--width", "80"]) == 0  # it has ended: shown once
    assert main([str(tmp_path), "--once", "--signal", "nc9"]) == 0
    assert "no such curve. Stages: val; signals: feature_std, effective_rank" in capsys.readouterr().out.replace(
        "\n", " "
    )
    (tmp_path / "notes.txt").write_text("no history\n")
    assert main([str(tmp_path / "notes.txt")]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--width", "5"])
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ReportError, match="pip install 'lightning-featgeo\\[terminal\\]'"):
        terminal.console()


def test_a_first_line_that_is_still_being_written_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "featgeo").mkdir()
    path = tmp_path / "featgeo" / "a.jsonl"
    path.write_text('{"run": {"format": 3, "na')
    follower, file = followed(tmp_path)
    time.sleep(0.3)
    assert follower.is_alive()
    path.unlink()
    write(path, name="mine")
    follower.join(60)
    assert not follower.is_alive()
    assert "mine" in file.getvalue()


def test_of_many_alarms_the_last_ones(tmp_path: Path) -> None:
    history = write(tmp_path / "a.jsonl", name="a")
    for epoch in range(1, 9):
        stop(history, float(epoch), kind="notice")
    lines = drawn(tmp_path)
    assert [line[:15] for line in lines if line.startswith("notice")] == [f"notice  epoch {e}" for e in (6, 7, 8)]
    assert "5 earlier ones are in the report" in lines
