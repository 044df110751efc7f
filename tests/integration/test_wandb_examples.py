"""The examples for those online, as far as that can be shown offline: the sweep's command, the workspace's panels."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from lightning_featgeo import wandb_workspace
from tests._helpers.models import Classifier, loaders, strict, trainer
from tests._helpers.processes import run_script
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
    assert command[:2] == [sys.executable, "examples/cli.py"]
    run_script(tmp_path / command[1], *command[2:], "--trainer.max_epochs=1", environment=own)
    shutil.rmtree(tmp_path / "wandb")  # an agent runs many in one folder
    run_script(tmp_path / command[1], *command[2:], "--trainer.max_epochs=2", environment=own)
    _, rows, summary = read(tmp_path)
    name = sweep["metric"]["name"]
    assert len([row for row in rows if name in row]) == 2
    assert summary[name] == [row for row in rows if name in row][-1][name]  # a number: agents read it
    assert f"{name}/best" in summary


FIRST = [
    "feature_std",
    "effective_rank",
    "id_two_nn",
    "knn_accuracy",
    "knn_log_density",
    "nc1",
    "nc2_equiangle",
    "cdnv",
]


def test_the_workspace_has_a_panel_for_what_is_logged_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs: pip install -e '.[workspace]'")
    monitor = strict(layer=["net.0", "net.1"], num_classes=10)
    trainer(monitor, max_epochs=1, default_root_dir=tmp_path).fit(Classifier(), *loaders())
    names = wandb_workspace.names_of_history(tmp_path)
    made = wandb_workspace.workspace("me", "mine", names)
    first = made.sections[0]
    assert first.name == "Geometry, val"
    assert [panel.y[0].removeprefix("featgeo/val/") for panel in first.panels] == [*FIRST, "alarm"]
    assert {panel.x for panel in first.panels} == {"featgeo/epoch"}
    assert [section.name for section in made.sections[1:3]] == ["Pictures and tables, val", "Geometry, val, net_1"]
    sent = made._to_model().model_dump_json()  # what would be sent
    assert '"x_axis":"featgeo/epoch"' in sent
    assert "featgeo_tables/val/classes_best" in sent
    blocks = wandb_workspace.report("me", "mine", [f"exp-{name}" for name in names]).blocks
    grids = [block for block in blocks if hasattr(block, "panels")]  # its sets of runs are only told to a server
    text = [panel._to_model().model_dump_json() for grid in grids for panel in grid.panels]
    assert len(text) == len(FIRST) + 1 + 11
    assert "exp-featgeo/val/effective_rank" in text[1]
    assert "exp-featgeo_tables/val/classes_last" in "".join(text)
    assert wandb_workspace.main(["me/mine", "--run", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"val: {', '.join(FIRST)}\nval, net_1: ")
    assert wandb_workspace.main(["mine", "--run", str(tmp_path)]) == 2
    assert wandb_workspace.main(["me/mine", "--run", str(tmp_path / "nowhere")]) == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err


def test_the_same_measure_against_several_windows_is_one_panel() -> None:
    pytest.importorskip("wandb_workspaces", reason="needs: pip install -e '.[workspace]'")
    names = ["cka_drift", "nc1", "cka_drift_first", "cka_drift_anchor"]
    (curves,) = wandb_workspace.logged([f"featgeo/val/{name}" for name in names])
    shown = [[name.removeprefix("featgeo/val/") for name in panel.y] for panel in wandb_workspace.lines(curves)]
    assert sorted(shown) == [["alarm"], ["cka_drift", "cka_drift_first", "cka_drift_anchor"], ["nc1"]]
