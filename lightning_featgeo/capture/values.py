"""Of what a module is given or puts out, the tensor that holds features; and that tensor in the plain form rows take.

Features are real or complex numbers with a feature axis. A module's own input, token ids, masks, lengths and losses are
none. One candidate is taken; where there are several, the user has to name one: a guess would plot another layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from lightning_featgeo import _autograd, _compat
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows import tree
from lightning_featgeo.rows.batches import summarize
from lightning_featgeo.types import Tensor

# Modules of torch whose first output is what later layers read: (output, state) and (output, attention weights).
_FIRST_OF_SEVERAL = (torch.nn.RNNBase, torch.nn.MultiheadAttention)
_USUAL_KEYS = ("last_hidden_state", "logits")  # of transformers' model outputs, in this order


@dataclass(frozen=True)
class Plain:
    """Features as an ordinary tensor; ``real``: (b, t), False where a sequence was shorter (packed, nested)."""

    features: Tensor
    real: Tensor | None = None


def is_features(value: Any) -> bool:
    """Whether a value can be features: floating-point or complex, with a feature axis."""
    if isinstance(value, PackedSequence):
        return is_features(value.data)
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()) and value.ndim > 0


def leaves(value: Any, path: str = "", depth: int = 5) -> Iterator[tuple[str, Any]]:
    """Tensors of nested containers with their paths, "0.key.1"."""
    if isinstance(value, (torch.Tensor, PackedSequence)):
        yield path, value
        return
    if depth == 0 or value is None:
        return
    parts: Any
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        parts = enumerate(value)
    else:
        parts = () if torch.compiler.is_compiling() else tree.children(value)  # a graph holds no other containers
    for key, part in parts:
        yield from leaves(part, f"{path}.{key}" if path else str(key), depth - 1)


def of_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a head is given: the first of its arguments that can be features, None if none can."""
    for value in args:
        if isinstance(value, torch.Tensor) and is_features(value):
            return value
    for given in (args, dict(kwargs)):
        for _, value in leaves(given):
            if is_features(value):
                return value
    return None


def of_output(module: torch.nn.Module, given: Any, output: Any, name: str, wanted: str | None) -> Any:
    """The features among what a module puts out; None if there are none.

    Args:
        module: which module.
        given: its arguments: what it passes on unchanged is no feature of it.
        output: what it returned.
        name: its path, for messages.
        wanted: a key or position of the output, "sentence_embedding", "-1" or "1.0"; None: the only one that can be.

    Raises:
        ConfigurationError: if several can be, or the wanted one can't; with the line to paste.
    """
    if wanted is not None:
        return _named(output, name, wanted)
    if isinstance(output, torch.Tensor) and output.ndim == 0 and output.is_floating_point():
        return output.reshape(1)  # of one sample, perhaps
    if isinstance(output, (torch.Tensor, PackedSequence)) and is_features(output):
        return output
    if isinstance(module, _FIRST_OF_SEVERAL) and isinstance(output, tuple) and output:
        return output[0]
    if isinstance(output, Mapping):
        for key in _USUAL_KEYS:
            if is_features(output.get(key)):
                return output[key]
        states = output.get("hidden_states")
        if isinstance(states, (tuple, list)) and states and is_features(states[-1]):
            return states[-1]  # the first one is the embedding
    # of a dict that it was given, changed and returned, nobody knows afterwards what is new
    inputs = [] if _holds(given, output) else [value for _, value in leaves(given)]
    found = {
        path: value
        for path, value in leaves(output)
        if is_features(value) and not any(_is_same(value, one) for one in inputs) and not _is_flat(value)
    }
    if not found:
        raise ConfigurationError(
            f"{name!r} puts out {summarize(output)}: no floating-point tensor with a feature axis that is not its own "
            "input. Watch a layer behind it with layer=, or the head with head="
        )
    if len(found) == 1:
        return next(iter(found.values()))
    if isinstance(output, (tuple, list)) and isinstance(output[0], torch.Tensor) and _is_a_block(output):
        return output[0]
    raise _several(found, name)


def _holds(given: Any, output: Any) -> bool:
    """Whether a container that was put out is one of the arguments."""
    parts = [part for one in given for part in (one.values() if isinstance(one, dict) else one)] if given else []
    return isinstance(output, Mapping) and any(part is output for part in parts)


