"""Padding masks: which way round they are, and which marks are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_featgeo.rows.masks import MaskReader

LENGTHS = torch.tensor([2, 5, 3])
REAL = torch.arange(5) < LENGTHS[:, None]
IDS = torch.where(REAL, torch.randint(1, 9, (3, 5), generator=torch.Generator().manual_seed(0)), 0)
PATCHES = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
HIDDEN = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 1, 0], [0, 0, 1, 0, 1]]).bool()


def read(batch: Any, selector: Any = "auto", **kwargs: Any) -> tuple[Any, str]:
    notes: dict[str, None] = {}
    reader = MaskReader(selector, notes, **kwargs)
    found = [reader.read(batch, (3, 5), None) for _ in range(2)][-1]
    return found, str(notes)


@pytest.mark.parametrize(
    "batch",
    [
        {"input_ids": IDS, "attention_mask": REAL.long()},
        {"x": IDS, "mask": REAL},
        {"x": IDS, "mask": ~REAL},
        {"x": IDS, "padding_mask": ~REAL},
        {"x": IDS, "src_key_padding_mask": ~REAL},
        {"x": IDS, "key_padding_mask": REAL},  # named as torch's, and the other way round
        {"inputs": {"x": IDS, "mask": REAL.float()}},
        {"x": IDS.flip(1), "mask": REAL},  # not told by the values, but in one piece
    ],
)
def test_padding_is_found_whichever_way_round_it_is_marked(batch: Any) -> None:
    assert torch.equal(read(batch)[0], REAL)


def test_hidden_patches_are_no_padding() -> None:
    found, notes = read({"image": PATCHES, "mask": HIDDEN})
    assert found is None
    assert "every token counts" in notes
    assert torch.equal(read({"image": PATCHES, "mask": HIDDEN}, "mask")[0], HIDDEN)  # said is believed


def test_an_encoders_mask_is_never_laid_on_its_decoder() -> None:
    batch = {"input_ids": IDS, "attention_mask": REAL, "decoder_input_ids": IDS.flip(0)}
    assert read(batch, decodes=None)[0] is None
    assert torch.equal(read(batch, decodes=False)[0], REAL)
    both = {**batch, "decoder_attention_mask": REAL.flip(0)}
    assert torch.equal(read(both, decodes=True)[0], REAL.flip(0))


def test_a_mask_follows_sorted_sequences() -> None:
    order = torch.tensor([1, 2, 0])
    reader = MaskReader("auto")
    found = reader.read({"x": IDS, "attention_mask": REAL}, (3, 5), order)
    assert found is not None
    assert torch.equal(found, REAL[order])


def test_a_mask_of_other_tokens_is_said() -> None:
    found, notes = read({"x": IDS[:, :4], "attention_mask": REAL[:, :4]})
    assert found is None
    assert "does not fit tokens (3, 5)" in notes


@pytest.mark.parametrize("key", ["mask", "padding_mask"])
@pytest.mark.parametrize("value", [True, False])
def test_a_batch_without_padding_says_nothing_and_loses_no_token(key: str, value: bool) -> None:
    reader = MaskReader("auto")
    assert reader.read({"x": IDS, key: torch.full((3, 5), value)}, (3, 5), None) is None
    later = reader.read({"x": IDS, key: ~REAL}, (3, 5), None)
    assert later is not None
    assert torch.equal(later, REAL)
