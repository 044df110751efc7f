"""What is said where the head can't be told: the candidates, why none is clear, and lines to paste that work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from lightning_featgeo import _compat
from lightning_featgeo.capture.taps import display_name
from lightning_featgeo.capture.widths import in_width, out_width
from lightning_featgeo.errors import ConfigurationError

_SUSPECT = re.compile(r"(^|[._])(proj\w*|pred\w*|teacher\w*|ema|momentum\w*|probe\w*|aux\w*)(?=$|[._\d])", re.I)


def is_suspect(path: str) -> bool:
    """Whether a path has a name that classifiers don't have: a projector, a predictor, a teacher, a probe."""
    return bool(_SUSPECT.search(path))


def is_auxiliary(path: str) -> bool:
    """Whether a path is named as a classifier beside the main one."""
    return bool(re.search(r"(^|[._])aux\w*(?=$|[._\d])", path, re.I))


def ambiguous(
    found: Mapping[str, torch.nn.Module], why: str, layers: Sequence[str] = (), heads: Sequence[str] | None = ()
) -> ConfigurationError:
    """The error for a head that can't be told: what was found, why it isn't enough, and the line to paste.

    Args:
        found: the candidates.
        why: in words.
        layers: modules whose output is worth watching, the best one last.
        heads: modules whose input is, the best one last; () for the last candidate, None for none.
    """
    lines = [f"  {name}: {in_width(m) or 0} → {out_width(m) or 0}" for name, m in found.items()]
    shown = lines if len(lines) <= 12 else [f"  … {len(lines) - 12} more", *lines[-12:]]
    listing = "\n".join(shown) if shown else "  (none: no trainable Linear or convolution)"
    last = [] if heads is None else list(found)[-1:]
    heads = heads or last
    both = _if_self_supervised([*found])
    pasted = [both] if both else []
    pasted += [f"  FeatureGeometryMonitor(head={name!r})   # features = its input" for name in reversed(heads)]
    pasted += [
        f"  FeatureGeometryMonitor(layer={name!r})  # features = its output"
        for name in dict.fromkeys([*reversed(layers), *last])
    ]
    return ConfigurationError(
        f"can't tell which module is the classifier head: {why}. Candidates:\n{listing}\nPaste one of:\n"
        + "\n".join(pasted or ['  FeatureGeometryMonitor(features="z")  # the step returns it'])
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
    return f"  FeatureGeometryMonitor(layer={both!r})  # self-supervised: what the loss uses, and the features you keep"


def silent_weight(name: str, found: Mapping[str, torch.nn.Module], outermost: Sequence[str]) -> ConfigurationError:
    """The error for a head whose weight is used by a function (a fused loss, ``F.linear``) and that is never called."""
    layers = [path for path in outermost if path != name and not path.startswith(name + ".")]
    hidden = [path for path in found if path != name]
    line = (layers or hidden or ["encoder"])[-1]
    ways, last = "a fused loss or F.linear", ""
    if _compat.compiles():
        ways = "a fused loss, F.linear, or a step that torch.compile has compiled"
        last = "\nOf a step that is compiled as a whole nothing is seen but what it returns: name that with features="
    return ConfigurationError(
        f"the loss reads {name + '.weight'!r} itself ({ways}): the head {name!r} is never called, so nothing shows "
        "what goes into it. Watch the output of the module before it. Paste:\n"
        f"  FeatureGeometryMonitor(layer={line!r})  # features = its output{last}"
    )


def last_children(root: torch.nn.Module) -> list[str]:
    """Path of the last of a model's own modules, of those that have weights where there are some."""
    own = {
        display_name(name): one for name, one in root.named_children() if not isinstance(one, torch.jit.ScriptModule)
    }
    return ([name for name, one in own.items() if next(one.parameters(), None) is not None] or list(own))[-1:]


def holder_of(root: torch.nn.Module, path: str) -> str:
    """The outermost module that holds this one and can be called itself."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        holder = root.get_submodule(".".join(parts[:count]))
        if not isinstance(holder, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            return display_name(".".join(parts[:count]))
    return path


def adapted(root: torch.nn.Module, paths: Sequence[str]) -> list[str]:
    """These layers, and for one that is summed with a frozen one as wide (LoRA's adapter) the module around both.

    What a trained adapter of the last layer has around it comes last: it is the classifier.
    """
    found = []
    for path in paths:
        parent = path.rpartition(".")[0]
        layer, around = root.get_submodule(path), root.get_submodule(parent) if parent else None
        chain = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict, type(None))
        others = [] if isinstance(around, chain) or around is None else [m for m in around.children() if m is not layer]
        wide = [m for m in others if out_width(m) == out_width(layer)]
        found.append(parent if any(not p.requires_grad for m in wide for p in m.parameters()) else path)
    first = found[:1] if found[:1] != list(paths[:1]) else []
    return list(dict.fromkeys([one for one in found if one not in first] + first))


def encoders(outermost: Sequence[str], order: Sequence[str], last: str) -> list[str]:
    """Modules before the one that holds the last candidate, the one just before it last."""

    def holds(path: str) -> bool:
        return last == path or last.startswith(path + ".")

    shared = last.split(".")[0]
    inside = [path.rpartition(".")[0] or path for path in dict.fromkeys(order)]
    apart = [path for path in dict.fromkeys([*outermost, *inside]) if path and path.split(".")[0] != shared]
    nested = [path for path in dict.fromkeys(inside) if path and path != shared and not holds(path)]
    means = [path for path in apart or nested if not re.search(r"var|std|sigma", path.rpartition(".")[2], re.I)]
    return means[-3:] or [name for name in dict.fromkeys(order) if name != last][-1:] or [last]
