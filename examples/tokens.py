"""A small causal language model on Python's own documentation: one epoch, watched in windows of some steps each.

    python examples/tokens.py

Each byte is a token, and each sequence begins with a BOS token. There is only one epoch, so a window closes after every
50 optimiser steps. Each token is a row. At most 16 tokens of each sequence are used, at positions that a hash chooses
and that stay the same. The first token is ignored, because it becomes an attention sink: its features are much larger
than all others.
"""

from __future__ import annotations

import argparse
from pydoc_data.topics import topics

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_featgeo import FeatureGeometryMonitor, Tokens, Windows

BOS, VOCABULARY, LENGTH = 0, 128, 64


class Language(pl.LightningModule):
    def __init__(self, dim: int = 64, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, dim), nn.Embedding(LENGTH, dim)
        block = nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.lm_head = nn.Linear(dim, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        hidden = self.embed(ids) + self.place(torch.arange(length, device=ids.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=ids.device)
        return self.lm_head(self.blocks(hidden, mask, is_causal=True))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        ids = batch["input_ids"]
        loss = cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def documentation(sequences: int) -> DataLoader:
    """Pieces of Python's own documentation, each after a BOS token."""
    text = "\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace")
    pieces = [text[i : i + LENGTH] for i in range(0, len(text) - LENGTH, LENGTH)][:sequences]
    ids = torch.tensor([[BOS, *piece] for piece in pieces])
    return DataLoader([{"input_ids": row} for row in ids], 32, shuffle=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=9600)
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps per window")
    args = parser.parse_args()
    pl.seed_everything(0, verbose=False)
    monitor = FeatureGeometryMonitor(
        stages="train",
        windows=Windows(every_n_train_steps=args.steps),
        pool="tokens",
        tokens=Tokens(per_sequence=16, skip=1),
    )
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor],
    )  # fmt: skip
    trainer.fit(Language(), documentation(args.sequences))
    signals = monitor.history.run["signals"]
    print(f"{'step':>6}" + "".join(f"{name:>21}" for name in signals))
    for record in monitor.history:
        print(f"{record.step:6d}" + "".join(f"{record.values.get(name, float('nan')):21.3f}" for name in signals))
    print(f"loss {float(trainer.callback_metrics['loss']):.3f}; rows in a window: {record.counts['seen']:,}")


if __name__ == "__main__":
    main()
