"""How a batch enters a model that no step calls, and the line to paste where that can't be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo.callbacks.model_inputs import call, forwards, has_forward
from lightning_featgeo.errors import ConfigurationError


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return scale * (a + b)


class Named(nn.Module):
    def forward(self, *, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return input_ids * (1 if attention_mask is None else attention_mask)


class Any_(nn.Module):
    def forward(self, **given: Tensor) -> Tensor:
        return given["x"] + len(given)


class Whole(nn.Module):
    def forward(self, batch: Any) -> Any:
        return batch


class Graph:
    x = torch.ones(2)


@pytest.mark.parametrize(
    ("module", "batch", "expected"),
    [
        (Whole(), torch.ones(2), torch.ones(2)),
        (Whole(), (torch.ones(2), torch.zeros(2)), torch.ones(2)),
        (Two(), [torch.ones(2), torch.ones(2), torch.zeros(2)], torch.full((2,), 2.0)),
        (Named(), {"input_ids": torch.ones(2), "labels": torch.zeros(2)}, torch.ones(2)),
        (Named(), {"input_ids": torch.ones(2), "attention_mask": torch.zeros(2)}, torch.zeros(2)),
        (Any_(), {"x": torch.ones(2), "y": torch.ones(2)}, torch.full((2,), 3.0)),
        (nn.Identity(), torch.ones(2), torch.ones(2)),
    ],
)
def test_a_batch_enters_a_forward_by_what_it_takes(module: nn.Module, batch: Any, expected: Tensor) -> None:
    assert torch.equal(call(module, batch), expected)


def test_what_is_no_container_and_a_dict_that_is_not_named_enter_whole() -> None:
    graph, given = Graph(), {"image": torch.ones(2)}
    assert call(Whole(), graph) is graph
    assert call(Whole(), given) is given


class Optional(nn.Module):
    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return x if context is None else x + context


class Star(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack(inputs).sum(0)


def test_where_several_tensors_could_be_inputs_it_is_asked() -> None:
    one = torch.ones(2)
    assert torch.equal(call(Optional(), (one, torch.zeros(2, dtype=torch.int64))), one)
    for module in (Optional(), Star()):
        with pytest.raises(ConfigurationError, match="takes 1 tensors or more, and the batch has 3"):
            call(module, (one, one, torch.zeros(2)))


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()
        self.encoder, self.head = nn.Linear(4, 3), nn.Linear(3, 2)


class Called(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


@dataclass
class Item:
    ids: Tensor
    image: Tensor


@pytest.mark.parametrize(
    ("batch", "way"),
    [
        (torch.zeros(3, 4), ""),
        ((torch.zeros(3, 4), torch.zeros(3)), "[0]"),
        ({"label": torch.zeros(3, dtype=torch.int64), "image": torch.zeros(3, 4)}, "['image']"),
        (Item(torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4)), ".image"),
        ([[torch.zeros(3, 4), torch.zeros(3, 4)], torch.zeros(3)], "[0][0]"),
    ],
)
def test_the_line_to_paste_finds_the_input(batch: Any, way: str) -> None:
    offered = forwards(Called(), "head", batch)
    assert offered[0][0] == f"lambda module, batch: module(batch{way})"
    inside = forwards(Plain(), "encoder", batch)
    assert inside[0][0] == f"lambda module, batch: module.encoder(batch{way})"
    for model, (text, forward), width in ((Called(), offered[0], 2), (Plain(), inside[0], 3)):
        assert torch.equal(eval(text)(model, batch), forward(model, batch))
        assert forward(model, batch).shape == (3, width)
    assert [has_forward(Called()), has_forward(Plain()), has_forward(nn.Linear(1, 1))] == [True, False, True]
    assert forwards(Plain(), None, batch)[0][0].startswith("lambda module, batch: module.encoder(")
