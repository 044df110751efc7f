"""Features that were mixed inside of the network (manifold mixup): rows between two samples have no class.

λ·h + (1 − λ)·h[p] is seen in the autograd graph: a sum, one side of which takes rows of what the other side is made of.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import torch

from lightning_featgeo._autograd import shape
from lightning_featgeo.capture.reordering import is_a_take

_SUMS = re.compile(r"^(Add|Sub|Addcmul|Lerp|Where)Backward")
_SUMS_DEEP = 2  # sums in a sum that are looked into
_SCALES = re.compile(r"^(Mul|Div|Neg|ToCopy|Clone|Alias|Slice)Backward")  # what lies between rows and their sum
_STEPS = 4  # of those
_NODES, _NEAR = 600, 8  # that are looked through, from the features back: in some batches, and in every batch
FIRST, EVERY = 3, 64  # batches that are searched: the first ones, then one in so many; all, where one was mixed


def mixes_rows(node: Any, rows: int, far: bool) -> bool:
    """Whether features are sums of rows of one tensor, taken in two orders.

    Args:
        node: of the autograd graph, that made them; None: there is no graph.
        rows: of the features. Sums of other lengths are of something else: edges, tokens, a table's rows.
        far: look through many nodes, not only through those just before.
    """
    if node is None:
        return False
    seen, waiting, most = {node}, deque([node]), _NODES if far else _NEAR
    while waiting and len(seen) <= most:
        at = waiting.popleft()
        inputs = [child for child, _ in at.next_functions if child is not None]
        if len(inputs) > 1 and _SUMS.match(at.name()) and shape(at)[:1] == (rows,) and _is_a_mixture(at):
            return True
        for child in inputs:
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return False


def _is_a_mixture(node: Any) -> bool:
    """Whether two terms of a sum are rows of one tensor, and not in the same order.

    A plain difference of such rows, h − h[p], is none: it compares samples.
    """
    terms = _terms(node, _SUMS_DEEP)
    if len(terms) < 3 and node.name().startswith("Sub"):
        return False
    for i, (take, made_of) in enumerate(terms):
        for other_take, others in terms[:i]:
            if (take is not None or other_take is not None) and take is not other_take and made_of & others:
                return True
    return False


def _terms(node: Any, depth: int) -> list[tuple[Any, set[Any]]]:
    """Terms of a sum, and of sums that it is of: h + λ·(h[p] − h) has three."""
    found = []
    for child in (child for child, _ in node.next_functions if child is not None):
        inner = child
        for _ in range(_STEPS):
            inputs = [one for one, _ in inner.next_functions if one is not None]
            if not _SCALES.match(inner.name()) or len(inputs) != 1:
                break
            inner = inputs[0]
        several = depth and _SUMS.match(inner.name()) and len([1 for one, _ in inner.next_functions if one]) > 1
        found += [_side(child)]
        found += _terms(inner, depth - 1) if several else []
    return found


def _side(node: Any) -> tuple[Any, set[Any]]:
    """The node that took rows, if one did, and those that its input may be made by."""
    take: Any = None
    made_of: set[Any] = set()
    for _ in range(_STEPS + 1):
        if take is None and is_a_take(node):
            take, made_of = node, set()
        elif not _SCALES.match(node.name()):
            if not _is_a_parameter(node):  # whose rows are no samples
                made_of.add(node)
            break
        else:
            made_of.add(node)
        inputs = [child for child, _ in node.next_functions if child is not None]
        if len(inputs) != 1:
            break
        node = inputs[0]
    return take, made_of


def _is_a_parameter(node: Any) -> bool:
    return isinstance(getattr(node, "variable", None), torch.nn.Parameter)
