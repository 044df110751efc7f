"""Which module makes the embedding that a loss compares with itself: contrastive, self-supervised and metric learning.

No classifier scores classes there, so a head's input is not what is meant. What is: the output that goes into the loss
with no weight in between, where the loss takes its norm or multiplies it by itself (cosines, distances, covariances).
A predictor's input counts instead of its output, and a projector's input is watched beside what it puts out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.capture.trace import PREDICTOR, PROJECTOR, Made, Source, Trace
from lightning_featgeo.types import Tensor

_NORMS = re.compile(r"VectorNorm|^NormBackward|Cdist|EuclideanDist|CosineSimilarity|PairwiseDistance")
_PRODUCTS = re.compile(r"^(Mm|Bmm|Dot|Mv|Addmm|Baddbmm)Backward")
_MEANS = re.compile(r"mean|^mu|mu$|loc|quant|latent", re.I)
_SPREADS = re.compile(r"var|std|sigma|scale", re.I)
_SCORES = re.compile(r"NllLoss|CrossEntropy|MultiMargin|MultilabelMargin|MseLoss|L1Loss|SmoothL1|HuberLoss")
_DEPTH = 200  # nodes that are looked through between two modules
COMPARED = "what the loss compares"


@dataclass(frozen=True)
class Embedding:
    """What is watched: paths as ``layer=`` takes them, and each one's calls in this batch (order, features or None)."""

    layers: list[str]
    calls: list[list[tuple[int, Tensor | None]]]
    why: str = COMPARED


def find_embedding(loss: Tensor | None, trace: Trace | None, root: torch.nn.Module) -> Embedding | None:
    """The embedding that a loss compares with itself; None where the graph doesn't show exactly one.

    Args:
        loss: of the step.
        trace: of the modules' calls in it.
        root: the model.
    """
    if loss is None or trace is None or not isinstance(loss, torch.Tensor) or loss.grad_fn is None:
        return None
    for made in (Made(trace, root, True), Made(trace, root, False)):
        between, entries = _into(loss, made)
        scored = _scored(between, entries)
        beside = {entry for entry in scored if not made.is_trained_through(entry)}  # a probe on detached features
        entries -= beside
        if entries and scored == beside and _compares(between, entries):
            chosen = made.alone(entries)
            if chosen is not None:
                return _with_backbone(chosen, made)
    return None


def _with_backbone(chosen: Source, made: Made) -> Embedding:
    if PREDICTOR.match(made.name(chosen)):
        before = made.before(chosen)
        chosen = before if before is not None else chosen
    layers = [chosen]
    if PROJECTOR.search(made.name(chosen)):
        backbone = made.before(chosen)
        layers += [backbone] if backbone is not None else []
    return Embedding([made.shown(one) for one in layers], [made.calls(one) for one in layers])


def find_latent(loss: Tensor | None, trace: Trace | None, root: torch.nn.Module) -> Embedding | list[str]:
    """What the loss reads before a decoder, as a VAE's mean and variance: the mean, if that is what it is called.

    Args:
        loss, trace, root: as for :func:`find_embedding`.

    Returns:
        Otherwise paths of modules whose output it may be, the likeliest last.
    """
    if loss is None or trace is None or loss.grad_fn is None:
        return []
    made = Made(trace, root, False)
    _, entries = _into(loss, made, past_weights=True)
    behind = {entry: _reached(entry, entries) for entry in entries}
    first = [entry for entry in entries if not behind[entry] and any(entry in others for others in behind.values())]
    sources = [source for entry in first if (source := made.innermost(entry)) is not None]
    found = {source: made.path(source) for source in sorted(sources, key=made.began)}
    kept = [source for source, path in found.items() if not _SPREADS.search(path.rpartition(".")[2])]
    means = [source for source in kept if _MEANS.search(found[source].rpartition(".")[2])]
    has_spread = any(_SPREADS.search(made.last_name(source)) for entry in first for source in made.by_node[entry])
    if len(means) == 1 and has_spread:
        return Embedding([found[means[0]]], [made.calls(means[0])], "the mean of a latent distribution")
    return [found[source] for source in [*(s for s in kept if s not in means), *means]]


def _into(loss: Tensor, made: Made, past_weights: bool = False) -> tuple[list[Any], set[Any]]:
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
        if isinstance(variable, torch.Tensor) and variable.ndim > 1 and not past_weights:
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


def _reached(node: Any, others: set[Any]) -> set[Any]:
    """Which of these nodes lie before one."""
    seen, waiting, found = {node}, [node], set()
    while waiting:
        for child, _ in waiting.pop().next_functions:
            if child in others and child is not node:
                found.add(child)
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return found


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
