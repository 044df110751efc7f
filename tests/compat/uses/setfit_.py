"""setfit: its Trainer; GeometryCallback takes the trainer of the embeddings that is inside of it."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, models
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from setfit import SetFitModel, Trainer, TrainingArguments
from setfit.losses import SupConLoss
from sklearn.linear_model import LogisticRegression

from lightning_featgeo.adapters.huggingface import GeometryCallback
from tests.compat.keeper import Keeper, drive
from tests.compat.kit import use

WORDS = [f"w{i}" for i in range(36)]
STAGE = "embedding"  # setfit's own name for the evaluation of this phase


def texts(n: int, seed: int) -> Any:
    """Of several lengths; every fourth has the same topic, which is its label."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(n):
        topic = torch.randint(0, 6, (4 + i % 5,), generator=generator) + 6 * (i % 4)
        noise = torch.randint(0, len(WORDS), (2,), generator=generator)
        found.append(" ".join(WORDS[j] for j in torch.cat([topic, noise])))
    return Dataset.from_dict({"text": found, "label": [i % 4 for i in range(n)]})


def body() -> Any:
    words = models.WordEmbeddings(
        WhitespaceTokenizer(WORDS, stop_words=[]), torch.randn(len(WORDS), 32), update_embeddings=True
    )
    pooling = models.Pooling(32, pooling_mode="mean")
    return SentenceTransformer(modules=[words, pooling, models.Dense(32, 24)], device="cpu")


def embedding(calls: list[Any], batch: Any) -> torch.Tensor:
    return calls[0]["sentence_embedding"]


def fit(watch: Any, keeper: Keeper, inner: bool = True, **arguments: Any) -> tuple[Keeper, Any]:
    torch.manual_seed(0)
    model = SetFitModel(body(), LogisticRegression())
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, batch_size=16, num_epochs=1, eval_strategy="epoch", save_strategy="no", report_to="none",
            show_progress_bar=False, body_learning_rate=1e-3, **arguments,
        )  # fmt: skip
        trainer = Trainer(model=model, args=settings, train_dataset=texts(16, 0), eval_dataset=texts(48, 1))
        geometry = watch(GeometryCallback, trainer=trainer.st_trainer if inner else trainer)
        drive(keeper, trainer.st_trainer)
        trainer.train()
    return keeper, geometry


@use("setfit", "pairs", {"layer": "2:sentence_embedding"}, "the embedding of the first text of a pair")
def pairs(watch: Any) -> tuple[Keeper, Any]:
    return fit(watch, Keeper(lambda model: model[-1], embedding, output=True, stage=STAGE), num_iterations=1)


@use("setfit", "SupConLoss", {"num_classes": 4}, "the embedding, with classes")
def contrast(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model[-1], embedding, lambda batch: batch["label"], output=True, stage=STAGE)
    return fit(watch, keeper, loss=SupConLoss)


@use("setfit", "pairs, with its own Trainer given", why="has no single loop: its inner one is to be named")
def outer(watch: Any) -> tuple[Keeper, Any]:
    return fit(
        watch, Keeper(lambda model: model[-1], embedding, output=True, stage=STAGE), inner=False, num_iterations=1
    )
