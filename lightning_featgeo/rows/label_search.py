"""Where class labels are in a batch, when nobody says so."""

from __future__ import annotations

from typing import Any

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.types import Tensor

LABEL_KEYS = ("labels", "label", "targets", "target", "y", "class", "classes", "category", "label_ids")


def is_list_of_samples(batch: Any) -> bool:
    """Whether a batch is a plain list of dicts, one a sample, that nobody has put together."""
    return isinstance(batch, list) and len(batch) > 0 and all(tree.is_mapping(one) for one in batch)


def looks_like_classes(value: Any) -> bool:
    """Whether a value is a column or a table of integers."""
    return (
        isinstance(value, torch.Tensor)
        and value.ndim in (1, 2)
        and not value.is_floating_point()
        and not value.is_complex()
        and value.dtype != torch.bool
    )


def flat(value: Any) -> Any:
    """Labels of shape (b, 1) are labels of shape (b,)."""
    one = looks_like_classes(value) and value.ndim == 2 and value.shape[1] == 1
    return value.squeeze(1) if one else value


def label_parts(batch: Any) -> list[tuple[tree.Path, Tensor]]:
    """Where "auto" finds class labels, with their paths; the first is the one that is taken.

    Under a usual key, on any level, the outer ones first; else the only column of integers behind the input of a tuple.
    """
    if is_list_of_samples(batch):
        return _stacked(batch)
    named = [
        (path, flat(value))
        for path, value in tree.tensors(batch)
        if path and _names_labels(path) and (looks_like_classes(value)) and not _in_a_list_of_samples(batch, path)
    ]
    if named:
        return sorted(named, key=lambda one: (len(one[0]), rank(one[0])))
    if not tree.is_sequence(batch):
        nested = [(key, part) for key, part in tree.children(batch) if tree.children(part)]
        return next((_below(key, found) for key, part in nested if (found := label_parts(part))), [])
    parts = tree.children(batch)
    behind: list[tuple[tree.Path, Tensor]] = [
        ((key,), flat(v)) for key, v in parts[1:] if looks_like_classes(v) and flat(v).ndim == 1
    ]
    if behind:
        return behind if len(behind) == 1 else []
    for key, part in parts if _are_batches([part for _, part in parts]) else [*parts[1:], *parts[:1]]:
        if not tree.children(part) or is_list_of_samples(part):
            continue
        if (
            key and tree.is_sequence(part) and not _are_batches([one for _, one in parts])
        ):  # (input, (labels, names)): the first of these is no input
            columns: list[tuple[tree.Path, Tensor]] = [
                ((i,), flat(v)) for i, v in tree.children(part) if looks_like_classes(v)
            ]
            columns = [one for one in columns if one[1].ndim == 1]
            columns = columns if len(columns) == 1 else []
        else:
            columns = [one for one in label_parts(part) if one[1].ndim == 1]
        if columns:
            return _below(key, columns)
    return []


def _are_batches(parts: list[Any]) -> bool:
    """Whether each part is a batch of its own, an input and what is behind it, as of a list of loaders."""
    kinds = [
        [(x.ndim, x.dtype) if isinstance(x, torch.Tensor) else type(x) for _, x in tree.children(part)]
        for part in parts
        if tree.is_sequence(part)
    ]
    alike = len(kinds) == len(parts) > 1 and all(len(one) > 1 and one == kinds[0] for one in kinds)
    return alike and isinstance(kinds[0][0], tuple) and kinds[0][0] != kinds[0][1]


def _names_labels(path: tree.Path) -> bool:
    """Whether a usual name of labels stands at a path's end, or on the way to its only tensor."""
    return str(path[-1]).lower() in LABEL_KEYS or any(str(key).lower() in LABEL_KEYS for key in path[:-1])


def rank(path: tree.Path) -> int:
    """How usual a path's name is for labels; the smallest is."""
    names = [LABEL_KEYS.index(key) for part in path if (key := str(part).lower()) in LABEL_KEYS]
    return min(names, default=len(LABEL_KEYS))


def _below(key: str | int, found: list[tuple[tree.Path, Tensor]]) -> list[tuple[tree.Path, Tensor]]:
    return [((key, *path), value) for path, value in found]


def _in_a_list_of_samples(batch: Any, path: tree.Path) -> bool:
    """Whether a part belongs to one sample of several (the boxes of one image)."""
    return any(is_list_of_samples(tree.at(batch, path[:end])) for end in range(len(path)))


def _stacked(samples: Any) -> list[tuple[tree.Path, Tensor]]:
    """Labels of samples that were not put together: one number each, under the same usual key."""
    for key in LABEL_KEYS:
        values = [dict(tree.children(one)).get(key) for one in samples]
        whole = [v for v in values if (isinstance(v, int) and not isinstance(v, bool)) or _is_a_number(v)]
        if len(whole) == len(samples):
            return [((key,), torch.stack([torch.as_tensor(v).reshape(()).to(torch.int64) for v in whole]))]
    return []


def _is_a_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_floating_point()
