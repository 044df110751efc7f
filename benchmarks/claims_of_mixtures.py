"""What mixup does to features, on small trainings: part of ``claims.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from lightning_featgeo import GeometryMetric

EPOCHS = (0, 5, 60, 200)
SIGNALS = ("mixed_weight_cosine", "mixed_residual", "mixed_order")


def mixed(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and weights of classes, each mixed with another by a share of its own."""
    other, share = torch.randperm(len(x), generator=generator), torch.rand(len(x), 1, generator=generator)
    t = one_hot(y, 10).float()
    return share * x + (1 - share) * x[other], share * t + (1 - share) * t[other]


def mixup(runs: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[str]:
    """Trained with mixup, and without; each read on mixed training rows."""
    found: dict[bool, list[list[dict[str, float]]]] = {True: [], False: []}
    for seed, (x, y, _, _) in enumerate(runs):
        for mixes in (True, False):
            found[mixes].append(_trained(seed, x, y, mixes))
    parts = []
    for mixes, name in ((True, "with mixup"), (False, "without")):
        for signal in SIGNALS:
            values = np.array([[window[signal] for window in run] for run in found[mixes]])
            told = " → ".join(f"{m:.3g} ± {s:.1g}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True))
            parts.append(f"{name}: `{signal}` {told}")
    last = {mixes: [run[-1] for run in found[mixes]] for mixes in found}
    pairs = list(zip(last[True], last[False], strict=True))
    plane, order = (
        np.mean([sign * (a[name] - b[name]) > 0 for a, b in pairs])
        for name, sign in (("mixed_residual", -1), ("mixed_order", 1))
    )
    return [
        "`mixed_weight_cosine`, `mixed_residual`, `mixed_order`",
        "with mixup, mixtures of one class lie along its weight, those of two in the plane of both, in order of their "
        "shares (Fisher et al. 2024)",
        f"{'; '.join(parts)} (epochs {EPOCHS}, mixed training rows)",
        f"nearer to the plane than without mixup in {plane:.0%} of runs, more in order in {order:.0%}",
    ]


def _trained(seed: int, x: Tensor, y: Tensor, mixes: bool) -> list[dict[str, float]]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())
    head = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=2e-3, weight_decay=1e-2)
    shown, weights = mixed(x, y, torch.Generator().manual_seed(1000 + seed))
    found = []
    for epoch in range(max(EPOCHS) + 1):
        if epoch in EPOCHS:
            metric = GeometryMetric(["mixed"], head=head)
            with torch.no_grad():
                metric.update(body(shown), mixtures=weights)
            found.append(dict(metric.window().values))
        for part in torch.randperm(len(x), generator=generator).split(64):
            rows, target = mixed(x[part], y[part], generator) if mixes else (x[part], one_hot(y[part], 10).float())
            optimizer.zero_grad()
            cross_entropy(head(body(rows)), target).backward()
            optimizer.step()
    return found
