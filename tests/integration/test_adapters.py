"""Other engines give the numbers that Lightning gives: a loop of one's own, Fabric, the Hugging Face Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, FeatureGeometryWarning
from lightning_featgeo.adapters import FeatureWatch
from lightning_featgeo.adapters.fabric import FabricGeometry
from lightning_featgeo.adapters.huggingface import GeometryCallback
from tests._helpers.data import digits
from tests._helpers.models import trainer
from tests._helpers.processes import on_ranks
from tests._helpers.ranked import parallelism
from tests._helpers.still import TRAIN, VAL, digit_loaders, still

SIGNALS = ["feature_std", "effective_rank", "id_two_nn", "knn_log_density", "nc1", "nc3", "knn_accuracy"]


def with_lightning() -> dict[str, float]:
    monitor = FeatureGeometryMonitor(signals=SIGNALS, on_error="raise")
    trainer(monitor, max_epochs=1).fit(still(), *digit_loaders())
    return {f"featgeo/val/{name}": v for name, v in monitor.history.records[0].values.items() if name in SIGNALS}


def test_a_loop_of_ones_own() -> None:
    model = still().net.eval()
    watch = FeatureWatch(model, signals=SIGNALS, on_error="raise")
    watch.open("val")
    for batch in digit_loaders()[1]:
        with watch.batch(batch), torch.no_grad():
            model(batch[0])
    assert watch.close(epoch=1.0) == pytest.approx(with_lightning(), rel=1e-6)
    with watch.batch(batch):  # no window is open
        model(batch[0])
    assert watch.close() == {}
    assert [record.epoch for record in watch.history] == [1.0]


def test_a_failing_forward_is_the_users_and_ours_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    model = still().net
    watch = FeatureWatch(model, signals=["feature_std"])
    watch.open("val")
    with pytest.raises(ZeroDivisionError), watch.batch(None):
        raise ZeroDivisionError
    watch.open("val")
    with watch.batch((torch.zeros(4, 64), torch.arange(4))):
        model(torch.rand(4, 64))
    monkeypatch.setattr(watch.watcher.sources, "take", None)
    with pytest.warns(FeatureGeometryWarning, match="streaming a val batch failed"), watch.batch(None):
        model(torch.rand(4, 64))
    assert watch.close() == {}
    with pytest.raises(TypeError, match="FeatureWatch has no argument 'stages'"):
        FeatureWatch(model, stages=("val",))


def test_fabric_logs_what_lightning_logs(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, "fabric")
    fabric = Fabric(accelerator="cpu", loggers=[logger])
    inner = still().net
    model, _ = fabric.setup(inner, torch.optim.SGD(inner.parameters(), lr=0.0))
    loader = fabric.setup_dataloaders(digit_loaders()[1])
    geometry = FabricGeometry(fabric, model, signals=SIGNALS, on_error="raise")
    model.eval()
    geometry.open("val", loader=loader)
    for batch in loader:
        with geometry.batch(batch):
            model(batch[0])
    values = geometry.close(epoch=1, step=10)
    assert values == pytest.approx(with_lightning(), rel=1e-6)
    logger.finalize("success")
    (file,) = tmp_path.rglob("metrics.csv")
    header, row = (line.split(",") for line in file.read_text().splitlines())
    written = dict(zip(header, row, strict=True))
    assert float(written["featgeo/val/id_two_nn"]) == values["featgeo/val/id_two_nn"]
    assert written["step"] == "10"


def test_fabric_with_several_processes() -> None:
    every = on_ranks(2, parallelism.fabric, 2)
    assert every[0] == every[1]
    assert every[0]["values"] == pytest.approx(on_ranks(1, parallelism.fabric, 1)[0]["values"], rel=1e-6)
    assert every[0]["counts"]["seen"] == VAL


class Digits(Dataset):
    def __init__(self, start: int, count: int) -> None:
        x, y = digits()
        self.x, self.y = x[start : start + count].long(), y[start : start + count]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Any]:
        mask = torch.ones(64, dtype=torch.long)
        mask[40 + i % 20 :] = 0
        return {"input_ids": self.x[i], "attention_mask": mask, "labels": self.y[i]}


def bert() -> PreTrainedModel:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    return BertForSequenceClassification(BertConfig(vocab_size=17, max_position_embeddings=64, num_labels=10, **size))


def hugging_face(folder: Path, **kwargs: Any) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        **{
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 50,
            "num_train_epochs": 2,
            "eval_strategy": "epoch",
            "logging_strategy": "epoch",
            "report_to": [],
            "use_cpu": True,
            "disable_tqdm": True,
            "seed": 1,
            **kwargs,
        },
    )
    return Trainer(bert(), arguments, train_dataset=Digits(0, 128), eval_dataset=Digits(TRAIN, 210))


def test_the_hugging_face_trainer(tmp_path: Path) -> None:
    run = hugging_face(tmp_path, save_strategy="epoch", metric_for_best_model="featgeo/val/effective_rank")
    geometry = GeometryCallback(run, train_steps=3, signals=SIGNALS, on_error="raise")
    run.train()
    windows = list(geometry.history)
    assert [record.epoch for record in windows] == [1.0, 2.0]
    assert windows[0].values["n_samples"] == 210
    # read again by hand, from the weights at the end
    run.model.eval()
    caught: list[torch.Tensor] = []
    hook = run.model.classifier.register_forward_pre_hook(lambda module, args: caught.append(args[0].detach()))
    with torch.no_grad():
        for start in range(0, 210, 50):
            rows = [Digits(TRAIN, 210)[i] for i in range(start, min(start + 50, 210))]
            run.model(**{key: torch.stack([row[key] for row in rows]) for key in rows[0]})
    hook.remove()
    features = torch.cat(caught).double()
    sigma = torch.linalg.svdvals(features - features.mean(dim=0))
    p = sigma / sigma.sum()
    rank = float(torch.exp(-torch.special.xlogy(p, p).sum()))
    assert windows[1].values["effective_rank"] == pytest.approx(rank, rel=1e-3)
    logged = [entry for entry in run.state.log_history if "eval_featgeo/val/effective_rank" in entry]
    assert [entry["eval_featgeo/val/effective_rank"] for entry in logged] == [
        record.values["effective_rank"] for record in windows
    ]
    assert run.state.best_metric == max(record.values["effective_rank"] for record in windows)
    assert [record.step for record in geometry.training.history] == [3, 6]
    assert geometry.training.history.records[0].values["n_samples"] == 96
    losses = [(entry["epoch"], entry["eval_loss"]) for entry in run.state.log_history if "eval_loss" in entry]
    assert geometry.history.series("eval_loss") == losses
    assert not {"epoch", "eval_runtime"} & set(geometry.history.metrics.names())
    geometry.remove()
    run.evaluate()
    assert len(geometry.history) == 2


def test_training_with_the_callback_is_the_same_training(tmp_path: Path) -> None:
    weights = []
    for watched in (True, False):
        run = hugging_face(tmp_path, save_strategy="no", gradient_accumulation_steps=2)
        if watched:
            GeometryCallback(run, train_steps=1, signals=SIGNALS, on_error="raise")
        run.train()
        run.predict(Digits(0, 20))
        weights.append([p.detach().clone() for p in run.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_trainer_that_makes_its_model_later_is_refused(tmp_path: Path) -> None:
    late = Trainer(None, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]), model_init=bert)
    with pytest.raises(ConfigurationError, match="give it with model="):
        GeometryCallback(late)
    with pytest.raises(ConfigurationError, match="train_steps must be at least 1"):
        GeometryCallback(hugging_face(tmp_path), train_steps=0)


class TwoHeads(torch.nn.Module):
    """Two classifiers on the same features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = torch.nn.Linear(64, 8), torch.nn.Linear(8, 10), torch.nn.Linear(8, 10)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **other: Any) -> dict[str, torch.Tensor]:
        hidden = self.body(input_ids.float()).relu()
        loss = sum(torch.nn.functional.cross_entropy(head(hidden), labels) for head in (self.one, self.two))
        return {"loss": loss, "logits": self.one(hidden)}


