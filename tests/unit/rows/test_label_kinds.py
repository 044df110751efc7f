"""Labels as batches bring them: where they are, what can be classes of a head, and what they are labels of."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.assembler import RowAssembler
from lightning_featgeo.rows.batches import batch_size, find_labels
from lightning_featgeo.rows.labels import LabelReader

X, Y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 3, 1, 0, 3, 2])


@dataclass
class Data:
    x: Tensor
    y: Tensor


class Named(NamedTuple):
    image: Tensor
    label: Tensor


class Graph:
    """Keys and attributes, as graph libraries' batches have."""

    def __init__(self, **parts: Tensor) -> None:
        self._parts = parts

    def keys(self) -> list[str]:
        return [*self._parts]

    def __getitem__(self, key: str) -> Tensor:
        return self._parts[key]


@pytest.mark.parametrize(
    ("batch", "selector"),
    [
        (Data(X, Y), "y"),
        (Named(X, Y), "label"),
        (SimpleNamespace(x=X, target=Y), "target"),
        (UserDict(x=X, labels=Y), "labels"),
        (Graph(x=X, y=Y), "y"),
        ({"inputs": {"x": X}, "targets": {"category": Y, "box": torch.rand(8, 4)}}, "targets.category"),
        ({"lab": [X, Y], "unlab": [X]}, "lab.1"),
        ([X, Data(X, Y)], "1.y"),
        ([{"x": x, "y": y} for x, y in zip(X, Y, strict=True)], None),
        (((X, X > 0), (Y, ["name"] * 8)), "1.0"),
    ],
)
def test_labels_are_found_in_any_container_and_by_a_dotted_path(batch: Any, selector: str | None) -> None:
    found = find_labels(batch)
    assert found is not None
    assert torch.equal(found, Y)
    assert batch_size(batch) == 8
    if selector is not None:
        named = find_labels(batch, selector)
        assert named is not None
        assert torch.equal(named, Y)


def test_the_boxes_of_one_image_are_no_labels_of_the_batch() -> None:
    boxes = [{"boxes": torch.rand(i, 4), "labels": torch.arange(i)} for i in range(1, 9)]
    assert find_labels((X, boxes)) is None


def test_what_a_step_takes_out_of_its_batch_is_still_there() -> None:
    inner = {"labels": Y, "x": X}
    parts, data = [X, Y], Data(X, Y)
    kept = tree.snapshot({"inputs": inner, "parts": parts, "data": data})
    inner.pop("labels")
    parts.clear()
    del data.y
    assert kept["inputs"]["labels"] is Y
    assert kept["parts"] == [X, Y]
    assert kept["data"].y is Y


@pytest.mark.parametrize(
    ("parts", "outputs", "kind"),
    [
        ((Y.float(),), 4, "whole"),
        ((Y.float() + 0.5,), 4, "targets"),
        ((Y.float(),), 1, "targets"),
        (((Y > 1).float(),), 1, "binary"),
        ((Y > 1,), 2, "classes"),
        ((Y,), 4, "classes"),
        ((Y.to(torch.uint8),), 4, "classes"),
        ((torch.arange(8) * 9,), 4, "none"),  # an index
        ((Y, torch.arange(8) * 9), 4, "classes"),
        ((torch.rand(8) * 9, Y % 2), 1, "targets"),  # a time, and whether it was censored
        ((Y.float() * 1.5, torch.arange(8)), 1, "targets"),
    ],
)
def test_only_what_fits_the_head_are_its_classes(parts: tuple[Tensor, ...], outputs: int, kind: str) -> None:
    reader = LabelReader(num_classes=max(outputs, 2), outputs=outputs, stated=False)
    for _ in range(2):
        labels, targets = reader.read((X, *parts))
    assert reader.kind == kind
    assert (labels is not None) == (kind in ("classes", "whole", "binary"))
    assert (targets is not None) == (kind == "targets")
    if len(parts) > 1 or kind == "none":
        assert reader.notes


def test_labels_of_a_language_model_are_shifted_once() -> None:
    ids = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(0))
    prompt = ids.clone()
    prompt[:, :2] = -100
    for labels in (ids.clone(), prompt):
        found, _ = LabelReader(num_classes=9).read({"input_ids": ids, "labels": labels})
        assert found is not None
        expected = torch.cat([labels[:, 1:], torch.full((4, 1), -1)], dim=1)
        assert torch.equal(found, torch.where(expected == -100, -1, expected))
    shifted = torch.cat([ids[:, 1:], torch.full((4, 1), -100)], dim=1)
    found, _ = LabelReader(num_classes=9).read({"input_ids": ids, "labels": shifted})
    assert found is not None
    assert torch.equal(found, torch.where(shifted == -100, -1, shifted))


def test_tokens_without_a_label_do_not_count() -> None:
    features, labels = torch.randn(4, 6, 5), torch.randint(0, 3, (4, 6))
    labels[1, 3:] = -100
    made = RowAssembler(labels=LabelReader(num_classes=3)).assemble([features], {"x": features, "labels": labels}, 0)
    rows = made.parts[0].rows
    assert torch.equal(rows.keep, (labels != -100).flatten())
    assert torch.equal(rows.label[rows.keep], labels[labels != -100])


@pytest.mark.parametrize("stride", [1, 2])
def test_pixels_have_the_classes_of_their_map(stride: int) -> None:
    maps, labels = torch.randn(3, 5, 8 // stride, 8 // stride), torch.randint(0, 4, (3, 8, 8))
    labels[0, :4] = 255
    reader = LabelReader(num_classes=4, ignore_index=255)
    made = RowAssembler("b c h w -> (b h w) c", reader).assemble([maps], (torch.randn(3, 3, 8, 8), labels), 0)
    expected = labels[:, ::stride, ::stride].flatten()
    assert torch.equal(made.parts[0].rows.label, torch.where(expected == 255, -1, expected))
    pooled = RowAssembler(labels=LabelReader(num_classes=4))
    assert "labels" not in pooled.assemble([maps], (torch.randn(3, 3, 8, 8), labels), 0).present
    assert "pool='b c h w -> (b h w) c'" in str(pooled.notes)


def test_lengths_beside_the_labels_of_a_sequence_are_no_classes() -> None:
    """As batches for CTC: spectrograms, their lengths, targets, and how many of them."""
    batch = (torch.randn(8, 40, 3), torch.arange(8) + 30, torch.randint(1, 6, (8, 5)), torch.arange(8) % 4 + 1)
    reader = LabelReader(num_classes=6, outputs=6, stated=False)
    assert reader.read(batch) == (None, None)
    assert "could be labels" in str(reader.notes)
