"""Features that were mixed inside of the network (manifold mixup): rows between two samples have no class.

λ·h + (1 − λ)·h[p] is seen in the autograd graph: a sum, one side of which takes rows of what the other side is made of.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any

from lightning_featgeo._autograd import shape
from lightning_featgeo.capture.reordering import is_a_take

_SUMS = re.compile(r"^(Add|Lerp|Where)Backward")
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
        if len(inputs) > 1 and _SUMS.match(at.name()) and shape(at)[:1] == (rows,) and _is_a_mixture(inputs):
            return True
        for child in inputs:
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return False


def _is_a_mixture(inputs: list[Any]) -> bool:
    """Whether two of a sum's inputs are rows of one tensor, and not in the same order."""
    sides = [_side(child) for child in inputs]
    for i, (take, made_of) in enumerate(sides):
        for other_take, others in sides[:i]:
            if (take is not None or other_take is not None) and take is not other_take and made_of & others:
                return True
    return False


def _side(node: Any) -> tuple[Any, set[Any]]:
    """The node that took rows, if one did, and those that its input may be made by."""
    take: Any = None
    made_of: set[Any] = set()
    for _ in range(_STEPS + 1):
        if take is None and is_a_take(node):
            take, made_of = node, set()
        elif not _SCALES.match(node.name()):
            if node.name() != "torch::autograd::AccumulateGrad":  # rows of a parameter are no samples
                made_of.add(node)
            break
        else:
            made_of.add(node)
        inputs = [child for child, _ in node.next_functions if child is not None]
        if len(inputs) != 1:
            break
        node = inputs[0]
    return take, made_of
