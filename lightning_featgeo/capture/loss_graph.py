"""What the autograd graph of a loss tells: which weights it reads, and what it does with a head's output."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo import _autograd, _compat
from lightning_featgeo.capture.stash import Caught
from lightning_featgeo.capture.widths import out_width
from lightning_featgeo.types import Tensor

EVERY = 64  # losses between two looks at which calls they are trained through
_OF_CLASSES = re.compile(r"NllLoss|CrossEntropy|MultiMargin|MultilabelMargin|LogSoftmax")
_OF_NUMBERS = re.compile(r"MseLoss|L1Loss|SmoothL1|HuberLoss")


@dataclass(frozen=True)
class Reading:
    """What a loss does with a head's output.

    ``classifies``: it is scored against classes, with no other weight between. ``reconstructs``: it is compared with
    the batch's input. ``regresses``: with other numbers of the batch. ``scores_groups``: the classes are whole numbers
    (b, g) of the batch, one below the other.
    """

    classifies: bool = False
    reconstructs: bool = False
    regresses: bool = False
    scores_groups: bool = False


class LossGraph:
    """The graph behind a loss; an empty one for None, or where nothing is trained."""

    def __init__(self, loss: Tensor | None) -> None:
        self.loss = loss if isinstance(loss, torch.Tensor) and loss.grad_fn is not None else None
        self._nodes = [] if self.loss is None else _walk(self.loss.grad_fn, lambda _: False)
        self._seen = set(self._nodes)
        self._variables = {id(v) for n in self._nodes if (v := getattr(n, "variable", None)) is not None}

    def is_of_nothing(self, root: torch.nn.Module) -> bool:
        """Whether there is nothing behind the loss but a number that asks for a gradient, divided by the engine."""
        alone = 0 < len(self._nodes) <= 3 and len(self._variables) == 1
        return alone and not self.reads_weight(root)

    def reads_weight(self, module: torch.nn.Module) -> bool:
        """Whether any of a module's own parameters is in the graph."""
        return any(id(p) in self._variables for p in module.parameters())

    def visible(self, modules: Iterable[torch.nn.Module]) -> bool:
        """Whether the graph shows any module's weights: that of a compiled model is opaque."""
        return any(self.reads_weight(module) for module in modules)

    def reaches(self, module: torch.nn.Module, calls: Sequence[Caught]) -> bool:
        """Whether the loss is trained through a module's calls: a teacher's are not, whatever runs in them."""
        if all(call.with_gradient is False for call in calls):
            return False
        if any(p.requires_grad for p in module.parameters()):
            return self.reads_weight(module)
        return any(call.node in self._seen for call in calls if call.node is not None)

    def reached(self, call: Caught) -> bool | None:
        """Whether the loss is trained through one call; None: that can't be told."""
        if any("BackwardBackward" in node.name() for node in self._nodes):
            return None  # a loss of derivatives: the graph of their making hides what they are of
        if self.loss is None or call.with_gradient is None or (call.with_gradient and call.node is None):
            return None
        return call.node is not None and call.node in self._seen

    def depth(self, calls: Sequence[Caught]) -> int:
        """How much of the graph lies before a module's calls."""
        nodes = [call.node for call in calls if call.node is not None]
        return max((len(_walk(node, lambda _: False)) for node in nodes), default=0)

    def rival_weight(self, head: torch.nn.Module) -> Tensor | None:
        """A weight matrix that acts on the loss without passing through the head: a tied, cosine or second head.

        None if there is none, or if the graph doesn't show the head's weight (compiled models).
        """
        if self.loss is None or not self.reads_weight(head):
            return None
        weights = _weights(head)
        for node in _walk(self.loss.grad_fn, lambda n: applies(n, weights)):
            variable = getattr(node, "variable", None)
            if isinstance(variable, torch.Tensor) and variable.ndim >= 2 and id(variable) not in weights:
                return variable
        return None

    def readouts(self, head: torch.nn.Module) -> list[Any]:
        """Nodes of weights that nobody trains, through which alone the loss reads a head's output; [] if it doesn't."""
        if self.loss is None or not self.reads_weight(head):
            return []
        weights = _weights(head)
        nodes = _walk(self.loss.grad_fn, lambda n: is_readout(n) or applies(n, weights))
        if any(applies(node, weights) for node in nodes):
            return []
        return [node for node in nodes if is_readout(node)]

    def reading(self, head: torch.nn.Module, inputs: Sequence[Tensor]) -> Reading:
        """What is done with a head's output.

        Args:
            head: the module.
            inputs: the batch's tensors, its input first.
        """
        weights = _weights(head)
        classifies = reconstructs = compared = regresses = groups = False
        numbers = [x for x in inputs if x.is_floating_point()]
        for node in self._nodes:
            name = node.name()
            of_classes, of_numbers = _OF_CLASSES.search(name), _OF_NUMBERS.search(name)
            if not (of_classes or of_numbers) or not _leads_to_output(node, weights):
                continue
            if of_classes and "Binary" in name and _is_drawn(_autograd.saved(node, "target"), inputs[:1]):
                reconstructs = compared = True  # the input as black and white, or as shares of white
            elif of_classes and not _is_constant(_autograd.saved(node, "target")):
                classifies = True
                groups = groups or any(_is_equal_to_groups(_autograd.saved(node, "target"), x) for x in inputs)
            if of_numbers:
                target = _autograd.saved(node, "target")
                compared = compared or target is not None
                reconstructs = reconstructs or (target is not None and any(_is_input(target, x) for x in inputs[:1]))
                regresses = regresses or (target is not None and any(_is_equal(target, x) for x in numbers[1:]))
        if self.loss is not None and not classifies and not compared and self.reads_weight(head):
            given = next((x for x in numbers if x.ndim > 1), None)
            others = [x for x in numbers if x is not given and given is not None and x.shape == given.shape]
            reconstructs = _is_as_wide(head, given) and not others  # the next step, say: nothing tells which it is
        return Reading(classifies, reconstructs and not classifies, regresses, groups)

    def needed_directions(self, inputs: Sequence[Tensor]) -> int | None:
        """In how many directions everything can be said that is scored against the batch's targets; None: unknown.

        C classes take C − 1 (Papyan et al. 2020). Of numbers nobody knows: they may all depend on one another.

        Args:
            inputs: the batch's tensors, its input first.
        """
        found = []
        for node in self._nodes:
            given, target = _autograd.saved(node, "self"), _autograd.saved(node, "target")
            scored = isinstance(given, torch.Tensor) and isinstance(target, torch.Tensor) and not _is_constant(target)
            if scored and any(_is_equal(target, x) for x in inputs[1:]):
                outputs = given.shape[1] if given.ndim > 1 and _OF_CLASSES.search(node.name()) else 1
                found.append(max(outputs - 1, 1))
        return max(found, default=None)


