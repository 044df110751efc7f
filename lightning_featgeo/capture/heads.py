"""Which module is the head, when nobody says so. Its input is the penultimate features.

"The last Linear that ran" is wrong in silence for tied heads, cosine heads, two heads and self-supervised models. So:
(a) what the model itself declares (``get_classifier``, ``get_output_embeddings``); (b) the only trainable candidate
with ``num_classes`` outputs; (c) of those that ran in the first batch and that the loss reaches, the last one, if
nothing contradicts it: its name, a second call, another weight that acts on the loss after or beside it, a loss that
compares its output with the input. (a) and (b) hold if that module runs. Otherwise an error with the line to paste.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lightning_featgeo.capture.embedding import Embedding, find_embedding, find_latent
from lightning_featgeo.capture.loss_graph import LossGraph
from lightning_featgeo.capture.refusals import (
    adapted,
    ambiguous,
    encoders,
    holder_of,
    is_auxiliary,
    is_suspect,
    last_children,
    silent_weight,
)
from lightning_featgeo.capture.stash import Budget
from lightning_featgeo.capture.taps import FeatureTap, display_name
from lightning_featgeo.capture.trace import Trace
from lightning_featgeo.capture.widths import in_width, out_width
from lightning_featgeo.types import Tensor


@dataclass(frozen=True)
class Choice:
    """The chosen module, its path, and why."""

    module: torch.nn.Module
    name: str
    why: str


_CONVOLUTIONS = (
    torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d,
    torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d,
)  # fmt: skip
_UNHOOKED = (torch.nn.Embedding, torch.nn.ParameterList, torch.jit.ScriptModule)  # or whose call is no head's


def _is_candidate(module: torch.nn.Module) -> bool:
    if isinstance(module, _CONVOLUTIONS):
        shape = module.groups == 1
    else:
        adapter = isinstance(getattr(module, "base_layer", None), torch.nn.Linear)
        shape = isinstance(module, torch.nn.Linear) or adapter
    return shape and any(p.requires_grad for p in module.parameters())


def _is_pointwise(module: torch.nn.Module) -> bool:
    """Whether it reads one place of its input at a time: Linear, adapters and 1×1 convolutions."""
    kernel = getattr(module, "kernel_size", (1,))
    return not isinstance(module, _CONVOLUTIONS) or all(size == 1 for size in kernel)


def candidates(root: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Trainable Linear modules (adapters as a whole) and convolutions, by displayed path."""
    found: dict[str, torch.nn.Module] = {}
    for path, module in root.named_modules():
        name = display_name(path)
        if name and _is_candidate(module) and not any(name.startswith(outer + ".") for outer in found):
            found[name] = module
    return found


