"""transformers: its own Trainer, with GeometryCallback."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from lightning_featgeo.adapters.huggingface import GeometryCallback
from tests.compat.keeper import Keeper, drive
from tests.compat.kit import images, use

IGNORED, VOCABULARY = -100, 40
BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 32, "num_labels": 4,
}  # fmt: skip


def texts(n: int, length: int = 12) -> list[dict[str, Any]]:
    """Sequences of several lengths, in which some tokens are more frequent in one class than in others."""
    generator = torch.Generator().manual_seed(n)
    found = []
    for i in range(n):
        ids = torch.randint(10, VOCABULARY, (length - i % 5,), generator=generator)
        ids = ids.where(torch.rand(len(ids), generator=generator) > 0.3, 4 + i % 4)
        found.append({"input_ids": ids, "labels": i % 4})
    return found


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What DataCollatorWithPadding does."""
    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in ids], batch_first=True),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def collate_next(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What DataCollatorForLanguageModeling(mlm=False) does."""
    batch = collate(rows)
    return batch | {"labels": batch["input_ids"].where(batch["attention_mask"] > 0, IGNORED)}


def collate_tags(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What DataCollatorForTokenClassification does."""
    batch = collate(rows)
    tags = (batch["input_ids"] % 4).where(batch["attention_mask"] > 0, IGNORED)
    tags[:, 0] = IGNORED
    return batch | {"labels": tags}


def collate_pairs(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What DataCollatorForSeq2Seq does: the target is the source's beginning."""
    batch = collate(rows)
    return batch | {"labels": batch["input_ids"][:, :8].where(batch["attention_mask"][:, :8] > 0, IGNORED)}


def fit(watch: Any, keeper: Keeper, model: Any, train: Any, val: Any, kind: Any = Trainer, **arguments: Any) -> Any:
    settings: dict[str, Any] = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16,
        "eval_strategy": "epoch", "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "learning_rate": 1e-3,
    }  # fmt: skip
    of_trainer = {key: arguments.pop(key) for key in ("data_collator", "compute_metrics") if key in arguments}
    made = Seq2SeqTrainingArguments if kind is Seq2SeqTrainer else TrainingArguments
    with tempfile.TemporaryDirectory() as folder:
        trainer = kind(
            model, made(folder, **(settings | arguments)), train_dataset=train, eval_dataset=val, **of_trainer
        )
        geometry = watch(GeometryCallback, trainer=trainer)
        drive(keeper, trainer)
        trainer.train()
    return geometry


def accuracy(found: Any) -> dict[str, float]:
    return {"accuracy": float((np.argmax(found.predictions, -1) == found.label_ids).mean())}


@use("transformers", "Trainer: text classifier")
def classify(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.classifier, labels=lambda batch: batch["labels"])
    model = BertForSequenceClassification(BertConfig(**BERT))
    arguments = {"data_collator": collate, "compute_metrics": accuracy}
    return keeper, fit(watch, keeper, model, texts(48), texts(72), **arguments)


@use("transformers", "Trainer: images, label smoothing")
def see(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.classifier, labels=lambda batch: batch["labels"])
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        num_labels=4,
    )  # fmt: skip
    x, y = images(96, 32)
    rows = [{"pixel_values": x[i], "labels": int(y[i])} for i in range(96)]
    model = ViTForImageClassification(config)
    return keeper, fit(watch, keeper, model, rows[:32], rows[32:], label_smoothing_factor=0.1, compute_metrics=accuracy)


@use("transformers", "Trainer: causal language model", why="rows are the tokens that a next one is predicted from")
def speak(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(
        lambda model: model.lm_head, lambda calls, batch: calls[0][:, :-1][batch["labels"][:, 1:] != IGNORED]
    )
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
        )
    )
    return keeper, fit(watch, keeper, model, texts(48), texts(72), data_collator=collate_next)


@use("transformers", "Trainer: token classifier", why="rows are the tokens that have a label")
def tag(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(
        lambda model: model.classifier,
        lambda calls, batch: calls[0][batch["labels"] != IGNORED],
        lambda batch: batch["labels"][batch["labels"] != IGNORED],
    )
    model = BertForTokenClassification(BertConfig(**BERT))
    return keeper, fit(watch, keeper, model, texts(48), texts(72), data_collator=collate_tags)


@use("transformers", "Seq2SeqTrainer, generating", why="rows are the tokens of the target that have a label")
def translate(watch: Any) -> tuple[Keeper, Any]:
    class Rows:
        """The call with the labels: of the calls of a step only that one has as many tokens as the labels."""

        def __call__(self, calls: list[Any], batch: Any) -> Tensor:
            found = [call for call in calls if call.shape[:2] == batch["labels"].shape]
            return found[-1][batch["labels"] != IGNORED]

    keeper = Keeper(lambda model: model.lm_head, Rows())
    model = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )
    arguments = {"data_collator": collate_pairs, "predict_with_generate": True, "generation_max_length": 6}
    return keeper, fit(watch, keeper, model, texts(48), texts(72), Seq2SeqTrainer, **arguments)
