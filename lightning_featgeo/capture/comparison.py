"""What a loss does with outputs that go into it: compares them with each other, or with something else.

Read off the autograd graph between the outputs and the loss. Each node is told which outputs it is made of, and which
part of them (a half of the rows, say). Two parts that meet in a product, a difference or a distance are compared with
each other; so are an output and a constant that is a copy of another module's output (a teacher's, one that was
detached). What meets any other constant, or goes into a loss of classes or numbers, is a prediction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch

from lightning_featgeo import _autograd
from lightning_featgeo.capture.trace import Trace
from lightning_featgeo.types import Tensor

_ELEMENTWISE = re.compile(r"^(Mul|Sub|Rsub|Div)Backward")
_NUMBERS = re.compile(r"MseLoss|L1Loss|SmoothL1|HuberLoss")
_CLASSES = re.compile(r"NllLoss|CrossEntropy|MultiMargin|MultilabelMargin|SoftMargin|KlDiv")
_DISTANCES = re.compile(r"Cdist|Pdist|EuclideanDist|PairwiseDistance")
_PARTS = re.compile(r"^(Slice|Select|IndexSelect|Index|Narrow)Backward")
_LISTS = re.compile(r"^(Split|SplitWithSizes|Unbind|Chunk)Backward")
_MOST = 2**22  # pairs of rows that are looked at
_NEAR = 1e-3  # of cosines of rows, from which on they are parallel
_CONSTANT = frozenset({None})  # marks an operand that is no part of the graph
Label = frozenset[Any]  # parts of outputs; empty: of none
MIXED: Label = frozenset({"mixed"})  # of what has been compared already


@dataclass
class Comparison:
    """What was found.

    ``with_itself``: outputs of one module that are compared with each other. ``predictions``: outputs that something
    else is compared with. ``partners``: modules whose outputs, without a gradient, they are compared with.
    ``unknown``: whether they are multiplied by a matrix that nobody knows (a queue of earlier rows, or weights of
    classes). ``normalised``: whether their lengths are taken.
    """

    with_itself: set[Any] = field(default_factory=set)
    predictions: set[Any] = field(default_factory=set)
    partners: list[torch.nn.Module] = field(default_factory=list)
    unknown: bool = False
    normalised: bool = False


def compare(between: Sequence[Any], entries: set[Any], trace: Trace, inputs: Sequence[Tensor]) -> Comparison:
    """Look at the nodes between outputs and a loss.

    Args:
        between: the nodes, in any order.
        entries: nodes of the outputs.
        trace: the modules' calls.
        inputs: the batch's tensors: a copy of one of them is a target, whoever has passed it on.
    """
    scene = _Scene(
        rows={_autograd.shape(entry)[0] for entry in entries if _autograd.shape(entry)},
        widths={_autograd.shape(entry)[-1] for entry in entries if _autograd.shape(entry)},
        givers={e: {id(call.module) for call in trace.calls if any(g.node is e for g in call.gave)} for e in entries},
        trace=trace,
        inputs=inputs,
    )
    norms = [node for node in between if "Norm" in node.name() and "BatchNorm" not in node.name()]
    found = Comparison(normalised=bool(norms))
    labels: dict[Any, Label] = {entry: frozenset({(entry,)}) for entry in entries}
    for node in _upwards(between, entries):
        labels[node] = _meet(node, [_label(child, i, labels) for child, i in node.next_functions], scene, found)
    return found


@dataclass(frozen=True)
class _Scene:
    """What is known of the outputs: how many rows they have, how wide they are, which modules gave each."""

    rows: set[int]
    widths: set[int]
    givers: dict[Any, set[int]]
    trace: Trace
    inputs: Sequence[Tensor]

    def of_one_module(self, labels: Sequence[Label]) -> set[Any]:
        """Outputs of which these are parts, if one module gave all: two modules' are two towers, or a variance."""
        outputs = {part[0] for label in labels for part in label}
        return outputs if set.intersection(*(self.givers.get(output, set()) for output in outputs)) else set()


def _upwards(between: Sequence[Any], entries: set[Any]) -> Iterable[Any]:
    """Nodes, each after those that it is made of."""
    inside, done, order = {*between}, {*entries}, []
    for start in between:
        stack = [start]
        while stack:
            node = stack[-1]
            waiting = [c for c, _ in node.next_functions if c is not None and c in inside and c not in done]
            if node in done or not waiting:
                stack.pop()
                if node not in done:
                    done.add(node)
                    order.append(node)
            else:
                stack += waiting
    return order


def _label(child: Any, index: int, labels: dict[Any, Label]) -> Label:
    """Of one operand; of several outputs of a node (split, unbind), each is a part of its own."""
    if child is None:
        return _CONSTANT
    label = labels.get(child, frozenset())
    gone = child.name().startswith("Unbind")  # the axis that it was taken apart along
    if _LISTS.match(child.name()) and _is_pure(label) and not _is_last(child, len(_autograd.shape(child)) + gone):
        return frozenset((*part, id(child), index) for part in label)
    return label


