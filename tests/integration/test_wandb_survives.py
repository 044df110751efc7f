"""Weights & Biases beside what goes wrong on a machine: a disk that fills, and a kill. The history has every window."""

import re
import time
from pathlib import Path

import pytest

from lightning_featgeo import History
from tests._helpers.processes import run_script, start_script
from tests._helpers.wandb_file import rows_so_far
from tests.native.soak import small_disk

SCRIPT = Path(__file__).parents[1] / "native" / "wandb_run.py"


def test_a_disk_that_is_full_for_a_third_of_the_run() -> None:
    with small_disk("6m") as disk:
        if disk is None:
            pytest.skip("no file system may be mounted here")
        output = run_script(SCRIPT, str(disk), "9", "fills")
        history = History.load(re.findall(r"HISTORY (\S+)", output)[0])
        assert [record.epoch for record in history] == [float(epoch) for epoch in range(1, 10)]
        assert all(record.values.keys() >= {"effective_rank", "nc1"} for record in history)
        assert output.count("the history can't be written to") == 1  # said once, and what to expect
        assert "Traceback" not in output


def test_a_kill_leaves_a_whole_history_and_the_rows_that_wandb_had_written(tmp_path: Path) -> None:
    printed = tmp_path / "printed.txt"
    process = start_script(SCRIPT, str(tmp_path), "100000", "holds", printed=printed)
    while process.is_alive() and not (printed.exists() and "epoch 12\n" in printed.read_text()):
        time.sleep(0.05)
    process.kill()
    process.join()
    (path,) = (tmp_path / "digits").rglob("*.jsonl")
    history = History.load(path)
    assert [record.epoch for record in history] == [float(epoch + 1) for epoch in range(len(history))]
    assert len(history) >= 12
    assert "end" not in history.run
    rows = rows_so_far(tmp_path)
    curve = [row["featgeo/val/effective_rank"] for row in rows if "featgeo/val/effective_rank" in row]
    assert len(curve) > 0
    known = [record.values["effective_rank"] for record in history]
    assert curve == pytest.approx(known[: len(curve)])
