"""Lightning's classes as types. At run time nothing is known of them: ``pytorch_lightning`` has copies of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
else:
    LightningModule = Trainer = Any

__all__ = ["LightningModule", "Trainer"]
