"""The real CometLogger, offline: what is in the archive that ``comet upload`` would send."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lightning_featgeo import History
from tests._helpers.processes import run_script

SCRIPT = Path(__file__).parents[1] / "native" / "comet_run.py"


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What the run printed, and Comet's messages."""
    pytest.importorskip("comet_ml", reason="needs pip install comet-ml")
    folder = tmp_path_factory.mktemp("comet")
    # Lightning's online=False makes an experiment that is switched off; Comet's own setting makes one that is offline
    own = {**os.environ, "COMET_START_ONLINE": "0", "COMET_API_KEY": "not-used"}
    output = run_script(SCRIPT, str(folder), environment=own)
    (path,) = folder.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        return output, [json.loads(line) for line in archive.read("messages.json").splitlines()]


def of(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message["payload"] for message in messages if message["type"] == kind]


def test_every_scalar_is_there_under_its_step_and_the_loggers_prefix(sent: Any) -> None:
    output, messages = sent
    history = History.load(re.findall(r"HISTORY (\S+)", output)[0])
    metrics = [payload["metric"] for payload in of(messages, "metric_msg")]
    for record in history:
        for signal in history.run["signals"]:
            found = [
                m for m in metrics if m["metricName"] == f"exp_featgeo/val/{signal}" and m["step"] == record.step - 1
            ]
            assert [m["metricValue"] for m in found] == [pytest.approx(record.values[signal])]


def test_histograms_pictures_tables_and_files_are_assets(sent: Any) -> None:
    _, messages = sent
    named = [payload["additional_params"] or {} for payload in of(messages, "file_upload")]
    pictures = [each["figName"] for each in named if each.get("figName")]
    assert {p: pictures.count(p) for p in pictures} == {
        f"exp_featgeo_curves/val/{name}": 3 for name in ("spectrum", "class_cosines", "layout")
    }  # windows 1, 2 and the last
    files = [each["fileName"] for each in named if each.get("fileName")]
    assert files.count("exp_featgeo_curves/val/log_density") == 3
    assert "exp_featgeo_tables/val/classes_last/step_00000011.csv" in files
    assert [Path(f).suffix for f in files if f.startswith("featgeo/")] == [".jsonl", ".html"]  # history and report


def test_what_the_run_is_and_why_it_alarmed(sent: Any) -> None:
    output, messages = sent
    others = {payload["key"]: payload["value"] for payload in of(messages, "log_other")}
    assert others["featgeo.of.layer"] == "net.3"
    assert others["featgeo_alarm"] in re.findall(r"ALARM (.+)", output)
