"""What a batch says about its rows: how many samples, their labels, their mask. Each can be named outright.

A *selector* is a key, an index, a callable on the batch, "auto" or None (absent).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.label_search import (
    LABEL_KEYS,
    flat,
    is_list_of_samples,
    label_parts,
    looks_like_classes,
    rank,
)
from lightning_featgeo.types import Tensor

Selector = str | int | Callable[[Any], Any] | None

MASK_KEYS = ("attention_mask", "mask")  # true where a token is real
PADDING_KEYS = ("padding_mask", "key_padding_mask", "src_key_padding_mask")  # torch's: true at padding
DECODER_MASK_KEYS = ("decoder_attention_mask",)


def batch_size(batch: Any) -> int | None:
    """Samples in a batch: the first axis of its first tensor that has one; None if there is no tensor.

    A list of samples that were not collated (dicts, tuples) has as many as it is long.
    """
    if is_list_of_samples(batch):
        return len(batch)
    return next((int(t.shape[0]) for _, t in tree.tensors(batch) if t.ndim > 0), None)


def inputs_of(batch: Any) -> list[Tensor]:
    """What a loss may compare the network's output with: the batch's input, its other numbers, its whole numbers."""
    given = [t for _, t in tree.tensors(batch) if t.ndim > 0]
    found = [t for t in given if t.is_floating_point()]
    first = next((t for t in found if t.ndim > 1), None)
    whole = [t for t in given if t.dtype == torch.int64]
    return [] if first is None else [first, *(t for t in found if t is not first), *whole]


def summarize(batch: Any) -> str:
    """A batch in words, for messages."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k!r}: {summarize(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, (tuple, list)) and not hasattr(batch, "_fields"):
        shown = [summarize(v) for v in batch[:8]] + (["…"] if len(batch) > 8 else [])
        return f"{type(batch).__name__}({', '.join(shown)})"
    parts = tree.children(batch)
    if parts and not isinstance(batch, str):
        return f"{type(batch).__name__}({', '.join(f'{k}={summarize(v)}' for k, v in parts)})"
    return type(batch).__name__


def beyond(labels: Tensor, real: Tensor, classes: int, outputs: int | None) -> str:
    """What to say of numbers that are no classes of the head.

    Args:
        labels: as the batch has them.
        real: those that mark no row without a class.
        classes: of the head.
        outputs: of the head.
    """
    outside = real[real >= classes].unique()
    told = f"{summarize(labels)} holds numbers up to {int(real.max())}, and the head has {outputs} outputs: "
    if len(outside) > 1 or not bool((real < classes).any()):
        return (
            f"{told}these are no classes of it (an index, a length?). If the step makes classes of them, say "
            f"num_classes={classes}"
        )
    ignored = f"if {int(outside)} marks rows without a class, say ignore_index={int(outside)}"
    if int(outside) > classes:
        return told + ignored
    if bool((real > 0).all()):
        return f"{told}if there are {classes} classes, numbered from 1, say num_classes={classes}; {ignored}"
    return f"{told}{ignored}; if it is one of {classes + 1} classes, say num_classes={classes + 1}"  # a threshold fewer


def select(batch: Any, selector: Selector, what: str) -> Any:
    """Apply a selector that is not "auto".

    Raises:
        ConfigurationError: if the batch has no such key, attribute, path or index; with what it has.
    """
    if callable(selector):
        return selector(batch)
    try:
        if isinstance(selector, str):
            return tree.follow(batch, selector)
        if isinstance(selector, int) and not tree.is_mapping(batch):
            return tree.children(batch)[selector][1]
        return batch[selector]
    except (KeyError, IndexError, TypeError):
        raise ConfigurationError(f"{what}={selector!r}: {_lacks(batch, selector)}{_paste(batch, what)}") from None


def _lacks(batch: Any, selector: Any) -> str:
    """What a batch has instead of the part that a selector names."""
    if tree.is_sequence(batch):
        return f"the batch has {len(batch)} parts, from 0 to {len(batch) - 1}: {summarize(batch)}."
    keys = [str(key) for key, _ in tree.children(batch)] if not isinstance(batch, torch.Tensor) else []
    if keys:
        return f"the batch has no such key; it is {summarize(batch)}.{near_misses(str(selector), keys)}"
    return f"the batch has no parts: it is {summarize(batch)}."


def _paste(batch: Any, what: str) -> str:
    """The line to paste: the part that fits best, else a callable."""
    parts = tree.children(batch) if not isinstance(batch, torch.Tensor) else []
    size = batch_size(batch)
    fitting = [(key, value) for key, value in parts if _is_column(value, size)]
    columns: list[Any] = [key for key, value in fitting if what != "labels" or looks_like_classes(value)]
    if not columns and what == "labels":
        deep = [path for path, value in tree.tensors(batch) if len(path) > 1 and looks_like_classes(value)]
        columns = [tree.dotted(path) for path in deep]
    return f" Paste: {what}={columns[-1]!r}" if columns else f" Paste: {what}=None, if there is none"


