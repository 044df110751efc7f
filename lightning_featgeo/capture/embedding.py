"""Which module makes the embedding that a loss compares with itself: contrastive, self-supervised and metric learning.

No classifier scores classes there, so a head's input is not what is meant. What is: the output that goes into the loss
with no weight in between, where the loss takes its norm or multiplies it by itself (cosines, distances, covariances).
A predictor's input counts instead of its output, and a projector's input is watched beside what it puts out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lightning_featgeo.capture.stash import ORDER
from lightning_featgeo.capture.taps import display_name
from lightning_featgeo.capture.values import is_features, leaves
from lightning_featgeo.types import Tensor

HELD_BYTES = 256 * 2**20  # outputs of one batch that are held until its loss is known; the latest win
_NORMS = re.compile(r"VectorNorm|^NormBackward|Cdist|EuclideanDist|CosineSimilarity|PairwiseDistance")
_PRODUCTS = re.compile(r"^(Mm|Bmm|Dot|Mv|Addmm|Baddbmm)Backward")
_SCORES = re.compile(r"NllLoss|CrossEntropy|MultiMargin|MultilabelMargin|MseLoss|L1Loss|SmoothL1|HuberLoss")
_PREDICTOR = re.compile(r"^(pred\w*|prediction\w*|q_?pred\w*)$", re.I)
_PROJECTOR = re.compile(r"proj|^(mlp|embedding)?_?head$|^contrast", re.I)
_DEPTH = 200  # nodes that are looked through between two modules


@dataclass
class Gave:
    """One tensor that a call put out, and where: "" for the output itself, "key.0" in a container."""

    path: str
    tensor: Tensor | None
    node: Any
    version: int


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
            self._hold(Gave(path, t, t.grad_fn, t._version))
            for path, t in leaves(output)
            if isinstance(t, torch.Tensor) and t.grad_fn is not None and id(t) not in passed and is_features(t)
        ]
        self.calls.append(Traced(next(ORDER), module, nodes, gave))

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


@dataclass(frozen=True)
class Embedding:
    """What is watched: paths as ``layer=`` takes them, and each one's calls in this batch (order, features or None)."""

    layers: list[str]
    calls: list[list[tuple[int, Tensor | None]]]


def find_embedding(loss: Tensor | None, trace: Trace | None, root: torch.nn.Module) -> Embedding | None:
    """The embedding that a loss compares with itself; None where the graph doesn't show exactly one.

    Args:
        loss: of the step.
        trace: of the modules' calls in it.
        root: the model.
    """
    if loss is None or trace is None or not isinstance(loss, torch.Tensor) or loss.grad_fn is None:
        return None
    paths = {id(module): display_name(path) for path, module in root.named_modules() if display_name(path)}
    for made in (_Made(trace, paths, True), _Made(trace, paths, False)):
        between, entries = _into(loss, made)
        scored = _scored(between, entries)
        beside = {entry for entry in scored if not made.is_trained_through(entry)}  # a probe on detached features
        entries -= beside
        if entries and scored == beside and _compares(between, entries):
            chosen = made.alone(entries)
            if chosen is not None:
                return _with_backbone(chosen, made)
    return None


def _with_backbone(chosen: _Source, made: _Made) -> Embedding:
    if _PREDICTOR.match(made.name(chosen)):
        before = made.before(chosen)
        chosen = before if before is not None else chosen
    layers = [chosen]
    if _PROJECTOR.search(made.name(chosen)):
        backbone = made.before(chosen)
        layers += [backbone] if backbone is not None else []
    return Embedding([made.shown(one) for one in layers], [made.calls(one) for one in layers])


_Source = tuple[int, str]  # a module's id, and which of its outputs


