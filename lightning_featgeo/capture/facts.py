"""What modules say of themselves: which axis is the batch, whose mask is whose, which token is read."""

from __future__ import annotations

import torch

from lightning_featgeo.capture.taps import FeatureTap, display_name


def decodes(root: torch.nn.Module, path: str) -> bool | None:
    """Whether a layer belongs to the decoder of an encoder-decoder, as paths and transformers' configurations tell.

    None: nothing tells.
    """
    if "encoder" in path.split("."):
        return False
    configs = (getattr(module, "config", None) for module in root.modules())
    both = any(getattr(config, "is_encoder_decoder", False) is True for config in configs)
    return True if both else None


def time_first(tap: FeatureTap | None) -> bool:
    """Whether a watched layer's own output is (tokens, batch, dimensions), as torch's modules say of themselves."""
    if tap is None or tap.side != "output":
        return False
    of_torch = (torch.nn.RNNBase, torch.nn.MultiheadAttention, torch.nn.Transformer)
    inner = getattr(tap.module, "layers", None)
    module = inner[0].self_attn if inner and hasattr(inner[0], "self_attn") else tap.module
    return isinstance(module, of_torch) and getattr(module, "batch_first", True) is False


def reads_last(root: torch.nn.Module, path: str) -> bool:
    """Whether a head classifies sequences by their last token, as transformers' decoders do."""
    modules = {display_name(name): module for name, module in root.named_modules()}
    return type(modules.get(path.rpartition(".")[0])).__name__.endswith("ForSequenceClassification")
