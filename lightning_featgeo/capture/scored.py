"""What a loss scores a head's rows against: the classes that its autograd graph keeps, row by row."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lightning_featgeo import _autograd
from lightning_featgeo.capture.loss_graph import applies
from lightning_featgeo.capture.reordering import is_a_take
from lightning_featgeo.capture.stash import Caught
from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.rows.scoring import Scoring
from lightning_featgeo.types import Tensor

_SCORES = re.compile(r"^(NllLoss|MultiMarginLoss)\w*Backward")
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
        made, target = _output(node, weights), _autograd.saved(node, "target")
        if made is None or not isinstance(target, torch.Tensor):
            continue
        given = list(_given(made))
        of = calls if len(calls) == 1 else [one for one in calls if one.node is not None and one.node in given]
        if len(of) == 1 and not any(target is one for one in of[0].scored):
            of[0].scored += (target,)
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


def _output(node: Any, weights: set[int]) -> Any:
    """The node that made the head's output, where no row was taken since; None: it is not of this head."""
    at = node
    for _ in range(_BETWEEN):
        inputs = [child for child, _ in at.next_functions if child is not None]
        if len(inputs) != 1:
            return None
        at = inputs[0]
        if applies(at, weights):
            return at
        if is_a_take(at):
            return None
    return None


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
