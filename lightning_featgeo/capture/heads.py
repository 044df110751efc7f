"""Which module is the head, when nobody says so. Its input is the penultimate features.

"The last Linear that ran" is wrong in silence for tied heads, cosine heads, two heads and self-supervised models. So:
(a) what the model itself declares (``get_classifier``, ``get_output_embeddings``); (b) the only trainable candidate
with ``num_classes`` outputs; (c) the last candidate that ran in the first batch, if nothing contradicts it: its name,
a second call, another weight that acts on the loss after or beside it. Otherwise an error with the line to paste.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.capture.stash import Budget
from lightning_featgeo.capture.taps import FeatureTap, display_name
from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.types import Tensor

_SUSPECT = re.compile(r"(^|[._])(proj\w*|pred\w*|teacher\w*|ema|momentum\w*|probe\w*|aux\w*)(?=$|[._\d])", re.I)
_CLASS_COUNT_NAMES = ("num_classes", "n_classes", "num_labels", "nb_classes")


@dataclass(frozen=True)
class Choice:
    """The chosen module, its path, and why."""

    module: torch.nn.Module
    name: str
    why: str


def _outputs(module: torch.nn.Module) -> int:
    value = getattr(module, "out_features", getattr(module, "out_channels", 0))
    return value if isinstance(value, int) else 0


def _inputs(module: torch.nn.Module) -> int:
    value = getattr(module, "in_features", getattr(module, "in_channels", 0))
    return value if isinstance(value, int) else 0


def _is_candidate(module: torch.nn.Module) -> bool:
    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        shape = all(size == 1 for size in module.kernel_size) and module.groups == 1
    else:
        adapter = isinstance(getattr(module, "base_layer", None), torch.nn.Linear)
        shape = isinstance(module, torch.nn.Linear) or adapter
    return shape and any(p.requires_grad for p in module.parameters())


def candidates(root: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Trainable Linear modules (adapters as a whole) and 1×1 convolutions, by displayed path."""
    found: dict[str, torch.nn.Module] = {}
    for path, module in root.named_modules():
        name = display_name(path)
        if name and _is_candidate(module) and not any(name.startswith(outer + ".") for outer in found):
            found[name] = module
    return found