class _Made:
    """Which modules gave which nodes; ``without_weights``: also those that have none, as a pooling at the end."""

    def __init__(self, trace: Trace, paths: dict[int, str], without_weights: bool) -> None:
        self._paths = paths
        trained = {
            id(call.module): without_weights or any(p.requires_grad for p in call.module.parameters())
            for call in trace.calls
            if id(call.module) in paths
        }
        self._trace = [call for call in trace.calls if trained.get(id(call.module), False)]
        self.by_node: dict[Any, list[_Source]] = {}
        for call in self._trace:
            for gave in call.gave:
                if _is_wide(gave):
                    self.by_node.setdefault(gave.node, []).append((id(call.module), gave.path))

    def name(self, source: _Source) -> str:
        """The last part of a module's path that is no number."""
        return next((part for part in reversed(self._paths[source[0]].split(".")) if not part.isdigit()), "")

    def shown(self, source: _Source) -> str:
        """As ``layer=`` takes it."""
        several = any(len(call.gave) > 1 or source[1] for call in self._trace if id(call.module) == source[0])
        return self._paths[source[0]] + (f":{source[1]}" if several and source[1] else "")

    def alone(self, nodes: Iterable[Any]) -> _Source | None:
        """The module that gave all of these, the outermost of several; a projector rather than what holds it."""
        shared = set.intersection(*({*self.by_node[node]} for node in nodes))
        ordered = sorted(shared, key=lambda source: self._paths[source[0]].count("."))
        named = [s for s in ordered if _PROJECTOR.search(self.name(s)) or _PREDICTOR.match(self.name(s))]
        return next(iter([*named, *ordered]), None)

    def is_trained_through(self, node: Any) -> bool:
        """Whether what gave a node was given something that is trained."""
        givers = {source[0] for source in self.by_node[node]}
        return any(c.given and id(c.module) in givers and any(g.node is node for g in c.gave) for c in self._trace)

    def before(self, source: _Source) -> _Source | None:
        """The outermost module that gave what a module was given, in all of its calls."""
        found: set[_Source] | None = None
        for call in self._trace:
            if id(call.module) != source[0]:
                continue
            node = next((n for given in call.given if (n := self._maker(given)) is not None), None)
            here = {*self.by_node[node]} if node is not None else set()
            found = here if found is None else found & here
        holders = tuple(self._paths[source[0]].rpartition(".")[0].split("."))
        apart = [s for s in found or () if self._paths[s[0]] != ".".join(holders)]
        return min(apart, key=lambda s: (self._paths[s[0]].count("."), self._paths[s[0]]), default=None)

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

    def calls(self, source: _Source) -> list[tuple[int, Tensor | None]]:
        """When it ran, and what it gave; None where that was changed since, or has made room."""
        return [
            (call.order, gave.tensor if gave.tensor is not None and gave.tensor._version == gave.version else None)
            for call in self._trace
            for gave in call.gave
            if (id(call.module), gave.path) == source
        ]


def _is_wide(gave: Gave) -> bool:
    """Whether an output can be an embedding: rows of several numbers."""
    return gave.tensor is None or (gave.tensor.ndim > 1 and gave.tensor.shape[-1] > 1)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _into(loss: Tensor, made: _Made) -> tuple[list[Any], set[Any]]:
    """Nodes between a loss and the outputs that go into it, and those outputs; none if weights act in between."""
    start: Any = loss.grad_fn
    seen, entries = {start}, set()
    waiting, between = [start], []
    while waiting:
        node = waiting.pop()
        if node in made.by_node:
            entries.add(node)
            continue
        between.append(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor) and variable.ndim > 1:
            return [], set()
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return between, entries


def _compares(between: Sequence[Any], entries: set[Any]) -> bool:
    """Whether outputs are normalised, or multiplied by each other, or their distances are taken."""
    for node in between:
        children = [child for child, _ in node.next_functions]
        if _NORMS.search(node.name()) and any(_is_of(child, entries) for child in children):
            return True
        if _PRODUCTS.search(node.name()) and sum(_is_of(child, entries) for child in children) > 1:
            return True
    return False


def _is_of(node: Any, entries: set[Any]) -> bool:
    """Whether a node is made of outputs alone: what something else was subtracted from is a residual."""
    seen: set[Any] = set()
    waiting = [node]
    while waiting:
        at = waiting.pop()
        if at is None or len(seen) > _DEPTH:
            return False
        if at in entries or at in seen:
            continue
        seen.add(at)
        children = [child for child, _ in at.next_functions]
        if re.search(r"^(Mul|Div|Add)Backward|BatchNorm", at.name()) and any(child is not None for child in children):
            children = [child for child in children if child is not None]  # scaled, masked, an epsilon added, no affine
        waiting += children or [None]
    return bool(seen) or node in entries


def _scored(between: Sequence[Any], entries: set[Any]) -> set[Any]:
    """Outputs that are compared with classes or numbers, through nothing but softmax, scaling and shape."""
    found: set[Any] = set()
    for node in between:
        constant = any(child is None for child, _ in node.next_functions)  # of numbers: not another output
        if _SCORES.search(node.name()) and (constant or re.search("Nll|CrossEntropy", node.name())):
            found.update(at for at in _chain(node) if at in entries)
    return found


def _chain(node: Any) -> Iterator[Any]:
    """What a node is made of, as long as each has one input."""
    for child, _ in node.next_functions[:1]:
        at = child
        for _ in range(64):
            if at is None:
                break
            yield at
            inputs = [one for one, _ in at.next_functions if one is not None]
            if len(inputs) != 1:
                break
            at = inputs[0]
