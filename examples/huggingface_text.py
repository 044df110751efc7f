"""Fine-tuning a pretrained text encoder on a data set from the Hub, with curves of its [CLS] features.

    pip install transformers accelerate datasets
    python examples/huggingface_text.py                                     # distilbert-base-uncased on ag_news
    python examples/huggingface_text.py --model bert-base-cased --data imdb
    python examples/huggingface_text.py --generated                         # no download: a small model, made-up texts

What to look for when fine-tuning: in the first evaluation, before training, `feature_std` and `effective_rank` are
those of the pretrained model. If both fall while the loss looks fine, the features collapse.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from lightning_featgeo.adapters.huggingface import GeometryCallback

Parts = tuple[Any, Any, Any, Any]  # model, training set, evaluation set, collator


def from_the_hub(model: str, data: str, samples: int) -> Parts:
    from datasets import load_dataset

    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = load_dataset(data).shuffle(seed=0)
    classes = texts["train"].features["label"].num_classes
    tokenized = texts.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
    train = tokenized["train"].select(range(min(samples, len(tokenized["train"]))))
    val = tokenized["test"].select(range(min(2000, len(tokenized["test"]))))
    found = AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes)
    return found, train, val, DataCollatorWithPadding(tokenizer)


class MadeUp(Dataset):
    """Sequences in which some tokens are more frequent in one class than in others."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(n) % 4
        ids = torch.randint(20, 200, (n, 24), generator=generator)
        told = torch.rand(n, 24, generator=generator) < 0.3
        self.ids = torch.where(told, 4 + self.labels[:, None], ids)
        self.ids[:, 0] = 1  # [CLS]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "attention_mask": torch.ones(24, dtype=torch.long), "labels": self.labels[i]}


def generated() -> Parts:
    config = DistilBertConfig(vocab_size=200, dim=32, hidden_dim=64, n_layers=2, n_heads=2, num_labels=4)
    return DistilBertForSequenceClassification(config), MadeUp(640, 0), MadeUp(256, 1), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="distilbert-base-uncased")
    parser.add_argument("--data", default="ag_news")
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--generated", action="store_true")
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, train, val, collator = generated() if args.generated else from_the_hub(args.model, args.data, args.samples)
    arguments = TrainingArguments(
        "huggingface_text_run",
        num_train_epochs=args.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=1e-3 if args.generated else 3e-5,
        eval_strategy="epoch",
        eval_on_start=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=train, eval_dataset=val)
    curves = GeometryCallback(trainer)  # finds the classifier and watches its input
    trainer.train()
    for record in curves.history:
        shown = "  ".join(f"{name} {value:.3f}" for name, value in record.values.items() if name != "n_samples")
        print(f"epoch {record.epoch:g}: {shown}")


if __name__ == "__main__":
    main()