def declared_heads(root: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """What the model declares as its head (``get_classifier``, ``get_output_embeddings``), trainable or not."""
    paths = {id(module): display_name(path) for path, module in root.named_modules() if path}
    found: dict[str, torch.nn.Module] = {}
    for module in root.modules():
        for getter in ("get_classifier", "get_output_embeddings"):
            declare: Callable[[], Any] | None = getattr(module, getter, None)
            if not callable(declare):
                continue
            try:
                head = declare()
            except Exception:  # a base class that declares the getter and raises: it names no head
                continue
            if isinstance(head, (tuple, list)) and head:
                head = head[0]  # the classifier, before the heads that learn from a teacher
            if isinstance(head, torch.nn.Module) and id(head) in paths and out_width(head):
                found[paths[id(head)]] = head
    return found


def choose_by_declaration(root: torch.nn.Module, num_classes: int | None) -> Choice | None:
    """Rules (a) and (b): nothing needs to run. None where the first batch has to tell."""
    found, declared = candidates(root), declared_heads(root)
    if len(declared) == 1:
        name, head = next(iter(declared.items()))
        return Choice(head, name, "the model declares it as its head")
    if declared or num_classes is None:
        return None
    fitting = {n: m for n, m in found.items() if out_width(m) == num_classes and _is_pointwise(m)}
    fitting = fitting or {n: m for n, m in found.items() if out_width(m) == num_classes}
    if len(fitting) > 1:
        fitting = {n: m for n, m in fitting.items() if not is_suspect(n)}
    frozen = [m for m in root.modules() if isinstance(m, torch.nn.Linear) and out_width(m) == num_classes]
    if len(fitting) != 1 or any(not p.requires_grad for m in frozen for p in m.parameters()):
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
    width = out_width(head)
    for parameter in root.parameters():
        if id(parameter) not in owned and parameter.ndim == 2 and parameter.requires_grad and width in parameter.shape:
            return parameter
    return None


class Scout:
    """Rule (c): taps every candidate during the first batch and decides from what ran.

    What is caught on the way is kept up to a byte budget (the latest win), so that the first batch isn't lost and a
    large model doesn't run out of memory.

    Args:
        root: the model.
        in_graph: see ``stash``.
        preferred: a head that was chosen before anything ran; it is kept if it runs.
    """

    BUDGET_BYTES = 256 * 2**20

    def __init__(self, root: torch.nn.Module, in_graph: bool = True, preferred: Choice | None = None) -> None:
        self.root, self.preferred = root, preferred
        self.declared = declared_heads(root)
        self.found = {**candidates(root), **self.declared}
        if preferred is not None:
            self.found.pop(preferred.name, None)
        elif not self.found:
            raise ambiguous(self.found, "the model has none that could be it", *[last_children(root)] * 2)
        self.taps = {name: FeatureTap(module, name, "input", in_graph) for name, module in self.found.items()}

    def open(self, is_open: Callable[[], bool] | None = None) -> None:
        """Start watching a batch."""
        budget = Budget(self.BUDGET_BYTES)
        for tap in self.taps.values():
            tap.open(budget, is_open)

    def is_stale(self) -> bool:
        """Whether any of the candidates is no part of the model any more."""
        there = {id(module) for module in self.root.modules()}
        return any(id(module) not in there for module in self.found.values())

    @property
    def ran(self) -> bool:
        """Whether any candidate has run in this batch."""
        return any(tap.calls for tap in self.taps.values())

    def decide(
        self,
        loss: Tensor | None,
        inputs: Sequence[Tensor] = (),
        outermost: Sequence[str] = (),
        trace: Trace | None = None,
    ) -> Choice | Embedding:
        """The head, or what the loss compares instead: from the order of running, and from the loss's autograd graph.

        Args:
            loss: of the step; None: nothing is trained.
            inputs: the batch's tensors, to tell a reconstruction.
            outermost: modules that the step itself called, in order, for the lines to paste.
            trace: of all modules' calls, to find an embedding.

        Raises:
            ConfigurationError: if nothing ran or anything contradicts the last candidate.
        """
        graph = LossGraph(loss)
        if graph.is_of_nothing(self.root):
            raise ambiguous(
                self.found,
                "the step's loss is a constant: it is trained through no layer (does the model only collect features?)",
                list(outermost)[-1:] or last_children(self.root),
                None,
            )
        heads = {name: tap for name, tap in self.taps.items() if tap.calls}
        self._refuse_silent_weights(graph, outermost)
        if graph.visible(self.found.values()):
            heads = {name: tap for name, tap in heads.items() if graph.reaches(self.found[name], tap.calls)} or heads
            trained = {name: tap for name, tap in heads.items() if any(call.needs_gradient for call in tap.calls)}
            heads = trained or heads  # beside what is trained through, a probe on detached features is no head
        declared = [name for name in heads if name in self.declared]
        if len(declared) == 1:
            return Choice(self.found[declared[0]], declared[0], "the model declares it as its head")
        order = [name for _, name in sorted((call.order, name) for name, tap in heads.items() for call in tap.calls)]
        if not order:
            raise ambiguous(
                self.found,
                "none of them ran in the first batches (was the model compiled and called before? Compile it anew)",
                list(outermost)[-1:] or last_children(self.root),
                None,
            )
        scored = [name for name in dict.fromkeys(order) if graph.reading(self.found[name], inputs).classifies]
        if len(scored) > 1:  # beside an auxiliary classifier, the other one
            scored = [name for name in scored if not is_auxiliary(name)] or scored
        if len(scored) == 1:
            return Choice(self.found[scored[0]], scored[0], "the only one whose output the loss scores against classes")
        if scored:
            scored.sort(key=lambda name: (graph.depth(heads[name].calls), order.index(name)))
            raise ambiguous(self.found, f"the loss scores the outputs of {len(scored)} layers", (), scored)
        embedding = find_embedding(loss, trace, self.root, inputs)
        if isinstance(embedding, Embedding):
            return embedding
        last = order[-1]
        head = self.found[last]
        reads = graph.reading(head, inputs)
        latent = find_latent(loss, trace, self.root, inputs)
        if isinstance(latent, Embedding):
            return latent
        if embedding and not reads.reconstructs:
            raise ambiguous(self.found, embedding, outermost)
        self._refuse_frozen(graph.readouts(head), last, trace, outermost)
        if reads.reconstructs:
            raise ambiguous(
                self.found,
                f"{last!r} ran last, and the loss compares its output with the batch's own input (an autoencoder or "
                "denoiser?): its input is a hidden layer of the decoder. The embedding is what the encoder puts out",
                latent or encoders(outermost, order, last),
                None,
            )
        if is_suspect(last) and not reads.regresses:
            why = "its name suggests that it is not a classifier (self-supervised? then none is)"
            raise ambiguous(self.found, f"{last!r} ran last, but {why}")
        if order.count(last) > 1:
            why = f"{last!r} ran last, {order.count(last)} times in one batch (several views, or several steps?)"
            raise ambiguous(self.found, why)
        if loss is None and len(set(order)) > 1:
            other_name = [name for name in order if name != last][-1]
            before = self.found[other_name]
            if in_width(before) == in_width(head) != out_width(before):
                raise ambiguous(self.found, f"{other_name!r} and {last!r} seem to read the same features")
        other = graph.rival_weight(head)
        if other is None and not graph.reads_weight(head):
            other = possible_head_outside(self.root, self.found, head)
        if other is not None:
            path = next((n for n, p in self.root.named_parameters() if p is other), "a weight")
            owner = display_name(path.rpartition(".")[0])
            tap = self.taps.get(owner)
            if tap is not None and not tap.calls and graph.reads_weight(self.found[owner]):
                raise silent_weight(owner, self.found, outermost)  # a function applies it
            called = bool(owner) and not isinstance(self.root.get_submodule(path.rpartition(".")[0]), _UNHOOKED)
            of = f"in {owner!r}" if owner else "of the model itself"
            matrix = not called and other.ndim > 1  # a matrix that no module applies: it may well be the classifier
            raise ambiguous(
                self.found,
                f"{last!r} ran last, but {display_name(path)!r} ({of}) may act after or beside it",
                latent or ([] if called and owner in self.found else outermost or [holder_of(self.root, last)]),
                None if matrix else adapted(self.root, [last, owner] if called and owner != last else [last]),
            )
        return Choice(
            head, last, "the last trainable layer that ran; no other weight acts on the loss after or beside it"
        )

    def _refuse_frozen(self, readouts: Sequence[Any], last: str, trace: Trace | None, outermost: Sequence[str]) -> None:
        """Behind the last layer that is trained, the loss reads weights that are not: that head is no candidate."""
        if not readouts:
            return
        paths = {id(module): display_name(path) for path, module in self.root.named_modules() if path}
        calls = [] if trace is None else trace.calls
        frozen = [c.module for c in calls if any(g.node in readouts for g in c.gave) and out_width(c.module)]
        heads = [path for module in frozen if (path := paths.get(id(module)))]
        why = f"{last!r} is the last layer that is trained, and the loss reads it through weights that are not"
        raise ambiguous(
            self.found, why, () if heads else [*outermost, last], list(dict.fromkeys(heads)) or [last]
        )  # a matrix that is no module: what it reads may be a head's output, or features

    def _refuse_silent_weights(self, graph: LossGraph, outermost: Sequence[str]) -> None:
        """A declared head whose weight the loss reads, and that is never called, shows nothing of what goes in."""
        chosen = {self.preferred.name: self.preferred.module} if self.preferred is not None else {}
        for name, module in {**self.declared, **chosen}.items():
            tap = self.taps.get(name)
            if (tap is None or not tap.calls) and graph.reads_weight(module):
                raise silent_weight(name, self.found, outermost)

    def remove(self, keep: FeatureTap | None = None) -> None:
        """Unhook all taps but one."""
        for tap in self.taps.values():
            if tap is not keep:
                tap.remove()