def test_a_head_that_cannot_be_told_is_refused_before_the_first_step(tmp_path: Path) -> None:
    run = hugging_face(tmp_path)
    run.model = run.model_wrapped = model = TwoHeads()
    before = model.body.weight.detach().clone()
    GeometryCallback(run)
    with pytest.raises(ConfigurationError, match=r"GeometryCallback\(trainer, head='(one|two)'\)"):
        run.train()
    assert torch.equal(model.body.weight, before)


def test_only_the_evaluation_loop_makes_an_evaluation_window(tmp_path: Path) -> None:
    run = hugging_face(tmp_path)
    geometry = GeometryCallback(run, signals=["n_samples", "feature_std"], on_error="raise")
    batch = {key: torch.stack([Digits(0, 30)[i][key] for i in range(30)]) for key in Digits(0, 30)[0]}
    run.model.eval()
    run.model(**batch)

    class Aborts(TrainerCallback):
        def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
            raise ZeroDivisionError

    run.add_callback(Aborts)
    with pytest.raises(ZeroDivisionError):
        run.evaluate()
    run.remove_callback(Aborts)
    assert not geometry.evaluation.watcher.sources.taps[0].calls
    run.model(**batch)
    assert run.evaluate()["eval_featgeo/val/n_samples"] == 210
    run.predict(Digits(0, 20))
    assert run.evaluate()["eval_featgeo/val/n_samples"] == 210
    geometry.remove()
    assert not {"evaluation_loop", "compute_loss"} & set(run.__dict__)
    assert "generate" not in run.model.__dict__


