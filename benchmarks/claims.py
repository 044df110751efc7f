"""What the literature claims of some signals, on small trainings of our own: whether it holds here.

    python benchmarks/claims.py [--out benchmarks/results/claims.md]

Digits (scikit-learn), a small ReLU network, Adam; five seeds each, mean and standard deviation. Signals are read in
eval mode by GeometryMetric, of training rows or of the held-out third, as the claim says.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from claims_of_depth import over_smoothing, readable_depth
from claims_of_mixtures import mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1]))

from lightning_featgeo import GeometryMetric
from tests._helpers.data import digits

SEEDS = 5
CUT = 1200
Values = dict[str, float]


def halves(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = x[order] / 16, y[order]
    return x[:CUT], y[:CUT], x[CUT:], y[CUT:]


def train(
    seed: int, labels: Tensor, rows: Tensor, epochs: int, at: tuple[int, ...],
    read: Callable[[nn.Module, nn.Linear], Values], width: int = 64, decay: float = 0.0,
) -> list[Values]:  # fmt: skip
    """The read values after each of the epochs ``at`` (0: before training)."""
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, width), nn.ReLU())
    head = nn.Linear(width, int(labels.max()) + 1)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=2e-3, weight_decay=decay)
    found = [read(body, head)] if 0 in at else []
    for epoch in range(1, epochs + 1):
        for part in torch.randperm(len(rows)).split(64):
            optimizer.zero_grad()
            cross_entropy(head(body(rows[part])), labels[part]).backward()
            optimizer.step()
        if epoch in at:
            found.append(read(body, head))
    return found


def of(
    signals: list[str], body: nn.Module, head: nn.Linear, x: Tensor, y: Tensor, reference: GeometryMetric | None = None
):
    """Values of one window."""
    metric = GeometryMetric(signals, num_classes=len(head.weight), head=head, has_reference=reference is not None)
    with torch.no_grad():
        metric.update(body(x), y)
    return metric.window(reference=reference).values


def kept(signals: list[str], body: nn.Module, head: nn.Linear, x: Tensor, y: Tensor) -> GeometryMetric:
    """A reference that keeps what the signals read of it."""
    metric = GeometryMetric("n_samples", num_classes=len(head.weight), head=head, has_reference=False, serve=signals)
    with torch.no_grad():
        metric.update(body(x), y)
    return metric


def told(runs: list[list[Values]], name: str) -> str:
    """Mean ± standard deviation over seeds, along the epochs."""
    values = np.array([[window[name] for window in run] for run in runs])
    return " → ".join(f"{m:.3g} ± {s:.1g}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True))


def clean_and_shuffled(
    signal: str, epochs: int, at: tuple[int, ...]
) -> tuple[str, str, list[list[Values]], list[list[Values]]]:
    clean, shuffled = [], []
    for seed in range(SEEDS):
        x, y, _, _ = halves(seed)
        wrong = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(100 + seed))]
        for labels, into in ((y, clean), (wrong, shuffled)):
            into.append(
                train(seed, labels, x, epochs, at, lambda b, h, x=x, labels=labels: of([signal], b, h, x, labels))
            )
    return told(clean, signal), told(shuffled, signal), clean, shuffled


def diffusion_information() -> list[str]:
    at = (0, 1, 5, 20, 60)
    clean, shuffled, a, b = clean_and_shuffled("dsmi", 60, at)
    rises = np.mean([run[-1]["dsmi"] > run[0]["dsmi"] for run in a])
    return [
        "`dsmi`",
        "rises on clean labels and stays flat on shuffled ones (Liao et al. 2023)",
        f"clean: {clean}; shuffled: {shuffled} (epochs {at}, training rows)",
        f"holds in its first half: on clean labels it rises in {rises:.0%} of runs. On shuffled ones it stays low, and "
        f"rises to {np.mean([run[-1]['dsmi'] for run in b]):.2f} as they are memorised",
    ]


def margins() -> list[str]:
    at = (0, 1, 5, 40)
    clean, shuffled, a, b = clean_and_shuffled("margin_density", 40, at)
    holds = np.mean([run[-1]["margin_density"] > 0 for run in a]), np.mean([run[-1]["margin_density"] < 0 for run in b])
    return [
        "`margin_density`",
        "boundaries of a network that generalises lie where few rows are; memorising puts them among rows",
        f"clean: {clean}; shuffled: {shuffled} (epochs {at}, training rows)",
        f"above 0 at the end in {holds[0]:.0%} of clean runs, below 0 in {holds[1]:.0%} of shuffled ones",
    ]


def outliers() -> list[str]:
    """Digits 8 and 9 are kept from training: outliers for a network that knows 0 to 7."""
    names = ["nc5", "energy_auroc", "knn_ood_auroc"]  # dead units leave no Gaussian
    at, runs = (0, 5, 60), []
    for seed in range(SEEDS):
        x, y, z, w = halves(seed)

        def read(body: nn.Module, head: nn.Linear, x=x, y=y, z=z, w=w) -> Values:
            reference = kept(names, body, head, x[y < 8], y[y < 8])
            return of(names, body, head, z[w >= 8], torch.full((int((w >= 8).sum()),), -100), reference)

        runs.append(train(seed, y[y < 8], x[y < 8], 60, at, read, decay=5e-2))
    falls = np.mean([run[-1]["nc5"] < run[0]["nc5"] for run in runs])
    areas = "; ".join(f"`{name}` {told(runs, name)}" for name in names[1:])
    return [
        "`nc5`; AUROCs",
        "outliers become orthogonal to the class means under collapse: `nc5` falls (Ammar et al. 2024)",
        f"`nc5` {told(runs, 'nc5')} (epochs {at}); {areas}",
        f"`nc5` falls in {falls:.0%} of runs, and stays far from 0: outliers are read as well by their distance",
    ]


def copies() -> list[str]:
    """A third of the validation rows are copies of training rows, with a little noise."""
    runs = []
    for seed in range(SEEDS):
        x, y, z, w = halves(seed)
        leaked = z.clone()
        leaked[::3] = x[: len(leaked[::3])] + 1e-3 * torch.randn(leaked[::3].shape)

        def read(body: nn.Module, head: nn.Linear, x=x, y=y, z=z, w=w, leaked=leaked) -> Values:
            reference = kept(["authenticity"], body, head, x, y)
            honest, with_copies = (of(["authenticity"], body, head, rows, w, reference) for rows in (z, leaked))
            return {"honest": honest["authenticity"], "leaked": with_copies["authenticity"]}

        runs.append(train(seed, y, x, 5, (5,), read))
    return [
        "`authenticity`",
        "copies of training rows lower it (Alaa et al. 2022)",
        f"honest {told(runs, 'honest')}; a third copied {told(runs, 'leaked')}",
        "holds" if all(run[0]["leaked"] < run[0]["honest"] - 0.1 for run in runs) else "does not hold in every run",
    ]


def class_dimensions() -> list[str]:
    names = ["class_rank", "class_variance_share", "own_class_cosine", "unit_redundancy", "outlier_max"]
    at, runs = (0, 5, 100), []
    for seed in range(SEEDS):
        x, y, _, _ = halves(seed)
        runs.append(train(seed, y, x, 100, at, lambda b, h, x=x, y=y: of(names, b, h, x, y), decay=1e-2))
    return [
        "`class_variance_share`, `own_class_cosine`, `class_rank`",
        "under neural collapse the variance goes between classes and rows point at their class mean",
        "; ".join(f"`{name}` {told(runs, name)}" for name in names) + f" (epochs {at}, training rows)",
        "holds" if all(run[-1]["class_variance_share"] > run[0]["class_variance_share"] for run in runs) else "mixed",
    ]


def simplex(classes: int, width: int, seed: int) -> Tensor:
    """(classes, width) unit vectors at equal angles, in random directions."""
    vertices = torch.eye(classes) - 1 / classes
    frame = torch.linalg.qr(torch.randn(width, classes, generator=torch.Generator().manual_seed(seed)))[0]
    return torch.nn.functional.normalize(vertices @ frame.T, dim=1)


def learnt_in_steps(seed: int, fixed: bool) -> Values:
    """Digits 0 to 5, then 0 to 7, then all: held-out rows of 0 to 5 after the first step and after the last."""
    names = ["compatibility", "compatible_pairs", "cka_drift", "knn_accuracy"]
    x, y, z, w = halves(seed)
    torch.manual_seed(seed)
    body, head = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)), nn.Linear(64, 10, bias=False)
    if fixed:
        head.weight = nn.Parameter(8 * simplex(10, 64, seed), requires_grad=False)
    metric = GeometryMetric(names, num_classes=10, head=head)
    optimizer = torch.optim.AdamW([p for p in [*body.parameters(), *head.parameters()] if p.requires_grad], lr=2e-3)
    found: Values = {}
    for classes in (6, 8, 10):
        rows, labels = x[y < classes], y[y < classes]
        for _ in range(15):
            for part in torch.randperm(len(rows)).split(64):
                optimizer.zero_grad()
                features = body(rows[part])
                features = torch.nn.functional.normalize(features, dim=1) if fixed else features
                cross_entropy(head(features), labels[part]).backward()
                optimizer.step()
        if classes != 8:  # the middle one is no window
            with torch.no_grad():
                metric.update(body(z[w < 6]), w[w < 6])
            found = metric.window().values
            metric.reset()
    return found


def compatible_heads() -> list[str]:
    free, fixed = ([[learnt_in_steps(seed, kind)] for seed in range(SEEDS)] for kind in (False, True))
    above = np.mean([b[0]["compatibility"] > a[0]["compatibility"] for a, b in zip(free, fixed, strict=True)])
    names = ("compatibility", "compatible_pairs", "cka_drift", "knn_accuracy")
    return [
        "`compatibility`, `compatible_pairs`",
        "a fixed simplex head keeps features compatible while classes are added (Biondi et al. 2023, arXiv 2111.07632)",
        "; ".join(f"`{name}` free {told(free, name)}, fixed {told(fixed, name)}" for name in names)
        + " (after classes 0–5 against after all, held-out rows of 0–5)",
        f"`compatibility` is above the free head's in {above:.0%} of runs",
    ]


def units_and_subspaces() -> list[str]:
    """Two networks of different seeds, and one network turned in its own space."""
    names, runs = ["unit_match", "cka_drift", "procrustes_drift"], []
    for seed in range(SEEDS):
        x, y, z, w = halves(seed)
        rows: list[Tensor] = []
        for other in (seed, 50 + seed):
            train(other, y, x, 20, (20,), lambda b, h, z=z, rows=rows: rows.append(b(z).detach()) or {})
        turned = rows[0].double() @ torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))[0]
        found: Values = {}
        for kind, second in (("seeds", rows[1]), ("turned", turned)):
            metric = GeometryMetric(names, num_classes=10)
            for part in (rows[0], second):
                metric.reset()
                metric.update(part.double(), w)
                values = metric.window().values
            found |= {f"{name} {kind}": values[name] for name in names}
        runs.append([found])
    return [
        "`unit_match`",
        "units differ where the subspace is the same (Li et al. 2016): low although CKA sees no difference",
        "; ".join(f"{kind}: " + ", ".join(f"`{name}` {told(runs, f'{name} {kind}')}" for name in names)
                  for kind in ("turned", "seeds")) + " (held-out rows; another seed, and one network turned)",
        f"holds: below 1 in all runs (by {1 - np.mean([run[0]['unit_match turned'] for run in runs]):.0%} in the "
        "same subspace), so a curve of units is none of subspaces"
        if all(run[0][f"unit_match {kind}"] < 0.9 and run[0]["cka_drift turned"] < 1e-6
               for run in runs for kind in ("turned", "seeds"))
        else "does not hold in every run",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "# Claims of the literature, tried here",
        "",
        f"{' '.join((__doc__ or '').split('Digits')[1].split()).join(('Digits ', ''))} torch {torch.__version__}, "
        f"{platform.machine()} CPU. Command: `python benchmarks/claims.py`",
        "",
        "| signal | claim | measured | came out |",
        "|---|---|---|---|",
    ]
    claims = (
        diffusion_information, margins, outliers, copies, class_dimensions, compatible_heads, units_and_subspaces,
    )  # fmt: skip
    for claim in claims:
        print(f"{claim.__name__} …", file=sys.stderr, flush=True)
        lines.append("| " + " | ".join(claim()) + " |")
    for of_depth in (readable_depth, over_smoothing, mixup):
        print(f"{of_depth.__name__} …", file=sys.stderr, flush=True)
        lines.append("| " + " | ".join(of_depth([halves(seed) for seed in range(SEEDS)])) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