class ReachedCalls:
    """Which of several calls in a batch each loss is trained through: looked at where their pattern is new."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[int, ...], list[bool | None]] = {}
        self._losses = 0

    def note(self, calls: Sequence[Sequence[Caught]], loss: Tensor) -> None:
        """Mark the calls since the last loss.

        Args:
            calls: of each watched module, in this batch.
            loss: whose backward begins.
        """
        if all(len(of_module) < 2 for of_module in calls):
            for of_module in calls:
                for call in of_module:
                    call.reached = True  # it alone made the loss, as far as anybody sees
            return
        fresh = [call for of_module in calls for call in of_module if call.reached is None]
        pattern = (*map(len, calls), len(fresh))
        self._losses += 1
        if pattern not in self._verdicts or self._losses % EVERY == 0:
            graph = LossGraph(loss)
            self._verdicts[pattern] = [graph.reached(call) for call in fresh]
        for call, verdict in zip(fresh, self._verdicts[pattern], strict=True):
            call.reached = verdict


def _is_constant(target: Any) -> bool:
    """Whether floating-point targets are all the same: a term of the loss, and no labels of a batch."""
    several = isinstance(target, torch.Tensor) and target.is_floating_point() and target.numel() > 1
    return several and bool((target == target.reshape(-1)[0]).all())


def _is_input(target: Tensor, given: Tensor) -> bool:
    """Whether a loss's target is the batch's input: numbers with a feature axis, and no marks of classes."""
    if given.ndim < 2 or not target.is_floating_point() or target.numel() != given.numel() or given.shape[-1] == 1:
        return False
    return _is_equal(target, given) and not bool(((target == 0) | (target == 1)).all())


def _is_drawn(target: Any, inputs: Sequence[Tensor]) -> bool:
    """Whether the targets of a binary cross-entropy are the batch's input, as it is or in black and white."""
    if not isinstance(target, torch.Tensor) or target.ndim < 2 or target.shape[-1] < 2:
        return False
    return any(
        x.is_floating_point() and x.ndim > 1 and x.numel() == target.numel()
        and bool(((x.reshape(-1).to(target.dtype) - target.reshape(-1)).abs() <= 0.5).float().mean() > 0.95)
        for x in inputs
    )  # fmt: skip


