"""Every module's calls in a batch that is trained on, as nodes of its graph: who gave what goes into the loss."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo import _autograd
from lightning_featgeo.capture.stash import ORDER
from lightning_featgeo.capture.taps import display_name
from lightning_featgeo.capture.values import is_features, leaves
from lightning_featgeo.types import Tensor

HELD_BYTES = 256 * 2**20  # outputs of one batch that are held until its loss is known; the latest win
PREDICTOR = re.compile(r"(^|_)pred", re.I)
PROJECTOR = re.compile(r"proj|^(mlp|embedding)?_?head$|^contrast", re.I)
_DEPTH = 200  # nodes that are looked through between two modules


@dataclass
class Gave:
    """One tensor that a call put out, and where: "" for the output itself, "key.0" in a container."""

    path: str
    tensor: Tensor | None
    node: Any
    version: int

    def whole(self) -> Tensor | None:
        """The tensor, unless it has made room or was written into since."""
        return self.tensor if self.tensor is not None and _autograd.version(self.tensor) == self.version else None


@dataclass
class Traced:
    """One call of one module."""

    order: int
    module: torch.nn.Module
    given: list[Any]  # nodes of its arguments
    gave: list[Gave]


@dataclass
class Trace:
    """Every module's calls in a batch that is trained on, as nodes of the autograd graph."""

    calls: list[Traced] = field(default_factory=list)
    silent: list[tuple[torch.nn.Module, Gave]] = field(default_factory=list)  # outputs without a gradient
    _running: list[tuple[torch.nn.Module, list[Any], set[int]]] = field(default_factory=list)
    _held: deque[Gave] = field(default_factory=deque)
    _bytes: int = 0

    def begins(self, module: torch.nn.Module, given: Any) -> None:
        """A module is called."""
        tensors = [t for _, t in leaves(given) if isinstance(t, torch.Tensor)]
        nodes = [t.grad_fn for t in tensors if t.grad_fn is not None]
        self._running.append((module, nodes, {id(t) for t in tensors}))

    def ends(self, module: torch.nn.Module, output: Any) -> None:
        """It returns: what it was given already is none of its outputs, also in a dict that it has changed."""
        if not any(begun is module for begun, _, _ in self._running):
            return
        begun, nodes, passed = self._running.pop()
        while begun is not module:  # what has raised never ended
            begun, nodes, passed = self._running.pop()
        gave = [
            self._hold(Gave(path, t, t.grad_fn, _autograd.version(t)))
            for path, t in leaves(output)
            if isinstance(t, torch.Tensor) and t.grad_fn is not None and id(t) not in passed and is_features(t)
        ]
        if isinstance(output, torch.Tensor) and output.grad_fn is None and output.ndim == 2 and is_features(output):
            self.silent.append((module, self._hold(Gave("", output, None, _autograd.version(output)))))
        self.calls.append(Traced(next(ORDER), module, nodes, gave))

    def outputs(self) -> Iterator[tuple[torch.nn.Module, Tensor]]:
        """What modules have given, as far as it is held and unchanged."""
        pairs = [*((call.module, gave) for call in self.calls for gave in call.gave), *self.silent]
        for module, gave in pairs:
            if (tensor := gave.whole()) is not None:
                yield module, tensor

    def _hold(self, gave: Gave) -> Gave:
        assert gave.tensor is not None
        self._held.append(gave)
        self._bytes += _size(gave.tensor)
        while self._bytes > HELD_BYTES:
            oldest = self._held.popleft()
            if oldest.tensor is not None:
                self._bytes -= _size(oldest.tensor)
                oldest.tensor = None
        return gave


Source = tuple[int, str]  # a module's id, and which of its outputs


