"""A language model whose every sequence begins with a sink: what tokens tell, with and without it."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor, Tokens
from lightning_featgeo.metrics.catalog import PRESETS
from tests._helpers.models import strict, trainer


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


class LanguageModel(pl.LightningModule):
    """Scores every token with the next one; ``last``: one next token a sequence, behind its last place."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.embedding, self.body = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True)
        self.lm_head = nn.Linear(16, 20)

    def loss(self, batch: Any) -> Tensor:
        hidden, _ = self.body(self.embedding(batch["ids"]))
        if self.last:
            return cross_entropy(self.lm_head(hidden[:, -1]), batch["label"])
        scores = self.lm_head(hidden)
        return cross_entropy(scores[:, :-1].flatten(0, 1), batch["ids"][:, 1:].flatten())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("last", "named"), [(False, False), (False, True), (True, False)])
def test_a_label_of_sequences_is_no_class_of_a_head_that_scores_every_token(last: bool, named: bool) -> None:
    """Unless it is named, or the head scores one token a sequence: then the label is the token that comes next."""
    g = torch.Generator().manual_seed(0)
    samples = [
        {"ids": torch.randint(0, 20, (9,), generator=g), "label": torch.randint(0, 2, (), generator=g)}
        for _ in range(96)
    ]
    loader = DataLoader(samples, 32)
    watched = strict(**({"labels": "label", "pool": "mean"} if named else {}))
    trainer(watched, max_epochs=1).fit(LanguageModel(last), loader, loader)
    (record,) = watched.history.records
    assert ("knn_accuracy" in record.values) == (last or named)
    told = any("which it can't be scored against" in note for note in record.notes)
    assert told == (not last and not named)
