"""torchrun, with and without a restart, Ray Train with its Lightning strategy, and Ray Tune over a curve, on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.compat import ranked
from tests.compat.keeper import Keeper
from tests.compat.kit import use

ROOT = Path(__file__).parents[3]


def torchrun(*arguments: str, options: tuple[str, ...] = ()) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.compat.ranked", *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@use("torch", "torchrun, two processes, DDP")
def plain(watch: Any) -> tuple[Keeper, Any]:
    folder = Path(tempfile.mkdtemp())
    torchrun(str(folder))
    return ranked.gathered(folder)


@use("torch", "torchrun, a rank dies in the third epoch, restarted from last.ckpt")
def elastic(watch: Any) -> tuple[Keeper, Any]:
    folder = Path(tempfile.mkdtemp())
    torchrun(str(folder), "2", options=("--max-restarts=1", "--monitor-interval=0.1"))
    keeper, history = ranked.gathered(folder)
    windows = [record.epoch for record in history]
    assert windows == [1.0, 2.0, 3.0], f"windows of epochs {windows}"
    return keeper, history


@use("ray", "TorchTrainer with RayDDPStrategy, two CPU workers")
def ray_train(watch: Any) -> tuple[Keeper, Any]:
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    folder = Path(tempfile.mkdtemp())
    ray.init(num_cpus=3, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    try:
        TorchTrainer(
            _ray_worker,
            train_loop_config={"folder": str(folder)},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=str(folder / "ray")),
        ).fit()
    finally:
        ray.shutdown()
    _ray_example(folder / "example")
    return ranked.gathered(folder)


def _ray_example(folder: Path) -> None:
    """The example runs as its first lines say, and its curves are of the rows of both workers."""
    command = [sys.executable, str(ROOT / "examples" / "ray_train.py"), "--folder", str(folder), "--epochs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("of 500 rows") == 3, done.stdout


def _ray_worker(config: dict[str, Any]) -> None:
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

    from tests.compat import ranked

    ranked.train(
        config["folder"], prepare_trainer, strategy=RayDDPStrategy(), plugins=[RayLightningEnvironment()],
        devices="auto",
    )  # fmt: skip


@use("ray", "Tune: four trials, TuneReportCheckpointCallback on featgeo/val/effective_rank, listed before the monitor")
def ray_tune(watch: Any) -> tuple[Keeper, Any]:
    import ray
    from ray import tune

    folder = Path(tempfile.mkdtemp())
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    try:
        results = tune.Tuner(
            _trial,
            param_space={"width": tune.grid_search([6, 12, 24, 36]), "folder": str(folder)},
            tune_config=tune.TuneConfig(metric="rank", mode="max", max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
        ).fit()
    finally:
        ray.shutdown()
    assert not results.errors, results.errors
    for result in results:
        _, history = ranked.gathered(folder / str(result.config["width"]))
        reported = result.metrics_dataframe["rank"].tolist()
        assert reported == [record.values["effective_rank"] for record in history], f"reported {reported}"
    best = results.get_best_result()
    return ranked.gathered(folder / str(best.config["width"]))


def _trial(config: dict[str, Any]) -> None:
    from ray.tune.integration.pytorch_lightning import TuneReportCheckpointCallback

    from tests.compat import ranked

    report = TuneReportCheckpointCallback({"rank": "featgeo/val/effective_rank"}, save_checkpoints=False)
    folder = Path(config["folder"]) / str(config["width"])
    folder.mkdir(parents=True)
    ranked.train(str(folder), before=(report,), width=config["width"])
