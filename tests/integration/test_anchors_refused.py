"""Files, models and names that can be no anchor: told before training, or a gap that says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo import FeatureGeometryMonitor, Windows
from lightning_featgeo.errors import ConfigurationError, FeatureGeometryWarning, GapKind
from tests._helpers.anchors import ANCHORED, teacher
from tests._helpers.data import digits
from tests._helpers.models import Classifier, loaders, strict, trainer


def _wrong_files(folder: Path) -> dict[str, Path]:
    np.savez(folder / "none.npz", other=np.zeros(3))
    np.savez(folder / "flat.npz", rows=np.zeros(3))
    np.savez(folder / "few.npz", rows=np.zeros((3, 2)), samples=np.arange(2))
    (folder / "broken.npz").write_bytes(b"nothing")
    (folder / "run.jsonl").write_text("{}")
    torch.save({"callbacks": {}}, folder / "other.ckpt")
    return {one.name: one for one in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.npz", "has other, and no 'rows'; write one with numpy.savez"),
        ("flat.npz", r"'rows' must be \(n, d\) numbers, got \(3,\)"),
        ("few.npz", "'samples' must be one for each of 3 rows"),
        ("broken.npz", "can't be read"),
        ("run.jsonl", "holds curves and no rows: give the run's checkpoint"),
        ("missing.npz", "there is no such file"),
        ("rows.csv", "rows are read from .npz, .npy"),
    ],
)
def test_files_without_rows_are_refused_before_training(name: str, says: str, tmp_path: Path) -> None:
    _wrong_files(tmp_path)

    def run() -> None:
        trainer(strict(signals=ANCHORED, windows=Windows(anchor=tmp_path / name))).fit(Classifier(), *loaders())

    with pytest.raises(ConfigurationError, match=says):
        run()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"signals": ANCHORED}, r'say what with, as in windows=Windows\(anchor="features.npz"\)'),
        ({"signals": ["cka_drift_best"]}, r'say what with, as in windows=Windows\(best="val_loss"\)'),
    ],
)
def test_signals_that_lack_what_they_compare_with_are_refused(settings: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**settings)


@pytest.mark.parametrize("given", [3, torch.zeros(4, 2)])
def test_what_is_no_anchor_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="give the path of a file"):
        Windows(anchor=given)


@pytest.mark.parametrize(
    ("anchor", "says"),
    [
        (lambda batch: batch[0].reshape(-1, 8, 8), r"must give \(samples, dimensions\).*gave \(64, 8, 8\)"),
        (lambda batch: batch[0][:3], "gave 3 rows for a batch of 64 samples"),
        (nn.Linear(5, 2), "shapes cannot be multiplied"),
    ],
)
def test_models_that_give_no_row_a_sample_are_told_before_training(anchor: Any, says: str) -> None:
    monitor = strict(signals=ANCHORED, windows=Windows(anchor=anchor))
    with pytest.raises((ConfigurationError, RuntimeError), match=says):
        trainer(monitor, num_sanity_val_steps=1).fit(Classifier(), *loaders())


def test_names_that_no_window_has_are_refused() -> None:
    monitor = strict(signals=ANCHORED, windows=Windows(anchor={"vall": teacher()}))
    with pytest.raises(ConfigurationError, match=r"no such window\. Did you mean 'val'"):
        trainer(monitor).fit(Classifier(), *loaders())


def test_a_model_that_fails_later_costs_its_own_curves_alone() -> None:
    calls = [0]

    def fails(batch: Any) -> Tensor:
        calls[0] += 1
        if calls[0] > 8:
            raise ZeroDivisionError("no")
        return batch[0]

    monitor = FeatureGeometryMonitor(
        signals=[ANCHORED[0], "feature_std"], stages="train", windows=Windows(anchor=fails)
    )
    with pytest.warns(FeatureGeometryWarning, match="running the anchor failed with ZeroDivisionError"):
        trainer(monitor, max_epochs=3, limit_val_batches=0).fit(Classifier(), loaders()[0])
    assert [ANCHORED[0] in record.values for record in monitor.history] == [True, True, False]
    assert all("feature_std" in record.values for record in monitor.history)
    assert monitor.history.records[-1].gaps[ANCHORED[0]].kind is GapKind.NO_REFERENCE


def test_samples_of_another_data_set_are_noticed(tmp_path: Path) -> None:
    x, _ = digits()
    np.savez(tmp_path / "other.npz", rows=x[:200].numpy(), labels=torch.zeros(200).long().numpy())
    monitor = FeatureGeometryMonitor(signals=ANCHORED, windows=Windows(anchor=tmp_path / "other.npz"), head="net.3")
    with pytest.warns(FeatureGeometryWarning, match="it is of another data set or order"):
        trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
