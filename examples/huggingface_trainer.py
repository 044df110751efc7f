"""A small BERT with the Hugging Face Trainer; one line adds the curves. The texts are Python's own docstrings.

    pip install transformers accelerate
    python examples/huggingface_trainer.py

The task: which package of the standard library does a docstring come from? Nothing is downloaded. With a model from
``from_pretrained`` and a data set of your own, the line stays the same.
"""

from __future__ import annotations

import argparse
import importlib
import inspect

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from lightning_featgeo.adapters.huggingface import GeometryCallback

PACKAGES = ("argparse", "asyncio", "decimal", "email.message", "logging", "pathlib", "socket", "unittest.mock")
LENGTH = 96  # characters: the vocabulary is bytes


def docstrings(package: str) -> list[str]:
    """Paragraphs of what a package says about itself."""
    module = importlib.import_module(package)
    found = {inspect.getdoc(module)}
    for _, thing in inspect.getmembers(module, lambda x: inspect.isclass(x) or inspect.isfunction(x)):
        found.add(inspect.getdoc(thing))
        found.update(inspect.getdoc(member) for _, member in inspect.getmembers(thing, inspect.isroutine))
    paragraphs = {part.strip() for text in found if text for part in text.split("\n\n")}
    return sorted(part for part in paragraphs if len(part) > 30)


class Texts(Dataset):
    def __init__(self, part: str) -> None:
        pairs = [(text, label) for label, package in enumerate(PACKAGES) for text in docstrings(package)[:150]]
        self.pairs = [pair for i, pair in enumerate(pairs) if (i % 4 == 0) == (part == "val")]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        text, label = self.pairs[i]
        codes = list(text.encode()[:LENGTH])
        padding = LENGTH - len(codes)
        return {
            "input_ids": torch.tensor(codes + [0] * padding),
            "attention_mask": torch.tensor([1] * len(codes) + [0] * padding),
            "labels": torch.tensor(label),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()

    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=256, max_position_embeddings=LENGTH, num_labels=len(PACKAGES), **size)
    )
    arguments = TrainingArguments(
        "huggingface_run",
        num_train_epochs=args.epochs,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=1e-3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=Texts("train"), eval_dataset=Texts("val"))
    geometry = GeometryCallback(trainer)  # finds the classifier and watches its input
    trainer.train()
    for record in geometry.history:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in record.values.items())
        print(f"epoch {record.epoch:g}: {shown}")


if __name__ == "__main__":
    main()
