"""Batches whose entries are groups of samples (episodes, bags, shards): each sample has a label of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.calls import Call
from lightning_featgeo.rows.label_search import LABEL_KEYS
from lightning_featgeo.rows.role import Role
from lightning_featgeo.types import Tensor

NOTE = "a batch's entries are groups of samples with labels of their own: each sample is a row"
Parts = list[tuple[tree.Path, Tensor]]


def ungrouped(
    labels: Tensor | None, tensors: Parts, calls: Sequence[Call], role: Role
) -> tuple[Tensor | None, int, Parts] | None:
    """Labels (b·g,), samples, and the batch's tensors (b·g, …) of groups that the step has put one below the other.

    None if they are none: labels (b, g) stand beside inputs (b, g, …), there are as many rows, and tokens would keep an
    axis of their own. Views of a sample have one label together; whole numbers may as well be places or cameras.

    Args:
        labels: of the batch; None: none were found.
        tensors: of the batch.
        calls: what was caught.
        role: of the layer: whether whole numbers are classes, and whether a loss has shown it.

    Raises:
        ConfigurationError: for whole numbers without a name, of which nobody knows what they are.
    """
    if not calls or (labels is not None and labels.ndim != 2):
        return None
    inputs = [t for _, t in tensors if t.ndim > 2 and t.is_floating_point()]
    for path, own in [((), labels)] if labels is not None else tensors:
        rows = all(call.features.ndim != 3 and len(call.features) == own.numel() for call in calls)
        beside = own.ndim == 2 and own.dtype == torch.int64 and any(x.shape[:2] == own.shape for x in inputs)
        if not rows or not beside or (labels is None and not _are_labels(path, own, role)):
            continue
        flat = [(where, t.flatten(0, 1) if t.shape[:2] == own.shape else t) for where, t in tensors]
        return (own.reshape(-1) if labels is not None or role.is_classifier else None), own.numel(), flat
    return None


def _are_labels(path: tree.Path, own: Tensor, role: Role) -> bool:
    """Whether whole numbers (b, g) are labels: scored as such, or called so."""
    if role.is_classifier and role.scores_groups is not None:
        return role.scores_groups
    if any(str(part).lower() in LABEL_KEYS for part in path):
        return True
    if not all(isinstance(part, int) for part in path):
        return False  # called something else
    if role.is_classifier:
        return True
    b, g = own.shape
    raise ConfigurationError(
        f"each of the batch's {b} entries holds {g} rows, and int64{(b, g)} stands beside them: labels of {g} samples, "
        f"or something of {g} views of one sample (cameras, places)? Say which:\n"
        f"  FeatureGeometryMonitor(labels={'.'.join(map(str, path))!r})  # samples with labels of their own\n"
        f"  FeatureGeometryMonitor(views='b v')  # {g} views of a sample next to each other"
    )
