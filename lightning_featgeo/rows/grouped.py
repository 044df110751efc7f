"""Batches whose entries are groups of samples (episodes, bags, shards): each sample has a label of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.label_search import LABEL_KEYS
from lightning_featgeo.types import Tensor

NOTE = "a batch's entries are groups of samples with labels of their own: each sample is a row"
Parts = list[tuple[tree.Path, Tensor]]


def ungrouped(
    labels: Tensor | None, tensors: Parts, calls: Sequence[Call], is_classifier: bool
) -> tuple[Tensor | None, int, Parts] | None:
    """Labels (b·g,), samples, and the batch's tensors (b·g, …) of groups that the step has put one below the other.

    None if they are none: whole numbers (b, g) stand beside inputs (b, g, …), there are as many rows, and tokens would
    keep an axis of their own. Views of a sample have one label together.

    Args:
        labels: of the batch; None: none were found.
        tensors: of the batch.
        calls: what was caught.
        is_classifier: whether whole numbers for each sample are its class.
    """
    if not calls or (labels is not None and labels.ndim != 2):
        return None
    inputs = [t for _, t in tensors if t.ndim > 2 and t.is_floating_point()]
    whole = [labels] if labels is not None else [t for path, t in tensors if _is_label(path, t, tensors)]
    for own in whole:
        rows = all(call.features.ndim != 3 and len(call.features) == own.numel() for call in calls)
        if rows and any(x.shape[:2] == own.shape for x in inputs):
            flat = [(path, t.flatten(0, 1) if t.shape[:2] == own.shape else t) for path, t in tensors]
            return (own.reshape(-1) if labels is not None or is_classifier else None), own.numel(), flat
    return None


def _is_label(path: tree.Path, given: Tensor, tensors: Parts) -> bool:
    """Whether whole numbers are called labels, or are the second of two: others may be places, or cameras of views."""
    names = {str(part).lower() for part in path}
    return (
        given.ndim == 2
        and given.dtype == torch.int64
        and (bool(names & {*LABEL_KEYS}) or (len(tensors) == 2 and path == (1,)))
    )
