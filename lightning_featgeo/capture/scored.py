"""What a loss scores a head's rows against: the classes that its autograd graph keeps, row by row."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lightning_featgeo._autograd import axis_of, saved, shape
from lightning_featgeo.capture.loss_graph import applies
from lightning_featgeo.capture.reordering import taken_by
from lightning_featgeo.capture.stash import Caught
from lightning_featgeo.capture.takes import piece_of, put_rows, puts_along_rows
from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.rows.rows import UNLABELLED
from lightning_featgeo.rows.scored_rows import UNSCORED
from lightning_featgeo.rows.scoring import Scoring
from lightning_featgeo.types import Tensor

_SCORES = re.compile(r"^(NllLoss|MultiMarginLoss)\w*Backward")
_STAY = re.compile(  # each row where it was; those of two inputs are followed where one is not trained through
    r"^(LogSoftmax|Softmax|Log|LogSigmoid|Exp|Tanh|Sigmoid|Relu|Clamp|ClampMin|ClampMax|Pow|Sqrt|Abs|Neg|Mul|Div|Add|Sub"
    r"|MaskedFill|Where|View|UnsafeView|ReshapeAlias|Squeeze|Unsqueeze|Clone|Alias|ToCopy|Permute|Transpose|Slice"
    r"|Select|NativeDropout|FusedDropout)Backward\d*$"
)
_NEAR = 64  # nodes behind the loss that are looked at: its sum, scales and terms
_SHOWN = 4  # nodes that tell one form of a loss from another
_BETWEEN = 16  # nodes from there to the head's output: softmax, reshaping, scaling


def look(scoring: Scoring, loss: Tensor, tap: FeatureTap) -> None:
    """Write down, at each call of a head, the classes that a loss scores its rows against, where that is to be known.

    Only indices that are kept are referred to: nothing waits for a device.

    Args:
        scoring: knows when, and takes whether there are any.
        loss: whose backward begins.
        tap: of what the head is given.
    """
    if tap.calls and scoring.is_due(any(call.taken is not None for call in tap.calls), _form(loss)):
        scoring.found |= _note(loss, tap.module, tap.calls)


def _form(loss: Tensor) -> tuple[str, ...]:
    """Names of the nodes behind it, up to where it is made of several terms."""
    names: list[str] = []
    node = loss.grad_fn
    while node is not None and len(names) < _SHOWN:
        names.append(node.name())
        inputs = [child for child, _ in node.next_functions if child is not None]
        node = inputs[0] if len(inputs) == 1 else None
    return tuple(names)


def _note(loss: Tensor, head: torch.nn.Module, calls: Sequence[Caught]) -> bool:
    weights = {id(p) for p in head.parameters()}
    found = False
    for node in _scoring(loss):
        target, ignored = saved(node, "target"), saved(node, "ignore_index")
        if isinstance(target, torch.Tensor) and isinstance(ignored, int) and ignored >= 0:
            target = target.masked_fill(target == ignored, UNLABELLED)
        for made, scored in _outputs(node, target, weights) if isinstance(target, torch.Tensor) else ():
            given = list(_given(made))
            of = calls if len(calls) == 1 else [one for one in calls if one.node is not None and one.node in given]
            if len(of) == 1 and not any(scored is one for one in of[0].scored):
                of[0].scored += (scored,)
                found = True
    return found


def _scoring(loss: Tensor) -> Iterator[Any]:
    waiting, seen = deque([loss.grad_fn]), {loss.grad_fn}
    while waiting and len(seen) < _NEAR:
        node = waiting.popleft()
        if node is None:
            continue
        if _SCORES.match(node.name()):
            yield node
            continue
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)


def _outputs(node: Any, target: Tensor, weights: set[int], left: int = _BETWEEN) -> Iterator[tuple[Any, Tensor]]:
    """Nodes that made the head's output, each with what its rows are scored against, in their order there.

    Followed through what keeps rows in place, and through rows that are taken or put one by one. Behind anything else
    nobody knows which row is scored against which class.
    """
    for child, scored in _behind(node, target) if left else ():
        if applies(child, weights):
            yield child, scored
        else:
            yield from _outputs(child, scored, weights, left - 1)


def _behind(node: Any, target: Tensor) -> list[tuple[Any, Tensor]]:
    """Where a node's rows come from, and what they are scored against."""
    inputs = [child for child, _ in node.next_functions]
    there = [child for child in inputs if child is not None]
    if node.name().startswith("Slice") and target.ndim == 1 and len(there) == 1 and _turns(node):
        return _some_rows(node, 0, target)
    if len(there) == 1 and target.ndim == 1 and there[0].name().startswith("SplitBackward"):
        number = next(number for child, number in node.next_functions if child is not None)
        return _some_rows(there[0], number, target) if _keeps_rows(node) else []
    if _SCORES.match(node.name()) or _STAY.match(node.name()):
        return [(there[0], target)] if len(there) == 1 and _keeps_rows(node) else []
    if puts_along_rows(node):
        index, values = put_rows(node), inputs[-1]
        kept = [(one, target) for one in inputs[:-1] if one is not None]
        if values is None:
            return kept
        can = index is not None and index.dtype != torch.bool and target.ndim == 1
        return [*kept, (values, target[index])] if can else []
    if target.ndim != 1 or shape(node)[:1] != target.shape:
        return []
    if (marked := _marked(node)) is not None:
        parent, marks = marked
        every = target.new_full((len(marks),), UNSCORED)
        return [(parent, every.masked_scatter(marks.to(target.device), target))]
    parent, rows, count = taken_by(node) or (None, None, None)
    if parent is None or rows is None or count is None or not len(rows) == len(target) <= count:
        return []
    every = target.new_full((count,), UNSCORED)  # where fewer rows are taken, the others are not scored
    return [(parent, every.index_put((rows.to(target.device),), target))]


