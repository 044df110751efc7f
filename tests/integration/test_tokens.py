"""A language model whose every sequence begins with a sink: what tokens tell, with and without it."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, Tokens
from lightning_featgeo.metrics.catalog import PRESETS
from tests._helpers.models import trainer


class Sink(nn.Module):
    """Puts the first token far out, as attention sinks are."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.zeros_like(x)
        far[:, 0] = 60.0
        return x + far


class Language(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(50, 16), nn.GRU(16, 16, batch_first=True)
        self.sink, self.head = Sink(), nn.Linear(16, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.sink(self.mix(self.embed(x))[0]))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["input_ids"]).flatten(0, 1), batch["input_ids"].flatten())

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self(batch["input_ids"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def values(**settings: Any) -> tuple[FeatureGeometryMonitor, dict[str, float]]:
    torch.manual_seed(0)
    ids = torch.randint(50, (32, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[::3, 8:] = 0
    data = DataLoader([{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)], 8)
    monitor = FeatureGeometryMonitor(layer="sink", pool="tokens", on_error="raise", **settings)
    trainer(monitor, max_epochs=1).fit(Language(), data, data)
    return monitor, monitor.history.records[-1].values


def test_tokens_get_their_preset_and_a_skipped_sink_changes_the_rank() -> None:
    monitor, plain = values()
    assert "tokens: each row is a token" in monitor.history.run["described"]
    assert set(plain) == {*PRESETS["tokens"], "n_samples"}
    _, skipped = values(tokens=Tokens(skip=1))
    assert plain["n_samples"] - skipped["n_samples"] == 32  # one a sequence
    assert plain["top_eigenvalue_share"] > 0.9 > 0.3 > skipped["top_eigenvalue_share"]
    assert skipped["effective_rank"] > 3 * plain["effective_rank"]


def test_so_many_tokens_of_a_sequence() -> None:
    _, drawn = values(tokens=Tokens(per_sequence=4, skip=1))
    assert drawn["n_samples"] == 32 * 4


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tokens": {"per_sequence": 4}}, 'add pool="tokens"'),
        ({"tokens": {"per_sequence": 0}, "pool": "tokens"}, "needs per_sequence"),
        ({"tokens": {"skip": 1}, "pool": "cls"}, "ignores leading tokens"),
        ({"tokens": {"skip": -1}}, "skip ≥ 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        FeatureGeometryMonitor(**{n: Tokens(**v) if n == "tokens" else v for n, v in settings.items()})