def _is_equal_to_groups(target: Any, given: Tensor) -> bool:
    """Whether a loss's classes are those of groups of samples."""
    return (
        isinstance(target, torch.Tensor)
        and given.ndim == 2
        and given.shape[1] > 1
        and not given.is_floating_point()
        and _is_equal(target, given)
    )


def _is_equal(target: Tensor, given: Tensor) -> bool:
    """Whether a loss's target holds the numbers of one of the batch's tensors."""
    if target.numel() != given.numel() or not target.numel():
        return False
    if _compat.address(target) == _compat.address(given) and target.shape == given.shape:
        return True
    return bool((target.reshape(-1) == given.reshape(-1).to(target.dtype)).all())


def _is_as_wide(head: torch.nn.Module, first: Tensor | None) -> bool:
    """Whether a head gives as many numbers as its network was given, where no loss of torch tells what is compared."""
    outputs = out_width(head) or 0
    return outputs > 1 and first is not None and outputs == (first.shape[1] if first.ndim != 3 else first.shape[-1])


def _leads_to_output(node: Any, weights: set[int]) -> bool:
    """Whether a loss's node reads a head's output, through nodes with one input (softmax, reshaping, scaling)."""
    for child, _ in node.next_functions:
        at = child
        for _ in range(64):
            if at is None or at.name().startswith("CompiledFunction"):  # which reads all weights of a graph at once
                break
            if applies(at, weights):
                return True
            inputs = [c for c, _ in at.next_functions if c is not None]
            if len(inputs) != 1 or is_readout(at):
                break
            at = inputs[0]
    return False


def is_readout(node: Any) -> bool:
    """Whether a node multiplies by a matrix that nobody trains, as a frozen layer: not over rows, as a graph's do."""
    places = {"Mm": 1, "Bmm": 1, "Addmm": 2, "Convolution": 1}
    place = next((at for kind, at in places.items() if node.name().startswith(f"{kind}Backward")), None)
    edges = node.next_functions
    return place is not None and len(edges) > place and edges[place][0] is None


def _weights(head: torch.nn.Module) -> set[int]:
    return {id(p) for p in head.parameters()}


def _walk(start: Any, blocked: Callable[[Any], bool]) -> list[Any]:
    """Autograd nodes reachable from ``start``, not looking behind blocked ones."""
    seen, stack, order = {start}, [start], []
    while stack:
        node = stack.pop()
        order.append(node)
        if blocked(node):
            continue
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                seen.add(child)
                stack.append(child)
    return order


def _leads_to(node: Any, weights: set[int]) -> bool:
    """Whether a node is a head's parameter, seen through transposes and casts (nodes with one input)."""
    while node is not None:
        variable = getattr(node, "variable", None)
        if variable is not None:
            return id(variable) in weights
        inputs = [child for child, _ in node.next_functions if child is not None]
        if len(inputs) != 1:
            return False
        node = inputs[0]
    return False


def applies(node: Any, weights: set[int]) -> bool:
    """Whether a node multiplies by a head's weight: one of its inputs leads to it, and there is another input."""
    children: Sequence[Any] = [child for child, _ in node.next_functions if child is not None]
    return any(_leads_to(child, weights) for child in children) and not _leads_to(node, weights)
