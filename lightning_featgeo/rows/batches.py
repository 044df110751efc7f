"""What a batch says about its rows: how many samples, their labels, their mask. Each can be named outright.

A *selector* is a key, an index, a callable on the batch, "auto" or None (absent).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from lightning_featgeo.errors import ConfigurationError, near_misses
from lightning_featgeo.types import Tensor

Selector = str | int | Callable[[Any], Any] | None

LABEL_KEYS = ("labels", "label", "targets", "target", "y", "class", "classes")
MASK_KEYS = ("attention_mask", "mask")  # not "padding_mask": torch marks the padding there


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from _tensors(value)


def batch_size(batch: Any) -> int | None:
    """Samples in a batch: the first axis of its first tensor that has one; None if there is no tensor."""
    return next((int(t.shape[0]) for t in _tensors(batch) if t.ndim > 0), None)


def _looks_like_classes(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.ndim in (1, 2)
        and not value.is_floating_point()
        and not value.is_complex()
        and value.dtype != torch.bool
    )


def _flat(value: Any) -> Any:
    """Labels of shape (b, 1) are labels of shape (b,)."""
    one = _looks_like_classes(value) and value.ndim == 2 and value.shape[1] == 1
    return value.squeeze(1) if one else value


def summarize(batch: Any) -> str:
    """A batch in words, for messages."""
    if isinstance(batch, torch.Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{k!r}: {summarize(v)}" for k, v in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return f"{type(batch).__name__}({', '.join(summarize(v) for v in batch)})"
    return type(batch).__name__


def select(batch: Any, selector: Selector, what: str) -> Any:
    """Apply a selector that is not "auto".

    Raises:
        ConfigurationError: if the batch has no such key or index; with what it has.
    """
    if callable(selector):
        return selector(batch)
    try:
        return batch[selector]
    except (KeyError, IndexError, TypeError):
        raise ConfigurationError(f"{what}={selector!r}: {_lacks(batch, selector)}{_paste(batch, what)}") from None


def _lacks(batch: Any, selector: Any) -> str:
    """What a batch has instead of the part that a selector names."""
    if isinstance(batch, Mapping):
        keys = [str(key) for key in batch]
        return f"the batch has no such key; it is {summarize(batch)}.{near_misses(str(selector), keys)}"
    if isinstance(batch, (tuple, list)):
        return f"the batch has {len(batch)} parts, from 0 to {len(batch) - 1}: {summarize(batch)}."
    return f"the batch has no parts: it is {summarize(batch)}."


def _paste(batch: Any, what: str) -> str:
    """The line to paste: the part that fits best, else a callable."""
    parts = list(batch.items()) if isinstance(batch, Mapping) else []
    parts = list(enumerate(batch)) if isinstance(batch, (tuple, list)) else parts
    size = batch_size(batch)
    fitting = [(key, value) for key, value in parts if _is_column(value, size)]
    columns = [key for key, value in fitting if what != "labels" or _looks_like_classes(value)]
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
        if value is not None and not _looks_like_classes(value):
            raise ConfigurationError(
                f"labels={selector!r} gives {summarize(value)}; class labels are integers of shape (batch,), "
                "regression targets floating-point numbers of shape (batch,) or (batch, t)"
            )
        return _flat(value)
    if isinstance(batch, Mapping):
        parts: list[Tensor] = [batch[key] for key in LABEL_KEYS if key in batch and _looks_like_classes(batch[key])]
        return _flat(parts[0]) if parts else None
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        fitting = [v for v in map(_flat, batch[1:]) if _looks_like_classes(v) and v.ndim == 1]
        if len(fitting) == 1:
            return fitting[0]
        nested = [v for v in batch[1:] if isinstance(v, Mapping)]
        return find_labels(nested[0]) if not fitting and len(nested) == 1 else None
    return None


def _looks_like_targets(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim in (1, 2) and value.is_floating_point()


def find_targets(batch: Any, selector: Selector = "auto") -> Tensor | None:
    """Regression targets (b,) or (b, t), floating-point; None where the batch has none, or has class labels.

    "auto" finds them under a usual key of a dict, or as the only such tensor behind the input of a tuple (one shaped
    like the input is another view of it).

    Raises:
        ConfigurationError: if a named selector finds nothing.
    """
    if selector is None or find_labels(batch, selector) is not None:
        return None
    if selector != "auto":
        value = select(batch, selector, "labels")
        return value if _looks_like_targets(value) else None
    if isinstance(batch, Mapping):
        return next((batch[key] for key in LABEL_KEYS if _looks_like_targets(batch.get(key))), None)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) > 1:
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
    value = _flat(select(batch, selector, "groups"))
    if not _looks_like_classes(value) or value.ndim != 1:
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
    if isinstance(batch, Mapping):
        for key in MASK_KEYS:
            if isinstance(batch.get(key), torch.Tensor) and batch[key].ndim == 2:
                found: Tensor = batch[key]
                return found
    return None
