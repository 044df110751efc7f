"""The examples for those online, as far as that can be shown offline: the sweep's command, the workspace's panels."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_featgeo.metrics.catalog import PRESETS
from tests._helpers.processes import LIMIT, run_script
from tests._helpers.wandb_file import read

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_sweep_runs_as_its_agent_would_and_its_metric_is_there(tmp_path: Path) -> None:
    sweep = yaml.safe_load((EXAMPLES / "wandb_sweep.yaml").read_text())
    chosen = {"model.lr": 0.02, "data.batch_size": sweep["parameters"]["data.batch_size"]["values"][2]}
    filled = {
        "${env}": [],
        "${interpreter}": [sys.executable],
        "${program}": [sweep["program"]],
        "${args}": [f"--{name}={value}" for name, value in chosen.items()],
    }
    command = [word for part in sweep["command"] for word in filled.get(part, [part])]
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own["WANDB_MODE"] = "offline"
    (tmp_path / "examples").symlink_to(EXAMPLES)
    # an agent runs many in one folder; the first one needs no interpreter of its own
    run_script(tmp_path / sweep["program"], *command[2:], "--trainer.max_epochs=1", environment=own)
    shutil.rmtree(tmp_path / "wandb")
    done = subprocess.run(
        [*command, "--trainer.max_epochs=2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, env=own, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    _, rows, summary = read(tmp_path)
    name = sweep["metric"]["name"]
    assert len([row for row in rows if name in row]) == 2
    assert summary[name] == [row for row in rows if name in row][-1][name]  # a number: agents read it
    assert f"{name}/best" in summary


def test_the_workspace_has_the_panels_in_order() -> None:
    pytest.importorskip("wandb_workspaces", reason="needs the loggers: pip install -e '.[loggers]'")
    spec = importlib.util.spec_from_file_location("wandb_workspace", EXAMPLES / "wandb_workspace.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.workspace("me", "mine", ["val"], PRESETS["classifier"])
    first = made.sections[0]
    assert first.name == "Geometry, val"
    assert [panel.y[0].removeprefix("featgeo/val/") for panel in first.panels] == [
        "feature_std", "effective_rank", "id_two_nn", "knn_accuracy", "knn_log_density", "nc1", "nc2_equiangle", "cdnv",
        "alarm",
    ]  # fmt: skip
    assert {panel.x for panel in first.panels} == {"featgeo/epoch"}
    sent = made._to_model().model_dump_json()  # what would be sent
    assert '"x_axis":"featgeo/epoch"' in sent
    assert "featgeo_tables/val/classes_best" in sent
