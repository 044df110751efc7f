"""sentence-transformers: its trainers, with GeometryCallback."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, CrossEntropyLoss
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from lightning_featgeo.adapters.huggingface import GeometryCallback
from tests.compat.keeper import Keeper, drive
from tests.compat.kit import use

WORDS = [f"w{i}" for i in range(36)]
SIZE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip


@contextmanager
def saved(model: Any) -> Iterator[str]:
    """A folder with a model and its tokenizer, as one from the Hub is."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names).save_pretrained(folder)
        yield folder


def sentences(n: int, seed: int) -> list[str]:
    """Of several lengths; every fourth has the same topic."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(n):
        topic = torch.randint(0, 6, (4 + i % 5,), generator=generator) + 6 * (i % 4)
        noise = torch.randint(0, len(WORDS), (2,), generator=generator)
        found.append(" ".join(WORDS[j] for j in torch.cat([topic, noise])))
    return found


def pairs(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Two sentences of one topic."""
    return sentences(n, seed), sentences(n, seed + 100)


def embedding(calls: list[Any], batch: Any) -> torch.Tensor:
    """Of the first column; the other columns are other views of the samples, or none."""
    return calls[0]["sentence_embedding"]


def last(model: Any) -> Any:
    return model[-1]


def fit(watch: Any, keeper: Keeper, kind: Any, made: Any, model: Any, train: Any, val: Any, loss: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        arguments = made(
            folder, num_train_epochs=2, per_device_train_batch_size=16, per_device_eval_batch_size=16,
            eval_strategy="epoch", save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            learning_rate=1e-3,
        )  # fmt: skip
        trainer = kind(model=model, args=arguments, train_dataset=train, eval_dataset=val, loss=loss)
        geometry = watch(GeometryCallback, trainer=trainer)
        drive(keeper, trainer)
        trainer.train()
    return geometry


def encoder(folder: str) -> Any:
    transformer = models.Transformer(folder)
    return SentenceTransformer(modules=[transformer, models.Pooling(32, pooling_mode="mean")], device="cpu")


def embed(watch: Any, keeper: Keeper, model: Any, train: Any, val: Any, loss: Any) -> tuple[Keeper, Any]:
    kind, arguments = SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    return keeper, fit(watch, keeper, kind, arguments, model, train, val, loss)


FIRST = "the embedding of the anchor"


@use("sentence-transformers", "MultipleNegativesRankingLoss", {"layer": "1"}, FIRST)
def ranked(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(last, embedding, output=True)
    train, val = (
        Dataset.from_dict(dict(zip(("anchor", "positive"), pairs(*size), strict=True))) for size in ((48, 0), (64, 1))
    )
    with saved(BertModel(BertConfig(**SIZE))) as folder:
        model = encoder(folder)
    return embed(watch, keeper, model, train, val, losses.MultipleNegativesRankingLoss(model))


@use("sentence-transformers", "CosineSimilarityLoss", {"layer": "1"}, "the first sentence's")
def similar(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(last, embedding, output=True)

    def scored(n: int, seed: int) -> Any:
        first, second = pairs(n, seed)
        score = [1.0 if i % 2 else 0.2 for i in range(n)]
        second = [second[i] if i % 2 else second[(i + 1) % n] for i in range(n)]
        return Dataset.from_dict({"sentence1": first, "sentence2": second, "score": score})

    with saved(BertModel(BertConfig(**SIZE))) as folder:
        model = encoder(folder)
    return embed(watch, keeper, model, scored(48, 0), scored(64, 1), losses.CosineSimilarityLoss(model))


@use("sentence-transformers", "BatchAllTripletLoss, with a Dense", {"num_classes": 4}, "with classes")
def triplets(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(last, embedding, lambda batch: batch["label"], output=True)

    def of_classes(n: int, seed: int) -> Any:
        return Dataset.from_dict({"sentence": sentences(n, seed), "label": [i % 4 for i in range(n)]})

    with saved(BertModel(BertConfig(**SIZE))) as folder:
        model = SentenceTransformer(
            modules=[models.Transformer(folder), models.Pooling(32, pooling_mode="mean"), models.Dense(32, 16)],
            device="cpu",
        )
    return embed(watch, keeper, model, of_classes(48, 0), of_classes(64, 1), losses.BatchAllTripletLoss(model))


def cross(watch: Any, keeper: Keeper, labels: int, train: Any, val: Any, loss: Any) -> tuple[Keeper, Any]:
    with saved(BertForSequenceClassification(BertConfig(**SIZE, num_labels=labels))) as folder:
        model = CrossEncoder(folder, num_labels=labels, device="cpu")
    kind, arguments = CrossEncoderTrainer, CrossEncoderTrainingArguments
    return keeper, fit(watch, keeper, kind, arguments, model, train, val, loss(model))


def judged(n: int, seed: int, classes: int) -> Any:
    first, second = pairs(n, seed)
    second = [second[(i + i % classes) % n] for i in range(n)]
    return Dataset.from_dict({"query": first, "response": second, "label": [i % classes for i in range(n)]})


def classifier(model: Any) -> Any:
    return model.model.classifier


@use("sentence-transformers", "CrossEncoder, relevant or not", why="one output, classes are 0 and 1")
def relevance(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(classifier, labels=lambda batch: batch["label"])
    return cross(watch, keeper, 1, judged(48, 0, 2), judged(64, 1, 2), BinaryCrossEntropyLoss)


@use("sentence-transformers", "CrossEncoder, three classes")
def inference(watch: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    keeper = Keeper(classifier, labels=lambda batch: batch["label"])
    return cross(watch, keeper, 3, judged(48, 0, 3), judged(64, 1, 3), CrossEntropyLoss)