class Made:
    """Which modules gave which nodes; ``without_weights``: also those that have none, as a pooling at the end."""

    def __init__(self, trace: Trace, root: torch.nn.Module, without_weights: bool) -> None:
        paths = {id(module): display_name(path) for path, module in root.named_modules() if display_name(path)}
        self._paths = paths
        trained = {
            id(call.module): without_weights or any(p.requires_grad for p in call.module.parameters())
            for call in trace.calls
            if id(call.module) in paths
        }
        self._trace = [call for call in trace.calls if trained.get(id(call.module), False)]
        self.by_node: dict[Any, list[Source]] = {}
        for call in self._trace:
            for gave in call.gave:
                if _is_wide(gave):
                    self.by_node.setdefault(gave.node, []).append((id(call.module), gave.path))

    def name(self, source: Source) -> str:
        """The last part of a module's path that is no number."""
        return next((part for part in reversed(self._paths[source[0]].split(".")) if not part.isdigit()), "")

    def shown(self, source: Source) -> str:
        """As ``layer=`` takes it."""
        several = any(len(call.gave) > 1 or source[1] for call in self._trace if id(call.module) == source[0])
        return self._paths[source[0]] + (f":{source[1]}" if several and source[1] else "")

    def alone(self, nodes: Iterable[Any]) -> Source | None:
        """The module that gave all of these, the outermost of several; a projector rather than what holds it."""
        shared = set.intersection(*({*self.by_node[node]} for node in nodes))
        ordered = sorted(shared, key=lambda source: self._paths[source[0]].count("."))
        named = [s for s in ordered if PROJECTOR.search(self.name(s)) or PREDICTOR.search(self.name(s))]
        return next(iter([*named, *ordered]), None)

    def path(self, source: Source) -> str:
        """Of its module."""
        return self._paths[source[0]]

    def width(self, source: Source) -> int | None:
        """How many numbers a row has of what it gave; None: that has made room."""
        tensors = [t for _, t in self.calls(source) if t is not None]
        return tensors[0].shape[-1] if tensors else None

    def began(self, source: Source) -> int:
        """When it first ran."""
        return min(call.order for call in self._trace if id(call.module) == source[0])

    def last_name(self, source: Source) -> str:
        """Of what it gave: the key of its output, else the module's own."""
        return (source[1] or self._paths[source[0]]).rpartition(".")[2]

    def innermost(self, node: Any) -> Source | None:
        """The smallest module that gave a node as its only output."""
        alone = [source for source in self.by_node[node] if not source[1]]
        return max(alone, key=lambda source: self._paths[source[0]].count("."), default=None)

    def is_trained_through(self, node: Any) -> bool:
        """Whether what gave a node was given something that is trained."""
        givers = {source[0] for source in self.by_node[node]}
        return any(c.given and id(c.module) in givers and any(g.node is node for g in c.gave) for c in self._trace)

    def before(self, source: Source) -> tuple[Source | None, list[torch.nn.Module]]:
        """The outermost module that gave what a module was given, in all of its calls; and all that did."""
        found: set[Source] | None = None
        for call in self._trace:
            if id(call.module) != source[0]:
                continue
            node = next((n for given in call.given if (n := self._maker(given)) is not None), None)
            here = {*self.by_node[node]} if node is not None else set()
            found = here if found is None else found & here
        holders = tuple(self._paths[source[0]].rpartition(".")[0].split("."))
        apart = [s for s in found or () if self._paths[s[0]] != ".".join(holders)]
        first = min(apart, key=lambda s: (self._paths[s[0]].count("."), self._paths[s[0]]), default=None)
        modules = {id(call.module): call.module for call in self._trace}
        return first, [modules[s[0]] for s in apart]

    def _maker(self, node: Any) -> Any:
        """The nearest node that a module gave, through reshaping and the like."""
        for _ in range(_DEPTH):
            if node is None or node in self.by_node:
                return node
            inputs = [child for child, _ in node.next_functions if child is not None]
            if len(inputs) != 1:
                return None
            node = inputs[0]
        return None

    def calls(self, source: Source) -> list[tuple[int, Tensor | None]]:
        """When it ran, and what it gave; None where that was changed since, or has made room."""
        return [
            (
                call.order,
                gave.tensor if gave.tensor is not None and _autograd.version(gave.tensor) == gave.version else None,
            )
            for call in self._trace
            for gave in call.gave
            if (id(call.module), gave.path) == source
        ]


def _is_wide(gave: Gave) -> bool:
    """Whether an output can be an embedding: rows of several numbers."""
    return gave.tensor is None or (gave.tensor.ndim > 1 and gave.tensor.shape[-1] > 1)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