def _meet(node: Any, kids: list[Label], scene: _Scene, found: Comparison) -> Label:
    """What a node is made of, and what meets in it."""
    name = node.name()
    pure = [kid for kid in kids if _is_pure(kid)]
    whole = MIXED if MIXED in kids else frozenset().union(*pure)
    if not pure or whole == MIXED:
        return whole
    constant = _CONSTANT in kids
    if _CLASSES.search(name) or "BinaryCrossEntropy" in name:
        found.predictions |= {part[0] for part in whole}
        return whole
    product = name.startswith(("Mm", "Bmm"))
    several = product and len(pure) > 1 and (name[0] == "M" or _apart(pure) or _is_over_rows(node, scene.widths))
    if _DISTANCES.search(name) or several:
        found.with_itself |= scene.of_one_module(pure)
        return MIXED
    elementwise = _ELEMENTWISE.match(name) or _NUMBERS.search(name)
    if elementwise and len(pure) > 1 and _apart(pure) and all(_is_several(child) for child, _ in node.next_functions):
        found.with_itself |= scene.of_one_module(pure)
        return MIXED
    if constant and (elementwise or product):
        value = _constant(node, [kid == _CONSTANT for kid in kids])
        partners = (
            [] if value is None or not (product or _is_unit(value, name)) else _copied(value, scene.trace, scene.inputs)
        )
        if partners:
            found.with_itself |= {part[0] for part in whole}
            found.partners += partners
            return MIXED
        found.unknown = found.unknown or bool(product)
        if elementwise and _is_target(name, value, _autograd.shape(node), scene.rows):
            found.predictions |= {part[0] for part in whole}
    if name.startswith("Unsqueeze") and not _is_last(node, len(_autograd.shape(node))):
        return frozenset((*part, "axis", _autograd.axis(node)) for part in whole)  # of all pairs: one row against each
    if _PARTS.match(name) and not _is_last(node, len(_autograd.saved(node, "self_sym_sizes") or ()) or None):
        return frozenset((*part, id(node)) for part in whole)
    return whole


def _is_pure(label: Label) -> bool:
    return bool(label) and label not in (MIXED, _CONSTANT)


def _apart(labels: Sequence[Label]) -> bool:
    """Whether no part is in two of these, or holds one of another."""
    pairs = ((p, q) for one, other in combinations(labels, 2) for p in one for q in other)
    return not any(p[: len(q)] == q or q[: len(p)] == p for p, q in pairs)


def _is_last(node: Any, ndim: int | None) -> bool:
    """Whether a part is one of a row: taken along the last axis."""
    return ndim is not None and ndim > 1 and _autograd.axis(node) in (ndim - 1, -1)


def _is_over_rows(node: Any, widths: set[int]) -> bool:
    """Whether a batched product is of one batch, or of rows with each other (nodes), not of the parts of a row."""
    first = _autograd.shape(node.next_functions[0][0])
    return _autograd.shape(node)[:1] == (1,) or (bool(first) and first[-1] in widths)


def _is_several(node: Any) -> bool:
    return node is not None and (not _autograd.shape(node) or max(_autograd.shape(node)) > 1)


def _constant(node: Any, where: list[bool]) -> Tensor | None:
    """The operand of a node that is no part of the graph, as it was saved."""
    first = bool(where) and where[0]
    names = ("self",) if first else ("other", "mat2", "target")
    return next((value for name in names if isinstance(value := _autograd.saved(node, name), torch.Tensor)), None)


def _is_target(name: str, value: Tensor | None, shape: tuple[int, ...], rows: set[int]) -> bool:
    """Whether a constant is something for each row that an output is compared with: no scale, no mask, no average."""
    if value is None:  # of a difference, which saves nothing; of numbers, what is subtracted from each row
        return not name.startswith(("Mul", "Div")) and bool(shape) and shape[0] in rows
    if name.startswith(("Mul", "Div")):
        marks = value.dtype == torch.bool or bool(((value == 0) | (value == 1)).all())
        return value.ndim > 1 and value.shape[0] in rows and value.shape[-1] > 1 and not marks
    return True


def _is_unit(value: Tensor, name: str) -> bool:
    """Whether what is subtracted has rows of length one: a difference of others is no angle (logits of a teacher)."""
    if name.startswith(("Mul", "Div")):
        return True
    return value.ndim == 2 and bool((torch.linalg.vector_norm(value.detach().double(), dim=1) - 1).abs().max() < _NEAR)


def _copied(value: Tensor, trace: Trace, inputs: Sequence[Tensor]) -> list[torch.nn.Module]:
    """Modules whose output a constant is a copy of, row by row, up to its length; none if it is the batch's own."""
    value = value[0] if value.ndim == 3 and len(value) == 1 else value
    matrices = [value, value.mT] if value.ndim == 2 else [value.flatten(1)] if value.ndim == 3 else []
    found: list[torch.nn.Module] = []
    for matrix in matrices:
        if matrix.shape[1] < 2 or any(_is_parallel(matrix, x) for x in inputs):
            continue
        found += [module for module, tensor in trace.outputs() if _is_parallel(matrix, tensor, False)]
    return found


def _is_parallel(matrix: Tensor, other: Tensor, in_order: bool = True) -> bool:
    """Whether rows point where those of another tensor do, or of one of its equal parts, in this order or any."""
    if not other.is_floating_point() or other.ndim != 2 or other.shape[1] != matrix.shape[1] or not len(matrix):
        return False
    if other.shape[0] % matrix.shape[0] or other.device != matrix.device:
        return False
    a = torch.nn.functional.normalize(matrix.detach().double(), dim=1)
    b = torch.nn.functional.normalize(other.detach().double(), dim=1)
    if not in_order and len(a) * len(b) <= _MOST:
        return bool(((a @ b.T).amax(dim=1) > 1 - _NEAR).all())
    return any(bool(((a * part).sum(dim=1) > 1 - _NEAR).all()) for part in b.split(len(a)))
