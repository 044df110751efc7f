"""Probe sets beside what else a run has: names, references, stages, evaluations alone, resumes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_featgeo import Display, FeatureGeometryMonitor, Neighbors, ProbeSet
from lightning_featgeo.errors import ConfigurationError, GapKind
from tests._helpers.data import digits
from tests._helpers.models import SAFELY, Classifier, loaders, strict, trainer
from tests._helpers.probes import some


def test_a_set_that_is_called_as_a_loader_is_refused() -> None:
    monitor = strict(signals=["feature_std"], probe_sets={"clean": some()})
    with pytest.raises(ConfigurationError, match="a loader of the run has this name"):
        trainer(monitor).fit(Classifier(), loaders()[0], {"clean": some(200), "other": some(300)})


def test_a_resumed_run_knows_its_sets_by_name(tmp_path: Path) -> None:
    def sets(*names: str) -> FeatureGeometryMonitor:
        given = {name: some(0 if name == "a" else 900) for name in names}
        return strict(signals=["cka_drift"], probe_sets=given)

    torch.manual_seed(0)
    model = Classifier()
    made = trainer(sets("a", "b"), max_epochs=2)
    made.fit(model, *loaders())
    made.save_checkpoint(tmp_path / "a.ckpt")
    swapped, same = sets("b", "a"), sets("a", "b")
    for monitor in (swapped, same):
        torch.manual_seed(1)
        trainer(monitor, max_epochs=3).fit(Classifier(), *loaders(), ckpt_path=tmp_path / "a.ckpt", **SAFELY)
    found = [{r.stage: r.values["cka_drift"] for r in list(monitor.history)[-3:]} for monitor in (swapped, same)]
    assert found[0] == pytest.approx(found[1])
    assert set(found[0]) == {"val", "a", "b"}


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_a_reference_of_other_weights_is_a_gap() -> None:
    signals, stages = ["knn_accuracy"], ("train", "val")
    monitor = FeatureGeometryMonitor(signals=signals, stages=stages, reference="clean", probe_sets={"clean": some()})
    trainer(monitor, max_epochs=5, check_val_every_n_epoch=3).fit(Classifier(), *loaders())
    _, before, at_its_end, at_its_start, after = (record for record in monitor.history if record.stage == "train")
    assert before.gaps["knn_accuracy"].kind == after.gaps["knn_accuracy"].kind == GapKind.NO_REFERENCE
    assert "ran before this window began, and weights have changed since" in str(after.gaps["knn_accuracy"])
    assert "knn_accuracy" in at_its_end.values
    assert "knn_accuracy" in at_its_start.values


@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_a_reference_with_labels_of_other_classes_does_not_vote() -> None:
    x, y = digits()
    sets = {"other": [(x[:100] / 16, y[:100] + 10)]}
    signals = ["knn_accuracy", "linear_probe_accuracy"]
    monitor = FeatureGeometryMonitor(signals=signals, reference="other", probe_sets=sets)
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    gaps = monitor.history.records[0].gaps
    assert set(gaps) == set(signals)
    assert all("of the reference, 100 labels are not below num_classes=10" in str(gap) for gap in gaps.values())


@pytest.mark.parametrize("signals", ["auto", ["classifier", "knn_ood_auroc", "knn_accuracy"], "all"])
@pytest.mark.filterwarnings("ignore::lightning_featgeo.errors.FeatureGeometryWarning")
def test_a_set_without_labels_has_what_other_windows_have_but_for_classes(signals: Any) -> None:
    sets = {"clean": some(), "ood": ProbeSet(some(500), labelled=False)}
    monitor = FeatureGeometryMonitor(
        signals=signals, reference="clean", probe_sets=sets, display=Display(headline="knn_accuracy")
    )
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    by_stage = {record.stage: record for record in monitor.history}
    needed = {"knn_accuracy", "nc1", "knn_ood_auroc"} & set(by_stage["val"].values)
    assert {"knn_accuracy", "nc1"} <= needed
    assert {"feature_std", "knn_log_density", *needed} - {"knn_accuracy", "nc1"} <= set(by_stage["ood"].values)
    assert not {"knn_accuracy", "nc1"} & set(by_stage["ood"].values)


def test_a_stopper_of_a_curve_that_a_set_cannot_have_is_refused() -> None:
    monitor = strict(signals=["knn_accuracy"], probe_sets={"ood": ProbeSet(some(), labelled=False)})
    stop = EarlyStopping("featgeo/ood/knn_accuracy", mode="max")
    with pytest.raises(ConfigurationError, match="watches a name that this run never logs"):
        trainer(monitor, stop).fit(Classifier(), *loaders())


class Inside(Classifier):
    """Its steps call a part that its forward does not."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(10, 5)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.projector(self(batch[0])).square().mean()


