"""A batch as a tree: whatever holds its tensors (tuples, dicts, dataclasses, objects with attributes), one way in."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from lightning_featgeo.types import Tensor

Path = tuple[str | int, ...]
_DEPTH = 6  # of nested containers that are looked into
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def is_mapping(value: Any) -> bool:
    """A mapping, or an object that is used as one (``keys()`` and ``[key]``)."""
    if isinstance(value, Mapping):
        return True
    return (
        not isinstance(value, (torch.Tensor, torch.nn.Module, torch.fx.Proxy, type))
        and callable(getattr(value, "keys", None))
        and hasattr(type(value), "__getitem__")
    )


def children(value: Any) -> list[tuple[str | int, Any]]:
    """The parts of a container by key, name or position; [] for a tensor, a number, a string, or what can't be read."""
    kind = type(value)
    if kind is tuple or kind is list:
        return list(enumerate(value))
    if kind is dict:
        return list(value.items())
    if isinstance(value, (*_PLAIN, torch.Tensor, torch.nn.Module, torch.fx.Proxy, type)):  # asked, a proxy would answer
        return []
    try:
        if _is_a_graph(value):
            return [(_name(key), part) for key, part in value.to_dict().items()]
        if is_mapping(value):
            return [(key, value[key]) for key in list(value.keys())]
        if callable(value):  # a function; a graph of PyTorch Geometric is called too, and is a mapping first
            return []
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return list(zip(value._fields, value, strict=True))
        if isinstance(value, (tuple, list)):
            return list(enumerate(value))
        if dataclasses.is_dataclass(value):
            return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        held = [*getattr(value, "__dict__", {}), *slots]
        return [(name, getattr(value, name)) for name in held if not name.startswith("_") and hasattr(value, name)]
    except Exception:  # a container of the user's that can't be read now
        return []


def _is_a_graph(value: Any) -> bool:
    """Whether this is one of PyTorch Geometric's: its ``keys()`` come in any order, and what is asked for is made."""
    return any(kind.__module__.partition(".")[0] == "torch_geometric" for kind in type(value).__mro__) and callable(
        getattr(value, "to_dict", None)
    )


def _name(key: Any) -> str | int:
    """Edges of several kinds are called by three names."""
    return "__".join(map(str, key)) if isinstance(key, tuple) else key


def is_sequence(value: Any) -> bool:
    """Whether a container's parts have positions: its first one is the input."""
    return isinstance(value, (tuple, list))


def tensors(value: Any, path: Path = (), depth: int = _DEPTH) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor with its path."""
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    for key, part in children(value) if depth else ():
        if isinstance(part, torch.Tensor):
            yield (*path, key), part
        elif not isinstance(part, _PLAIN):
            yield from tensors(part, (*path, key), depth - 1)


def at(value: Any, path: Path) -> Any:
    """The part at a path.

    Raises:
        KeyError: if there is none.
    """
    for key in path:
        parts = dict(children(value))
        if key not in parts:
            raise KeyError(key)
        value = parts[key]
    return value


def dotted(path: Path) -> str:
    """A path as it is written in ``labels="targets.category"``."""
    return ".".join(map(str, path))


def follow(value: Any, selector: str) -> Any:
    """The part that a dotted path names: keys, attributes and positions.

    Raises:
        KeyError: if there is none.
    """
    parts = {str(key): part for key, part in children(value)}
    if selector in parts:
        return parts[selector]
    head, _, rest = selector.partition(".")
    if rest and head in parts:
        return follow(parts[head], rest)
    if not isinstance(value, (*_PLAIN, torch.Tensor)) and not is_sequence(value) and hasattr(value, head):
        found = getattr(value, head)  # a property
        if not callable(found):
            return follow(found, rest) if rest else found
    raise KeyError(selector)


def snapshot(value: Any, depth: int = _DEPTH) -> Any:
    """The containers anew, the tensors as they are: what a step takes out of its batch is still there.

    Dicts, lists, tuples, dataclasses and namespaces are copied; containers of other kinds are kept as they are.
    """
    if isinstance(value, (*_PLAIN, torch.Tensor)) or not depth:
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(snapshot(part, depth - 1) for part in value))
    if type(value) is tuple:
        return tuple(snapshot(part, depth - 1) for part in value)
    if type(value) is list:
        return [snapshot(part, depth - 1) for part in value]
    if isinstance(value, dict):
        return {key: snapshot(part, depth - 1) for key, part in value.items()}
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if is_data or isinstance(value, (UserDict, SimpleNamespace)):
        return copy.copy(value)
    return value