def test_generation_is_left_out_and_every_sample_counts_once(tmp_path: Path) -> None:
    size = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8}
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(vocab_size=17, decoder_start_token_id=0, **size))
    samples = [{"input_ids": torch.arange(8) + i % 3, "labels": torch.arange(4) + i % 3} for i in range(16)]
    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), predict_with_generate=True, generation_max_length=6, use_cpu=True, report_to=[]
    )
    run = Seq2SeqTrainer(model, arguments, eval_dataset=samples)
    geometry = GeometryCallback(run, signals=["n_samples"], pool="mean", on_error="raise")
    run.evaluate()
    (record,) = geometry.history
    assert record.values["n_samples"] == 16
    assert record.counts["batches"] == 2


def test_smoothed_labels_are_found_and_a_late_mistake_is_a_gap(tmp_path: Path) -> None:
    run = hugging_face(tmp_path, save_strategy="no", label_smoothing_factor=0.1, num_train_epochs=1)
    geometry = GeometryCallback(run, signals=["nc1", "knn_accuracy"], on_error="raise")
    run.train()
    assert {"nc1", "knn_accuracy"} <= set(geometry.history.records[0].values)
    run = hugging_face(tmp_path, save_strategy="no", num_train_epochs=1)
    geometry = GeometryCallback(run, signals=["nc1"], labels="no_such_key")
    with pytest.warns(FeatureGeometryWarning, match="the batch has no such key"):
        run.train()
    assert run.state.global_step == 4
    early = hugging_face(tmp_path)
    GeometryCallback(early, signals=["nc1"], labels="no_such_key")
    with pytest.raises(ConfigurationError, match="the batch has no such key"):
        early.evaluate()


def test_a_failed_forward_leaves_nothing_caught() -> None:
    model = still().net
    watch = FeatureWatch(model, signals=["n_samples"], on_error="raise")
    watch.open("val")
    batch = next(iter(digit_loaders()[1]))
    hook = model[3].register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError), watch.batch(batch):
        model(batch[0])
    hook.remove()
    model(batch[0])
    with watch.batch(batch):
        model(batch[0])
    assert watch.close() == {"featgeo/val/n_samples": len(batch[0])}
    model(batch[0])
    assert not watch.watcher.sources.taps[0].calls
