"""Sketches of windows' distributions as a history keeps them: in half precision, as text."""

from __future__ import annotations

import base64
import binascii

import numpy as np
import torch

from lightning_featgeo.types import Float, Tensor


def packed(sketch: Float[Tensor, "b m2"]) -> str:
    """8 KB for three bandwidths: their exponents and the dimension, then the means."""
    octaves, dim = ",".join(str(int(k)) for k in sketch[:, 0]), int(sketch[0, 1])
    return f"{octaves}/{dim}:" + base64.b64encode(sketch[:, 2:].cpu().numpy().astype("<f2").tobytes()).decode()


def unpacked(text: str) -> Float[Tensor, "b m2"]:
    """What :func:`packed` made.

    Raises:
        ValueError: if it is something else.
    """
    try:
        told, _, numbers = text.partition(":")
        octaves, _, dim = told.partition("/")
        header = np.array([[int(k), int(dim)] for k in octaves.split(",")], dtype="float64")
        means = np.frombuffer(base64.b64decode(numbers, validate=True), "<f2").reshape(len(header), -1)
        if not means.size or means.shape[1] % 2 or not np.isfinite(means).all():
            raise ValueError("no finite numbers")
    except (binascii.Error, ValueError, OverflowError) as error:
        raise ValueError(f"not a sketch: {error}") from None
    return torch.from_numpy(np.concatenate([header, means.astype("float64")], axis=1))
