"""What modules say of themselves: what they give, which axis is the batch, whose mask is whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_featgeo.capture.loss_graph import Reading
from lightning_featgeo.capture.refusals import is_suspect
from lightning_featgeo.capture.taps import FeatureTap, display_name
from lightning_featgeo.capture.widths import out_width
from lightning_featgeo.types import Tensor


def outputs(head: torch.nn.Module | None, reading: Reading | None) -> int | None:
    """How many numbers a head gives, where that is known and they are no reconstruction."""
    return None if reading is not None and reading.reconstructs else out_width(head)


def needed_directions(head: torch.nn.Module | None, reading: Reading | None) -> int | None:
    """As :meth:`LossGraph.needed_directions`, of a head's outputs."""
    count = outputs(head, reading)
    if count is None:
        return None
    return 1 if reading is not None and reading.regresses else max(count - 1, 1)


def is_classifier(taps: Sequence[FeatureTap], head: torch.nn.Module | None, reading: Reading | None) -> bool:
    """Whether what is watched goes into a classifier, as far as the head's name and the loss tell."""
    if head is None or not taps or taps[0].module is not head:
        return False
    return reading.classifies if reading is not None else not is_suspect(taps[0].name)


def predicts_tokens(root: torch.nn.Module, head: torch.nn.Module | None) -> bool:
    """Whether a head's classes are the vocabulary that a model reads: a language model's."""
    classes = out_width(head)
    return any(isinstance(m, torch.nn.Embedding) and m.num_embeddings == classes for m in root.modules())


def decodes(root: torch.nn.Module, path: str) -> bool | None:
    """Whether a layer belongs to the decoder of an encoder-decoder, as paths and transformers' configurations tell.

    None: nothing tells.
    """
    if "encoder" in path.split("."):
        return False
    configs = (getattr(module, "config", None) for module in root.modules())
    both = any(getattr(config, "is_encoder_decoder", False) is True for config in configs)
    return True if both else None


def virtual_tokens(root: torch.nn.Module) -> int:
    """How many tokens prompt tuning (peft) puts in front of a model's own: they are no part of any sample."""
    for module in root.modules():
        configs = getattr(module, "peft_config", None)
        active = getattr(module, "active_adapter", None)
        config = configs.get(active) if isinstance(configs, Mapping) and isinstance(active, str) else None
        count = getattr(config, "num_virtual_tokens", None)
        if isinstance(count, int) and "PREFIX" not in str(getattr(config, "peft_type", "")):
            return count  # of prefix tuning, they are in the keys and values only
    return 0


def without_virtual_tokens(features: Tensor, entered: Sequence[Tensor], count: int) -> Tensor:
    """(b, t, d) features of as many tokens as entered, where so many stand in front of them."""
    longer = features.ndim == 3 and any(
        one.ndim == 2 and one.shape[0] == features.shape[0] and one.shape[1] + count == features.shape[1]
        for one in entered
    )
    return features[:, count:] if count and longer else features


def time_first(tap: FeatureTap | None) -> bool:
    """Whether a watched layer's own output is (tokens, batch, dimensions), as torch's modules say of themselves."""
    if tap is None or tap.side != "output":
        return False
    of_torch = (torch.nn.RNNBase, torch.nn.MultiheadAttention, torch.nn.Transformer)
    inner = getattr(tap.module, "layers", None)
    module = inner[0].self_attn if inner and hasattr(inner[0], "self_attn") else tap.module
    return isinstance(module, of_torch) and getattr(module, "batch_first", True) is False


def may_be_time_first(root: torch.nn.Module) -> bool:
    """Whether any of torch's recurrent or attention modules in a model has the batch on its second axis."""
    of_torch = (torch.nn.RNNBase, torch.nn.MultiheadAttention)
    return any(isinstance(m, of_torch) and m.batch_first is False for m in root.modules())


def reads_last(root: torch.nn.Module, path: str) -> bool:
    """Whether a head classifies sequences by their last token, as transformers' decoders do."""
    modules = {display_name(name): module for name, module in root.named_modules()}
    return type(modules.get(path.rpartition(".")[0])).__name__.endswith("ForSequenceClassification")