def _is_flat(value: Any) -> bool:
    """One number a sample, or one for all: a loss, a score, a length."""
    return isinstance(value, torch.Tensor) and value.ndim < 2


def _is_a_block(output: Any) -> bool:
    """Whether a transformer's block returned (hidden, attention weights): (b, t, d) and (b, heads, t, t)."""
    hidden, *others = output
    tensors = [one for one in others if isinstance(one, torch.Tensor)]
    return hidden.ndim == 3 and all(
        one.ndim == 4 and one.shape[0] == hidden.shape[0] and one.shape[-1] == one.shape[-2] == hidden.shape[1]
        for one in tensors
    )


def _is_same(value: Any, given: Any) -> bool:
    if value is given:
        return True
    if torch.compiler.is_compiling() or not (isinstance(value, torch.Tensor) and isinstance(given, torch.Tensor)):
        return False
    return (
        value.shape == given.shape
        and _compat.address(value) is not None
        and ((_compat.address(value), value.stride()) == (_compat.address(given), given.stride()))
    )


def _named(output: Any, name: str, wanted: str) -> Any:
    value = output
    for part in wanted.split("."):
        try:
            if isinstance(value, Mapping):
                value = value[part] if part in value else value[int(part)]
            elif part.lstrip("-").isdigit() and isinstance(value, (tuple, list)):
                value = value[int(part)]
            else:
                value = getattr(value, part)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError):
            raise ConfigurationError(
                f"layer={name + ':' + wanted!r}: {name!r} puts out {summarize(output)}, which has no {part!r}."
                f"{_choices(output, name)}"
            ) from None
    if not is_features(value):
        raise ConfigurationError(
            f"layer={name + ':' + wanted!r}: that is {summarize(value)}; features are floating-point tensors."
            f"{_choices(output, name)}"
        )
    return value


def _choices(output: Any, name: str) -> str:
    found = [path for path, value in leaves(output) if is_features(value) and path and not _is_flat(value)]
    return "".join(f"\n  FeatureGeometryMonitor(layer={name + ':' + path!r})" for path in found)


def _several(found: Mapping[str, Any], name: str) -> ConfigurationError:
    lines = [
        f"\n  FeatureGeometryMonitor(layer={name + ':' + path!r})  # {summarize(value)}"
        for path, value in found.items()
    ]
    shown = lines if len(lines) <= 12 else [*lines[:2], f"\n  … {len(lines) - 12} more", *lines[-10:]]
    return ConfigurationError(
        f"{name!r} puts out {len(found)} tensors that could be features (of a list, tuple or dict). Paste one of:"
        + "".join(shown)
    )


def plain(value: Any) -> Plain:
    """Features as an ordinary dense tensor of real numbers.

    Packed and nested sequences are padded, and ``real`` says where; complex numbers are two real ones (…, d) →
    (…, 2 d); a subclass that only adds metadata is taken off.

    Raises:
        ConfigurationError: for sparse tensors.
        RuntimeError: inside ``torch.func``, where a tensor can't be kept.
    """
    if isinstance(value, PackedSequence):
        dense, lengths = pad_packed_sequence(value, batch_first=True)
        lengths = lengths.to(dense.device)
        return Plain(dense, torch.arange(dense.shape[1], device=dense.device) < lengths[:, None])
    x: Tensor = value
    if _autograd.is_inside_torch_func(x):
        raise RuntimeError("they are inside torch.func: watch another layer, or give features=")
    if x.is_nested:
        return _unnested(x)
    if x.layout is not torch.strided:
        raise ConfigurationError(
            f"features are sparse ({x.layout}), and rows are not: watch a layer behind, or give features= with a "
            "dense tensor"
        )
    if type(x) not in (torch.Tensor, torch.nn.Parameter) and not hasattr(x, "to_local"):  # a DTensor is gathered later
        x = x.as_subclass(torch.Tensor)
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj()).flatten(-2)
    return Plain(x)


def _unnested(x: Tensor) -> Plain:
    """Sequences of different lengths, one below the other, as a padded tensor."""
    parts = list(x.unbind())
    if any(part.ndim != 2 for part in parts):
        raise ConfigurationError(
            "features are nested tensors that are no sequences (tokens, dimensions): watch a layer behind them"
        )
    lengths = torch.tensor([len(part) for part in parts], device=parts[0].device if parts else None)
    dense = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return Plain(dense, torch.arange(dense.shape[1], device=dense.device) < lengths[:, None])