def known_class_count(*sources: Any) -> int | None:
    """Number of classes as a module, its hyperparameters, its config or the datamodule states it."""

    def read(holder: Any, name: str) -> Any:
        try:
            return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
        except Exception:  # a user's property that is not ready yet
            return None

    for source in sources:
        for holder in (source, read(source, "hparams"), read(source, "config")):
            for name in _CLASS_COUNT_NAMES:
                value = read(holder, name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return None


def ambiguous(found: dict[str, torch.nn.Module], why: str) -> ConfigurationError:
    """The error for a head that can't be told: what was found, why it isn't enough, and the line to paste."""
    lines = [f"  {name}: {_inputs(m)} → {_outputs(m)}" for name, m in found.items()]
    shown = lines if len(lines) <= 12 else [f"  … {len(lines) - 12} more", *lines[-12:]]
    example = next(reversed(found), "net.head")
    listing = "\n".join(shown) if shown else "  (none: no trainable Linear or 1×1 convolution)"
    return ConfigurationError(
        f"can't tell which module is the classifier head: {why}. Candidates:\n{listing}\n"
        f"Paste one of:\n  FeatureGeometryMonitor(head={example!r})   # features = its input\n"
        f"  FeatureGeometryMonitor(layer={example!r})  # features = its output" + _if_self_supervised([*found])
    )


def _if_self_supervised(paths: list[str]) -> str:
    """A line more where a projector is among the candidates: its output, and that of what lies before it."""
    split = [path.split(".") for path in paths]
    shared = next((i for i, names in enumerate(zip(*split, strict=False)) if len(set(names)) > 1), 0)
    parts = list(dict.fromkeys(".".join(names[: shared + 1]) for names in split))
    projectors = [part for part in parts if re.match(r"proj", part.rpartition(".")[2], re.I)]
    kept = [part for part in parts if not _SUSPECT.search(part)]
    if not projectors or not kept:
        return ""
    both = [projectors[-1], kept[0]]
    return (
        f"\n  FeatureGeometryMonitor(layer={both!r})  # self-supervised: what the loss uses, and the features you keep"
    )


def choose_by_declaration(root: torch.nn.Module, num_classes: int | None) -> Choice | None:
    """Rules (a) and (b): nothing needs to run.

    Raises:
        ConfigurationError: if the model declares several heads.
    """
    found = candidates(root)
    declared: dict[str, torch.nn.Module] = {}
    for module in root.modules():
        for getter in ("get_classifier", "get_output_embeddings"):
            declare: Callable[[], Any] | None = getattr(module, getter, None)
            if not callable(declare):
                continue
            try:
                head = declare()
            except Exception:  # a base class that declares the getter and raises: it names no head
                continue
            declared.update({name: m for name, m in found.items() if m is head})
    if len(declared) == 1:
        name, head = next(iter(declared.items()))
        return Choice(head, name, "the model declares it as its head")
    if declared:
        raise ambiguous(declared, "the model declares several")
    if num_classes is None:
        return None
    fitting = {n: m for n, m in found.items() if _outputs(m) == num_classes}
    if len(fitting) > 1:
        fitting = {n: m for n, m in fitting.items() if not _SUSPECT.search(n)}
    if len(fitting) != 1:
        return None
    name, head = next(iter(fitting.items()))
    if possible_head_outside(root, found, head) is not None:
        return None  # a bare matrix fits behind it (a cosine head?): the first batch has to tell
    return Choice(head, name, f"the only trainable layer with {num_classes} outputs")


def possible_head_outside(
    root: torch.nn.Module, found: dict[str, torch.nn.Module], head: torch.nn.Module
) -> Tensor | None:
    """Without a graph to read: a trainable matrix that no candidate owns and that fits behind the head's output."""
    owned = {id(p) for m in found.values() for p in m.parameters()}
    width = _outputs(head)
    for parameter in root.parameters():
        if id(parameter) not in owned and parameter.ndim == 2 and parameter.requires_grad and width in parameter.shape:
            return parameter
    return None


class Scout:
    """Rule (c): taps every candidate during the first batch and decides from what ran.

    What is caught on the way is kept up to a byte budget (the latest win), so that the first batch isn't lost and a
    large model doesn't run out of memory.
    """

    BUDGET_BYTES = 256 * 2**20

    def __init__(self, root: torch.nn.Module, in_graph: bool = True) -> None:
        self.root = root
        self.found = candidates(root)
        if not self.found:
            raise ambiguous(self.found, "the model has none that could be it")
        self.taps = {name: FeatureTap(module, name, "input", in_graph) for name, module in self.found.items()}

    def open(self) -> None:
        """Start watching a batch."""
        budget = Budget(self.BUDGET_BYTES)
        for tap in self.taps.values():
            tap.open(budget)

    def pause(self) -> None:
        """Stop watching while backward runs."""
        for tap in self.taps.values():
            tap.pause()

    def decide(self, loss: Tensor | None) -> Choice:
        """The head, from the order of running and, where there is one, the autograd graph of the loss.

        Raises:
            ConfigurationError: if nothing ran or anything contradicts the last candidate.
        """
        order = [name for _, name in sorted((at, name) for name, tap in self.taps.items() for at in tap.calls)]
        if not order:
            raise ambiguous(
                self.found, "none of them ran in the first batch (was the model compiled and called before?)"
            )
        last = order[-1]
        head = self.found[last]
        if _SUSPECT.search(last):
            raise ambiguous(self.found, f"{last!r} ran last, but its name suggests that it is not a classifier")
        if order.count(last) > 1:
            raise ambiguous(
                self.found,
                f"{last!r} ran last, {order.count(last)} times in one batch (several views, or several steps?)",
            )
        if loss is None and len(order) > 1:
            before = self.found[order[-2]]
            if _inputs(before) == _inputs(head) != _outputs(before):
                raise ambiguous(self.found, f"{order[-2]!r} and {last!r} seem to read the same features")
        other = rival_weight(loss, head) if loss is not None else None
        if other is None and (loss is None or not _reaches(loss, head)):
            other = possible_head_outside(self.root, self.found, head)
        if other is not None:
            path = next((n for n, p in self.root.named_parameters() if p is other), "a weight")
            owner = display_name(path.rpartition(".")[0])
            raise ambiguous(
                self.found,
                f"{last!r} ran last, but {display_name(path)!r} (in {owner!r}) may act after or beside it",
            )
        return Choice(
            head, last, "the last trainable layer that ran; no other weight acts on the loss after or beside it"
        )

    def remove(self, keep: FeatureTap | None = None) -> None:
        """Unhook all taps but one."""
        for tap in self.taps.values():
            if tap is not keep:
                tap.remove()


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


def _applies(node: Any, weights: set[int]) -> bool:
    """Whether a node multiplies by a head's weight: one of its inputs leads to it, and there is another input."""
    children: Sequence[Any] = [child for child, _ in node.next_functions if child is not None]
    return any(_leads_to(child, weights) for child in children) and not _leads_to(node, weights)


def _reaches(loss: Tensor, head: torch.nn.Module) -> bool:
    """Whether the loss's graph shows the head's weight at all (a compiled model's graph is opaque)."""
    weights = _weights(head)
    if loss.grad_fn is None:
        return False
    return any(id(getattr(n, "variable", None)) in weights for n in _walk(loss.grad_fn, lambda _: False))


def rival_weight(loss: Tensor, head: torch.nn.Module) -> Tensor | None:
    """A weight matrix that acts on the loss without passing through the head: a tied, cosine or second head.

    Returns None if there is none, or if the graph doesn't show the head's weight (compiled models).
    """
    if loss.grad_fn is None or not _reaches(loss, head):
        return None
    weights = _weights(head)
    for node in _walk(loss.grad_fn, lambda n: _applies(n, weights)):
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor) and variable.ndim >= 2 and id(variable) not in weights:
            return variable
    return None
