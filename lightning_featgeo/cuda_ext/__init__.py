"""The compiled ops behind the accumulators, and which backend runs them.

In this version every op runs as its plain-torch reference, on whatever device the features are on.
"""

from __future__ import annotations

import torch

from lightning_featgeo.cuda_ext.ops import SCHEMAS, knn

__all__ = ["backend_info", "knn"]


def backend_info() -> dict[str, str]:
    """Which implementation runs and why: ``{"backend", "reason", "torch", "ops"}``."""
    return {
        "backend": "reference",
        "reason": "this version ships no compiled kernels; plain torch runs on the features' device",
        "torch": torch.__version__,
        "ops": ", ".join(sorted(SCHEMAS)),
    }