def test_a_layer_that_does_not_run_on_a_set_is_told_before_training() -> None:
    monitor = strict(layer="projector", stages="train", signals=["feature_std"], probe_sets={"clean": some()})
    with pytest.raises(ConfigurationError, match=r"'projector' does not run on the probe set 'clean'.*forward=lambda"):
        trainer(monitor, limit_val_batches=0).fit(Inside(), loaders()[0])
    right = ProbeSet(some(), forward=lambda module, batch: module.projector(module(batch[0])))
    monitor = strict(layer="projector", stages="train", signals=["feature_std"], probe_sets={"clean": right})
    trainer(monitor, max_epochs=1, limit_val_batches=0).fit(Inside(), loaders()[0])
    assert [record.values["n_samples"] for record in monitor.history] == [256, 100]


@pytest.mark.parametrize("given", [torch.zeros(4, 64), TensorDataset(torch.zeros(4, 64)), "loader", {"a": 1}])
def test_what_is_no_loader_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="DataLoader"):
        ProbeSet(given)


@pytest.mark.parametrize(("alone", "stages"), [("test", ("val", "test")), ("validate", ("val",)), ("test", ("test",))])
def test_they_run_in_an_evaluation_alone(alone: str, stages: tuple[str, ...]) -> None:
    monitor = strict(signals=["knn_accuracy"], stages=stages, reference="clean", probe_sets={"clean": some()})
    getattr(trainer(monitor), alone)(Classifier(), some(300), verbose=False)
    assert [record.stage for record in monitor.history] == [{"test": "test", "validate": "val"}[alone], "clean"]
    assert "knn_accuracy" in monitor.history.records[0].values


def test_an_error_of_a_set_is_raised_where_errors_are() -> None:
    def fails(module: Any, batch: Any) -> Any:
        if module.trainer.global_step:
            raise ZeroDivisionError("no")
        return module(batch[0])

    monitor = strict(signals=["feature_std"], probe_sets={"a": ProbeSet(some(), forward=fails)})
    with pytest.raises(ZeroDivisionError):
        trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())


class ByHand(Classifier):
    """Manual optimisation, by an optimizer that the Trainer does not count."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


@pytest.mark.parametrize("rows", ["bank", "all"])
def test_they_run_each_time_whatever_the_trainer_counts(rows: str) -> None:
    for model, settings in ((ByHand(), {}), (Classifier(), {"accumulate_grad_batches": 4, "val_check_interval": 2})):
        monitor = strict(
            signals=["knn_accuracy"], reference="clean", probe_sets={"clean": some()},
            neighbors=Neighbors(reference_rows=rows),
        )  # fmt: skip
        trainer(monitor, max_epochs=2, num_sanity_val_steps=0, **settings).fit(model, *loaders())
        windows = {"val", "clean"} if settings else {"val"}
        of_each = [sum(r.stage == stage for r in monitor.history) for stage in ("val", "clean")]
        assert of_each[0] == of_each[1] == (4 if settings else 2)
        assert all("knn_accuracy" in r.values for r in monitor.history if r.stage in windows), model


def test_a_reference_votes_on_training_windows_that_validation_ends() -> None:
    monitor = strict(
        signals=["knn_accuracy"], stages=("train", "val"), reference="clean", probe_sets={"clean": some()},
        neighbors=Neighbors(reference_rows="all"),
    )  # fmt: skip
    trainer(monitor, max_epochs=2).fit(Classifier(), *loaders())
    assert ["knn_accuracy" in r.values for r in monitor.history if r.stage == "train"] == [True, True]


def test_where_nobody_votes_all_rows_change_nothing() -> None:
    monitor = strict(
        signals=["feature_std"], layer="net.0", reference="clean", probe_sets={"clean": some()}, labels=None,
        neighbors=Neighbors(reference_rows="all"),
    )  # fmt: skip
    trainer(monitor, max_epochs=1).fit(Classifier(), *loaders())
    assert all("feature_std" in record.values for record in monitor.history)


class Staged(Classifier):
    """Its forward takes the whole batch and a stage, as some libraries' modules do."""

    def forward(self, batch: Any, stage: str) -> Tensor:
        return self.net(batch["image"] if isinstance(batch, dict) else batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch, "fit"), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self(batch, "validate")


def test_the_line_to_paste_was_tried() -> None:
    x, y = digits()
    batches = [{"label": y[:50], "image": x[:50] / 16}]
    with pytest.raises(ConfigurationError, match="missing 1 required positional argument: 'stage'") as refused:
        trainer(strict(head="net.3", signals=["feature_std"], probe_sets={"a": batches})).fit(Staged(), *loaders())
    line = str(refused.value).partition("Say how its batches enter: ")[2]
    assert line == "probe_sets={'a': ProbeSet(loader, forward=lambda module, batch: module.net(batch['image']))}"
    sets = eval(line.partition("=")[2], {"ProbeSet": ProbeSet, "loader": batches})
    monitor = strict(head="net.3", signals=["feature_std"], probe_sets=sets)
    trainer(monitor, max_epochs=1).fit(Staged(), *loaders())
    assert monitor.history.records[-1].values["n_samples"] == 50
