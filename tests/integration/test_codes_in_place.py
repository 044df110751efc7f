"""Codes and experts are chosen at each place of a sample: maps, sequences, and tokens that a block has flattened."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset

from lightning_featgeo import FeatureGeometryMonitor
from lightning_featgeo.errors import ConfigurationError
from tests._helpers.models import trainer

CODES = 12


class Places(pl.LightningModule):
    """A layer that puts out codes at each of a sample's places, in the order of axes that it is told."""

    def __init__(self, axes: str, hard: bool = True) -> None:
        super().__init__()
        self.axes, self.hard, self.seen = axes, hard, []
        self.embed, self.codes, self.head = nn.Linear(1, 8), nn.Identity(), nn.Linear(CODES, 1)
        self.to_codes = nn.Linear(8, CODES)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.to_codes(torch.tanh(4 * self.embed(x[..., None])))  # (b, h, w, k) or (b, t, k)
        chosen = scores.argmax(dim=-1)
        made = one_hot(chosen, CODES).float() if self.hard else scores
        if not self.training and not self.trainer.sanity_checking:
            self.seen.append(chosen.flatten())
        moved = made.movedim(-1, 1) if self.axes == "b k …" else made
        out = self.codes(moved.flatten(0, 1) if self.axes == "flat" else moved)
        return self.head(out.reshape(made.shape) if self.axes != "b k …" else out.movedim(1, -1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def right(self) -> dict[str, float]:
        counts = np.bincount(torch.cat(self.seen).numpy(), minlength=CODES)
        p = counts[counts > 0] / counts.sum()
        return {
            "n_samples": float(counts.sum()),
            "code_perplexity": float(np.exp(-(p * np.log(p)).sum())),
            "unused_codes": float((counts == 0).mean()),
            "largest_code_share": float(p.max()),
        }


def watched(model: Places, shape: tuple[int, ...], signals: Any = "codes", **settings: Any) -> dict[str, float]:
    x = torch.randn(60, *shape, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x), 20)
    monitor = FeatureGeometryMonitor(layer="codes", signals=signals, on_error="raise", **settings)
    trainer(monitor, max_epochs=1).fit(model, loader, loader)
    return monitor.history.records[-1].values


@pytest.mark.parametrize(("axes", "shape"), [("b k …", (5, 4)), ("b … k", (5, 4)), ("b k …", (7,)), ("b … k", (7,))])
def test_one_hot_codes_tell_their_axis(axes: str, shape: tuple[int, ...]) -> None:
    """They were averaged over places, and the largest average was taken for the code of a sample."""
    model = Places(axes)
    found = watched(model, shape)
    assert {name: found[name] for name in model.right()} == pytest.approx(model.right(), rel=1e-6)


def test_scores_of_a_sequence_are_read_token_by_token() -> None:
    model = Places("b … k", hard=False)
    found = watched(model, (7,))
    assert {name: found[name] for name in model.right()} == pytest.approx(model.right(), rel=1e-6)


def test_tokens_that_a_block_has_flattened() -> None:
    model = Places("flat", hard=False)
    found = watched(model, (7,), pool="tokens")
    assert {name: found[name] for name in model.right()} == pytest.approx(model.right(), rel=1e-6)


def test_maps_of_scores_and_codes_beside_other_signals_are_asked_for_the_axis() -> None:
    for signals, shape in (("codes", (5, 4)), (["codes", "feature_std"], (7,))):
        with pytest.raises(ConfigurationError, match="say which axis holds the codes") as error:
            watched(Places("b … k", hard=False), shape, signals)
        pool = str(error.value).split("pool='")[1].split("'")[0]
        model = Places("b … k", hard=False)
        found = watched(model, shape, signals, pool=pool)
        assert {name: found[name] for name in model.right()} == pytest.approx(model.right(), rel=1e-6)