def _is_column(value: Any, size: int | None) -> bool:
    """Whether a part of a batch has one entry a sample."""
    if isinstance(value, torch.Tensor):
        return value.ndim in (1, 2) and value.shape[0] == size
    return isinstance(value, (tuple, list)) and len(value) == size


def find_labels(batch: Any, selector: Selector = "auto") -> Tensor | None:
    """Class labels: (b,), or (b, t) a token; None where the batch has none.

    "auto" finds an integer tensor under a usual key of a dict, or the only 1-d integer tensor behind the input of a
    tuple. Floating-point targets (regression, soft labels) are no classes.

    Raises:
        ConfigurationError: if a named selector finds nothing or no integers.
    """
    if selector is None:
        return None
    if selector != "auto":
        value = select(batch, selector, "labels")
        if _looks_like_targets(value):
            return None  # find_targets has them
        if isinstance(value, torch.Tensor) and value.dtype == torch.bool and value.ndim in (1, 2):
            value = value.to(torch.int64)
        if value is not None and not (looks_like_classes(value) or is_label_map(value)):
            raise ConfigurationError(
                f"labels={selector!r} gives {summarize(value)}; class labels are integers of shape (batch,), "
                "(batch, tokens) or (batch, height, width), regression targets floating-point numbers of shape "
                "(batch,) or (batch, t)"
            )
        return flat(value)
    found = label_parts(batch)
    return found[0][1] if found else _label_map(batch)


def is_label_map(value: Any) -> bool:
    """Whether a value is a map of classes, one a pixel: integers (b, h, w)."""
    whole = isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()
    return whole and value.ndim == 3 and value.dtype != torch.bool


def _label_map(batch: Any) -> Tensor | None:
    """The only map of classes beside images (b, c, h, w)."""
    found = [value for path, value in tree.tensors(batch) if is_label_map(value)]
    images = any(value.ndim == 4 and value.is_floating_point() for _, value in tree.tensors(batch))
    return found[0] if images and len(found) == 1 else None


def _looks_like_targets(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim in (1, 2) and value.is_floating_point()


def find_targets(batch: Any, selector: Selector = "auto", beside_labels: bool = False) -> Tensor | None:
    """Regression targets (b,) or (b, t), floating-point; None where the batch has none, or has class labels.

    "auto" finds them under a usual key of a dict, or as the only such tensor behind the input of a tuple (one shaped
    like the input is another view of it).

    Args:
        batch: what the step got.
        selector: what names them.
        beside_labels: also look where class labels were found.

    Raises:
        ConfigurationError: if a named selector finds nothing.
    """
    if selector is None or (not beside_labels and find_labels(batch, selector) is not None):
        return None
    if selector != "auto":
        value = select(batch, selector, "labels")
        return value if _looks_like_targets(value) else None
    named: list[tuple[tree.Path, Tensor]] = [
        (path, value) for path, value in tree.tensors(batch) if path and str(path[-1]).lower() in LABEL_KEYS
    ]
    for _, value in sorted(named, key=lambda one: (len(one[0]), rank(one[0]))):
        if _looks_like_targets(value):
            return value
    if tree.is_sequence(batch) and len(batch) > 1:
        first = batch[0]
        fitting: list[Tensor] = [v for v in batch[1:] if _looks_like_targets(v)]
        copies = isinstance(first, torch.Tensor) and first.ndim == 2 and any(v.shape == first.shape for v in fitting)
        return fitting[0] if len(fitting) == 1 and not copies else None
    return None


def find_groups(batch: Any, selector: Selector) -> Tensor | None:
    """Group of each sample (b,), integers; None where none is named.

    Raises:
        ConfigurationError: if the selector finds nothing or no integers.
    """
    if selector is None:
        return None
    value = flat(select(batch, selector, "groups"))
    if not looks_like_classes(value) or value.ndim != 1:
        raise ConfigurationError(f"groups={selector!r} gives {summarize(value)}; groups are integers of shape (batch,)")
    found: Tensor = value
    return found


def find_mask(batch: Any, selector: Selector = "auto") -> Tensor | None:
    """Token mask (b, t), non-zero where real; None where the batch has none.

    Raises:
        ConfigurationError: if a named selector finds nothing.
    """
    if selector is None:
        return None
    if selector != "auto":
        value = select(batch, selector, "mask")
        return value if isinstance(value, torch.Tensor) else None
    for key in MASK_KEYS:
        for path, value in tree.tensors(batch):
            if path and str(path[-1]) == key and value.ndim == 2:
                return value
    return None
