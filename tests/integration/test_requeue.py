"""A job that SLURM takes away and starts again: the history has no hole, no double window, and says what is missing."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.errors import GapKind
from tests._helpers.models import Classifier, loaders

JOB = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "NTASKS_PER_NODE": "1"}
JOB |= {"PROCID": "0", "LOCALID": "0", "NODEID": "0"}


class Notice(pl.Callback):
    """The signal that SLURM sends before it ends a job, in the middle of an epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2 and trainer.fit_loop.batch_idx == 1:
            os.kill(os.getpid(), signal.SIGUSR1)


def run(folder: Path, *callbacks: pl.Callback) -> FeatureGeometryMonitor:
    monitor = FeatureGeometryMonitor(signals=["effective_rank", "neighbor_churn"], stages=("train", "val"))
    pl.Trainer(
        max_epochs=4, accelerator="cpu", devices=1, logger=False, default_root_dir=folder, enable_progress_bar=False,
        enable_model_summary=False, plugins=[SLURMEnvironment(requeue_signal=signal.SIGUSR1)],
        callbacks=[monitor, *callbacks],
    ).fit(Classifier(), *loaders(shuffle=False))  # fmt: skip
    return monitor


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there are no such signals on Windows")
@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_a_job_that_is_requeued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in JOB.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run(tmp_path, Notice())
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    monitor = run(tmp_path)  # the same command: Lightning finds the checkpoint itself
    windows = [(one.stage, round(one.epoch, 2)) for one in monitor.history]
    assert windows == [(stage, epoch) for epoch in (1.0, 2.0, 3.0, 4.0) for stage in ("val", "train")]
    assert [one.window for one in monitor.history] == list(range(8))
    lost = [one for one in monitor.history if not one.values]
    assert [(one.stage, one.epoch) for one in lost] == [("train", 3.0)]
    assert lost[0].gaps["effective_rank"].kind is GapKind.LOST
    assert all("neighbor_churn" in one.values for one in monitor.history.records[2:] if one.stage == "val")
