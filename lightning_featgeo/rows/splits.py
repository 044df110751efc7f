"""Which samples of a batch its stage is about: of a graph, whose nodes are there in every stage, only some are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.batches import Selector, select
from lightning_featgeo.types import Tensor

_MASKS = {"train": ("train_mask",), "val": ("val_mask", "valid_mask"), "test": ("test_mask",)}


def of_stage(
    batch: Any, tensors: Sequence[tuple[tree.Path, Tensor]], stage: str, size: int, selector: Selector = "auto"
) -> tuple[Tensor, str] | None:
    """(size,) booleans, true at the stage's own samples, and why; None: all are.

    Two conventions of graph libraries: a sampled neighbourhood, of which the first ``batch_size`` nodes were asked for
    (``input_id`` says which); else a boolean vector that is called after the stage (``val_mask``).

    Args:
        batch: what the step got.
        tensors: of the batch, with their paths.
        stage: "train", "val" or "test"; others have no such names.
        size: samples in the batch.
        selector: of a mask; one that marks samples, not tokens, is taken for it. None: there is none.
    """
    if selector is None:
        return None
    if selector != "auto":
        marked = select(batch, selector, "mask")
        return (marked != 0, f"mask={selector!r}") if _marks(marked, size, anything=True) else None
    named = dict(tree.children(batch)) if tree.is_mapping(batch) else {}
    seeds, asked = named.get("batch_size"), named.get("input_id")
    if isinstance(seeds, int) and isinstance(asked, torch.Tensor) and asked.shape[:1] == (seeds,) and 0 < seeds < size:
        return torch.arange(size) < seeds, "'batch_size' (the nodes that were sampled for)"
    for path, marked in tensors:
        if path and path[-1] in _MASKS.get(stage, ()) and _marks(marked, size):
            return marked, repr(path[-1])
    return None


def _marks(marked: Any, size: int, anything: bool = False) -> bool:
    return isinstance(marked, torch.Tensor) and marked.shape == (size,) and (anything or marked.dtype == torch.bool)