def _marked(node: Any) -> tuple[Any, Tensor] | None:
    """What rows were taken of by marks of them, and the marks."""
    piece = piece_of(node, 0) if node.name().startswith("IndexBackward") else None
    if piece is None or not isinstance(piece[1], torch.Tensor) or piece[1].dtype != torch.bool or piece[1].ndim != 1:
        return None
    return piece[0], piece[1]


def _some_rows(node: Any, number: int, target: Tensor) -> list[tuple[Any, Tensor]]:
    """Of consecutive rows that a loss scores: the others have no class. ``number``: of a split's parts."""
    piece = piece_of(node, number)
    if piece is None:
        return []
    parent, rows, count = piece
    if not isinstance(rows, range) or count is None or len(rows) != len(target):
        return []
    every = target.new_full((count,), UNSCORED)
    every[rows.start : rows.stop : rows.step] = target
    return [(parent, every)]


def _keeps_rows(node: Any) -> bool:
    return bool(_SCORES.match(node.name()) or _STAY.match(node.name())) and not _turns(node)


def _turns(node: Any) -> bool:
    """Whether an axis is put before the first one, or it is cut."""
    name, ndim = node.name(), len(shape(node))
    if name.startswith("Permute"):
        dims = saved(node, "dims")
        return not dims or axis_of(dims[0], ndim) != 0
    if name.startswith("Transpose"):
        return 0 in (axis_of(saved(node, "dim0") or 0, ndim), axis_of(saved(node, "dim1") or 0, ndim))
    if name.startswith(("Slice", "Select")):
        return axis_of(saved(node, "dim") or 0, ndim) == 0
    return False


def _given(made: Any) -> Iterator[Any]:
    """Nodes of what the head was given, seen through reshaping."""
    for child, _ in made.next_functions:
        at = child
        for _ in range(4):
            if at is None:
                break
            yield at
            inputs = [c for c, _ in at.next_functions if c is not None]
            at = inputs[0] if len(inputs) == 1 else None
