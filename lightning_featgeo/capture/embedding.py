"""Which module makes the embedding that a loss compares with itself: contrastive, self-supervised and metric learning.

No classifier scores classes there, so a head's input is not what is meant. What is: the output that goes into the loss
with no weight in between, where the loss takes its norm or multiplies it by itself (cosines, distances, covariances).
A predictor's input counts instead of its output, and a projector's input is watched beside what it puts out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.capture.comparison import compare
from lightning_featgeo.capture.trace import PREDICTOR, PROJECTOR, Made, Source, Trace
from lightning_featgeo.types import Tensor

_MEANS = re.compile(r"mean|^mu|mu$|loc|quant|latent", re.I)
_SPREADS = re.compile(r"var|std|sigma|scale", re.I)
_MOST = 64  # outputs that go into a loss, of which something can be told in time
COMPARED = "what the loss compares"


@dataclass(frozen=True)
class Embedding:
    """What is watched: paths as ``layer=`` takes them, and each one's calls in this batch (order, features or None)."""

    layers: list[str]
    calls: list[list[tuple[int, Tensor | None]]]
    why: str = COMPARED


def find_embedding(
    loss: Tensor | None, trace: Trace | None, root: torch.nn.Module, inputs: Sequence[Tensor] = ()
) -> Embedding | str:
    """The embedding that a loss compares with itself; or why there may be one that can't be told, "" for none.

    Args:
        loss: of the step.
        trace: of the modules' calls in it.
        root: the model.
        inputs: the batch's tensors: what is compared with them is a prediction.
    """
    if loss is None or trace is None or not isinstance(loss, torch.Tensor) or loss.grad_fn is None:
        return ""
    doubt = ""
    for made in (Made(trace, root, True), Made(trace, root, False)):
        between, entries = _into(loss, made)
        if not entries or len(entries) > _MOST:
            continue
        found = compare(between, entries, trace, inputs)
        beside = {entry for entry in found.predictions if not made.is_trained_through(entry)}  # a probe, detached
        if found.with_itself & (found.predictions - beside):
            doubt = "the loss compares outputs with each other, and with something else"
        elif found.unknown and found.normalised and not found.with_itself:
            doubt = "the loss multiplies an output by a matrix of its own (a queue, weights of classes?)"
        if not found.with_itself or found.predictions != beside or entries == beside:
            continue
        chosen = made.alone(entries - beside)
        if chosen is not None:
            return _with_backbone(chosen, made, found.partners)
    return doubt


def _with_backbone(chosen: Source, made: Made, partners: Sequence[torch.nn.Module]) -> Embedding:
    before, makers = made.before(chosen)
    if before is not None and (
        PREDICTOR.search(made.name(chosen)) or any(_is_twin(m, p) for m in makers for p in partners)
    ):
        chosen = before  # a predictor: what it predicts is what others give where it has its input
        before, _ = made.before(chosen)
    layers = [chosen] if before is None or not PROJECTOR.search(made.name(chosen)) else [chosen, before]
    return Embedding([made.shown(one) for one in layers], [made.calls(one) for one in layers])


def _is_twin(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules are the same, or one is a copy of the other, whatever its weights are now."""
    shapes = ([tuple(p.shape) for p in one.parameters()] for one in (module, other))
    return module is other or (type(module) is type(other) and next(shapes) == next(shapes) != [])


def find_latent(
    loss: Tensor | None, trace: Trace | None, root: torch.nn.Module, inputs: Sequence[Tensor] = ()
) -> Embedding | list[str]:
    """What the loss reads before a decoder, as a VAE's mean and variance: the mean, if that is what it is called.

    Args:
        loss, trace, root, inputs: as for :func:`find_embedding`.

    Returns:
        Otherwise paths of modules whose output it may be, the likeliest last.
    """
    if loss is None or trace is None or loss.grad_fn is None:
        return []
    made = Made(trace, root, False)
    _, entries = _into(loss, made, past_weights=True)
    if len(entries) > _MOST:
        return []
    behind = {entry: _reached(entry, entries) for entry in entries}
    first = [entry for entry in entries if not behind[entry] and any(entry in others for others in behind.values())]
    sources = [source for entry in first if (source := made.innermost(entry)) is not None]
    found = {source: made.path(source) for source in sorted(sources, key=made.began)}
    kept = [source for source, path in found.items() if not _SPREADS.search(path.rpartition(".")[2])]
    given = inputs[0].numel() // max(len(inputs[0]), 1) if inputs and inputs[0].ndim else 0
    means = [
        source for source in kept
        if _MEANS.search(found[source].rpartition(".")[2]) and made.width(source) != given  # a decoder's own mean is
    ]  # fmt: skip
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
