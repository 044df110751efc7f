"""Streaming scatter against one matrix product of the same shape, and against the peers: time and accuracy.

    python benchmarks/covariance.py [--device cuda] [--out benchmarks/results/covariance.md]

Peers: torchmetrics' FID update (raw float64 products), and batch covariances by ``torch.cov`` merged by Chan's formula.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measuring import interleaved, publish, table

from lightning_featgeo.cuda_ext import ops
from lightning_featgeo.metrics.accumulators.moments import MomentsAccumulator
from lightning_featgeo.metrics.functional import neural_collapse
from lightning_featgeo.rows.rows import build_rows

State = tuple[torch.Tensor, ...]


def state(groups: int, d: int, device: str) -> State:
    f64 = {"dtype": torch.float64, "device": device}
    return (
        torch.zeros(groups, d, device=device), torch.zeros(groups, **f64), torch.zeros(groups, d, **f64),
        torch.zeros(groups, **f64), torch.zeros(1, d, d, **f64),
    )  # fmt: skip


def fid_update(x: torch.Tensor, total: torch.Tensor, products: torch.Tensor) -> None:
    wide = x.double()
    total += wide.sum(dim=0)
    products += wide.T.mm(wide)


def chan_update(x: torch.Tensor, n: list[int], mean: torch.Tensor, scatter: torch.Tensor) -> None:
    m, b = len(x), x.mean(dim=0)
    delta = b - mean
    scatter += torch.cov(x.T, correction=0) * m + torch.outer(delta, delta) * (n[0] * m / (n[0] + m))
    mean += delta * (m / (n[0] + m))
    n[0] += m


def timings(device: str, repeats: int, raw: dict) -> str:
    rows = []
    for d in (512, 2048):
        for batch in (256, 1024, 4096):
            torch.manual_seed(0)
            x, out = torch.randn(batch, d, device=device), torch.empty(d, d, device=device)
            f64 = {"dtype": torch.float64, "device": device}
            total, products = torch.zeros(d, **f64), torch.zeros(d, d, **f64)
            mean, scatter, n = torch.zeros(d, device=device), torch.zeros(d, d, device=device), [0]
            cases = {
                "product": lambda x=x, out=out: torch.mm(x.T, x, out=out),
                "FID style": lambda x=x, t=total, p=products: fid_update(x, t, p),
                "cov + Chan": lambda x=x, n=n, m=mean, s=scatter: chan_update(x, n, m, s),
            }
            for classes in (1, 10, 1000):
                ids = torch.randint(0, classes, (batch,), device=device)
                own = state(classes, d, device)
                ops.scatter_(x, ids, *own, classes)  # shifts are set once
                cases[f"C = {classes}"] = lambda x=x, i=ids, o=own, c=classes: ops.scatter_(x, i, *o, c)
            times = interleaved(cases, repeats, device)
            raw[f"{batch} x {d}"] = times
            base = times["product"]
            rows.append(
                [
                    f"{batch} × {d}",
                    f"{base * 1e3:.2f} ms",
                    *(f"{t / base:.2f}" for k, t in times.items() if k != "product"),
                ]
            )
    heads = ["batch", "one fp32 product", *(k for k in times if k != "product")]
    return "Times over that of one fp32 product XᵀX; our columns include the per-class sums.\n\n" + table(heads, rows)


def accuracy(device: str, raw: dict) -> str:
    torch.manual_seed(0)
    n, d, rows = 51_200, 128, []
    for offset in (0.0, 1e3):
        x = (torch.randn(n, d) + offset).to(device)
        truth = torch.cov(x.cpu().double().T, correction=0)
        norm = torch.linalg.matrix_norm(truth)
        found = {}
        accumulator = MomentsAccumulator(d, device=device)
        for part in x.split(512):
            accumulator.update(build_rows(part))
        moments = accumulator.compute()
        found["ours"] = moments.scatter.cpu() / moments.count
        total, products = (torch.zeros(s, dtype=torch.float64, device=device) for s in ((d,), (d, d)))
        raw32 = torch.zeros(d, d, device=device)
        mean, scatter, count = torch.zeros(d, device=device), torch.zeros(d, d, device=device), [0]
        for part in x.split(512):
            fid_update(part, total, products)
            chan_update(part, count, mean, scatter)
            raw32 += part.T @ part
        found["FID style (float64)"] = (products / n - torch.outer(total / n, total / n)).cpu()
        found["cov + Chan (fp32)"] = (scatter / n).cpu().double()
        centre = x.mean(dim=0)
        found["raw fp32 products"] = (raw32 / n - torch.outer(centre, centre)).cpu().double()
        for name, value in found.items():
            error = float(torch.linalg.matrix_norm(value - truth) / norm)
            raw[f"covariance at mean {offset:g}: {name}"] = error
            rows.append([f"{offset:g}", name, f"{error:.1e}"])
    return f"Relative error (Frobenius) of the covariance of {n} rows, d = {d}, std 1, in batches of 512.\n\n" + table(
        ["mean", "way", "relative error"], rows
    )


def collapse(device: str, raw: dict) -> str:
    torch.manual_seed(0)
    n, d, classes = 20_000, 64, 10
    labels = torch.arange(n) % classes
    means = torch.randn(classes, d)
    x = (1000 + means[labels] + 1e-4 * torch.randn(n, d)).to(device)
    wide = x.cpu().double()
    centres = torch.stack([wide[labels == c].mean(dim=0) for c in range(classes)])
    within = (wide - centres[labels]).T @ (wide - centres[labels]) / n
    apart = centres - centres.mean(dim=0)
    truth = float(within.trace() / (apart.square().sum() / classes))
    accumulator = MomentsAccumulator(d, classes, device=device)
    for part, y in zip(x.split(512), labels.to(device).split(512), strict=True):
        accumulator.update(build_rows(part, y))
    found = accumulator.compute_classes()
    value = float(neural_collapse.nc1_ratio(found.means, found.counts, found.variances))
    raw["nc1_ratio at mean 1000"] = {"value": value, "truth": truth}
    return "tr Σ_within / tr Σ_between of ten classes at mean 1000, in batches of 512.\n\n" + table(
        ["ours", "float64, two passes", "relative error"],
        [[f"{value:.6e}", f"{truth:.6e}", f"{abs(value / truth - 1):.1e}"]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    raw: dict = {}
    sections = {
        "Time": timings(args.device, args.repeats, raw),
        "Accuracy": accuracy(args.device, raw),
        "Neural collapse near zero": collapse(args.device, raw),
    }
    publish("Streaming scatter", sections, raw, args.out, args.device)


if __name__ == "__main__":
    main()
