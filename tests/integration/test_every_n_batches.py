"""``every_n_batches=``: which training batches are watched, on one process and on two, and after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, FeatureGeometryWarning, Neighbors, Windows
from lightning_featgeo.watch.plan import WindowPlan
from lightning_featgeo.watch.window import Window
from tests._helpers.models import WHOLE, Classifier, trainer
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import windows

N, BATCH = 1290, 10  # 129 batches


class Numbered(Classifier):
    """Counts which batches ran while something listened to its features."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if any(module._forward_hooks or module._forward_pre_hooks for module in self.net):
            self.watched.append((self.current_epoch, batch_idx))
        return super().training_step(batch, batch_idx)


def data() -> DataLoader:
    x = torch.rand(N, 64, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, torch.arange(N) % 10), BATCH)


def fit(n: int, epochs: int = 2) -> tuple[Numbered, FeatureGeometryMonitor]:
    torch.manual_seed(0)
    model = Numbered()
    monitor = FeatureGeometryMonitor(
        stages=("train", "val"), windows=Windows(every_n_batches=n), signals=["feature_std"], on_error="raise"
    )
    trainer(monitor, max_epochs=epochs, num_sanity_val_steps=0).fit(model, data(), data())
    return model, monitor


def test_the_first_and_one_in_n_of_the_others() -> None:
    model, monitor = fit(4)
    records = {stage: [r for r in monitor.history if r.stage == stage] for stage in ("train", "val")}
    assert [r.counts["seen"] for r in records["val"]] == [N, N]  # validation is watched whole
    for epoch, record in enumerate(records["train"]):
        chosen = [number for of, number in model.watched if of == epoch]
        assert chosen[0] == 0
        assert record.counts["seen"] == BATCH * len(chosen)
        assert record.counts["batches"] == len(chosen)
        assert 20 < len(chosen) < 47  # 129 / 4, ± 3 standard deviations
        assert record.facts["every_n_batches"] == 4
    steps = {b - a for (_, a), (_, b) in zip(model.watched, model.watched[1:], strict=False)}
    assert len(steps) > 4  # no period
    one, other = ({number for of, number in model.watched if of == epoch} for epoch in (0, 1))
    assert one != other
    assert fit(4)[0].watched == model.watched
    assert "one in 4" in monitor.history.run["described"]


@pytest.mark.parametrize("n", [2, 4, 8])
def test_epochs_watch_other_batches_and_neighbours_as_often_as_any(n: int) -> None:
    window = Window(WindowPlan("train", "train", every_n_batches=n), batches=1)
    taken = torch.tensor([[window.takes(f"{epoch}/{i}") for i in range(4096)] for epoch in range(4)]).double()
    assert taken.mean() == pytest.approx(1 / n, rel=0.1)
    for one, other in ((taken[0], taken[1]), (taken[2], taken[3]), (taken[0, :-1], taken[0, 1:])):
        together = float((one * other).mean())
        assert together == pytest.approx(1 / n**2, rel=0.35)
    for residue in range(8):
        assert float(taken[:, residue::8].mean()) == pytest.approx(1 / n, rel=0.2)


def test_all_of_them_by_default_and_none_without_a_training_window() -> None:
    assert len(fit(1, epochs=1)[0].watched) == 129
    with pytest.raises(ConfigurationError, match='add "train" to stages='):
        FeatureGeometryMonitor(windows=Windows(every_n_batches=4))
    for wrong in (0, -1, True):
        with pytest.raises(ConfigurationError, match="every_n_batches"):
            FeatureGeometryMonitor(stages="train", windows=Windows(every_n_batches=wrong))
    FeatureGeometryMonitor(reference="train", windows=Windows(every_n_batches=4))


def test_a_resumed_epoch_watches_the_same_batches(tmp_path: Path) -> None:
    def run(**given: Any) -> list[tuple[int, int]]:
        torch.manual_seed(0)
        model = Numbered()
        monitor = FeatureGeometryMonitor(stages="train", windows=Windows(every_n_batches=4), signals=["feature_std"])
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=70, save_top_k=-1)
        trainer(monitor, saves, max_epochs=2, limit_val_batches=0, enable_checkpointing=True).fit(
            model, data(), **given
        )
        return model.watched

    whole = run()
    with pytest.warns(FeatureGeometryWarning, match="resumed in the middle"):  # this loader begins anew
        resumed = run(ckpt_path=tmp_path / "step=70.ckpt", **WHOLE)
    first = (0, 70)  # in which the head is looked for anew
    assert [one for one in resumed if one != first] == [one for one in whole if one > first]
    assert len(resumed) > 20


def test_two_processes_know_which_samples_are_repeats() -> None:
    settings = {"windows": Windows(every_n_batches=3), "neighbors": Neighbors(bank_size=200)}
    one, other = on_ranks(2, windows.curves, 2, settings)
    assert one["records"] == other["records"]
    for record in one["records"]:
        assert "repeated" not in record["counts"]
        assert not [note for note in record["notes"] if "twice" in str(note)]
