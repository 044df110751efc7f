"""Labels of small integer types: the largest byte is a class, and none is taken for the ignored one."""

from __future__ import annotations

import pytest
import torch

from lightning_featgeo.rows.labels import LabelReader


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_class_is_read_as_it_is(dtype: torch.dtype) -> None:
    given = torch.arange(256)
    labels, targets = LabelReader(num_classes=256).read((torch.zeros(256, 3), given.to(dtype)))
    assert targets is None
    assert labels is not None
    assert labels.dtype == torch.int64
    assert torch.equal(labels, given)


def test_the_ignored_class_of_bytes_is_none() -> None:
    labels, _ = LabelReader(num_classes=21, ignore_index=255).read(
        (torch.zeros(3, 2), torch.tensor([0, 255, 20]).byte())
    )
    assert labels is not None
    assert labels.tolist() == [0, -1, 20]


def test_negative_labels_stay_without_a_class() -> None:
    labels, _ = LabelReader().read((torch.zeros(3, 2), torch.tensor([0, -100, -7], dtype=torch.int8)))
    assert labels is not None
    assert labels[0] == 0
    assert bool((labels[1:] < 0).all())
