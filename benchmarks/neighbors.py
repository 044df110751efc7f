"""Exact neighbours against the peers: time, memory, and how often each precision can prove its result.

    python benchmarks/neighbors.py [--device cuda] [--out benchmarks/results/neighbors.md]

Peers: ``torch.cdist`` + ``topk``, products in chunks + ``topk``, scikit-learn, faiss (``pip install faiss-cpu``; left
out where it is missing), and the bare matrix product, which no search that uses one can beat. Every result is
compared with a search by float64 subtraction before it is timed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measuring import interleaved, publish, table
from torch import nn

from lightning_featgeo.cuda_ext import certified, knn, scan_ops, search
from lightning_featgeo.cuda_ext.proof import BF16, F32, F64

try:
    import faiss
except ImportError:
    faiss = None
try:
    from sklearn.datasets import load_digits
    from sklearn.neighbors import NearestNeighbors
except ImportError:
    NearestNeighbors = load_digits = None
try:
    import flashlib
except ImportError:
    flashlib = None


@contextmanager
def products_of(precision: str) -> Iterator[None]:
    """Let the certified search start from products of one precision."""
    before, worth = set(certified.bf16_devices), certified._WORTH_A_SAMPLE
    try:
        if precision == "fp32":
            certified.bf16_devices.clear()
        yield
    finally:
        certified.bf16_devices.update(before)
        certified._WORTH_A_SAMPLE = worth


def ours(q: torch.Tensor, b: torch.Tensor, k: int, precision: str) -> torch.Tensor:
    with products_of(precision):
        return knn(q, b, k, exclude_self=q is b)[1]


def chunked(q: torch.Tensor, b: torch.Tensor, k: int, size: int = 8192) -> torch.Tensor:
    norms, parts = b.square().sum(dim=1), []
    for start in range(0, len(b), size):
        part = slice(start, start + size)
        near = torch.addmm(norms[None, part], q, b[part].T, alpha=-2).topk(k, largest=False)
        parts.append((near.values, near.indices + start))
    values, indices = (torch.cat(x, dim=1) for x in zip(*parts, strict=True))
    return indices.gather(1, values.topk(k, largest=False).indices)


def by_faiss(q: torch.Tensor, b: torch.Tensor, k: int) -> torch.Tensor:
    index = faiss.IndexFlatL2(b.shape[1])
    index.add(b.numpy())
    return torch.from_numpy(index.search(q.numpy(), k)[1])


def by_scikit(q: torch.Tensor, b: torch.Tensor, k: int) -> torch.Tensor:
    return torch.from_numpy(NearestNeighbors(n_neighbors=k, algorithm="brute").fit(b).kneighbors(q)[1])


def same_sets(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.cpu().sort(dim=1).values == truth.cpu().sort(dim=1).values).all(dim=1).double().mean())


def against_peers(device: str, repeats: int, raw: dict) -> str:
    rows = []
    for n, d in ((10_000, 128), (50_000, 128), (50_000, 512), (20_000, 2048)):
        torch.manual_seed(0)
        q, b, out = torch.randn(1024, d, device=device), torch.randn(n, d, device=device), None
        out = torch.empty(1024, n, device=device)
        cases: dict[str, Callable[[], object]] = {
            "cdist + topk": lambda q=q, b=b: torch.cdist(q, b).topk(10, largest=False).indices,
            "chunked mm + topk": lambda q=q, b=b: chunked(q, b, 10),
            "ours, fp32 products": lambda q=q, b=b: ours(q, b, 10, "fp32"),
            "ours, as it chooses": lambda q=q, b=b: ours(q, b, 10, "auto"),
        }
        if device == "cpu" and NearestNeighbors:
            cases["scikit-learn"] = lambda q=q, b=b: by_scikit(q, b, 10)
        if device == "cpu" and faiss:
            cases["faiss"] = lambda q=q, b=b: by_faiss(q, b, 10)
        if device == "cuda" and flashlib:
            cases["FlashLib"] = lambda q=q, b=b: flashlib.flash_knn(q, b, 10)[1]
        truth = search.knn(q, b, 10, None, None, False, 0.0)[1]
        right = {name: same_sets(call(), truth) for name, call in cases.items()}
        assert right["ours, fp32 products"] == right["ours, as it chooses"] == 1.0, right
        times = interleaved(
            {"product alone": lambda q=q, b=b, out=out: torch.mm(q, b.T, out=out), **cases}, repeats, device
        )
        raw[f"1024 x {n} x {d}"] = {"seconds": times, "share of rows with the true neighbours": right}
        for name, t in times.items():
            sets = f"{right[name]:.2%}" if name in right else "–"
            ratio, product = times["cdist + topk"] / t, t / times["product alone"]
            rows.append([f"{n} × {d}", name, f"{t * 1e3:.1f}", f"{ratio:.2f}×", f"{product:.2f}", sets])
    return "1,024 queries, k = 10.\n\n" + table(
        ["reference", "search", "ms", "faster than cdist + topk", "time over the product's", "rows with the true set"],
        rows,
    )


def among_themselves(device: str, repeats: int, raw: dict) -> str:
    rows = []
    for n, d in ((20_000, 512),):
        torch.manual_seed(0)
        x = torch.randn(n, d, device=device)
        cases: dict[str, Callable[[], object]] = {
            "ours, fp32 products": lambda x=x: ours(x, x, 10, "fp32"),
            "ours, as it chooses": lambda x=x: ours(x, x, 10, "auto"),
        }
        if faiss and device == "cpu":
            cases["faiss"] = lambda x=x: by_faiss(x, x, 11)[:, 1:]
        if device == "cuda" and flashlib:
            cases["FlashLib"] = lambda x=x: flashlib.flash_knn(x, x, 11)[1][:, 1:]
        truth = search.knn(x, x, 10, None, None, True, 0.0)[1]
        right = {name: same_sets(call(), truth) for name, call in cases.items()}
        times = interleaved(cases, max(3, repeats // 2), device)
        raw[f"self {n} x {d}"] = {"seconds": times, "share of rows with the true neighbours": right}
        for name, t in times.items():
            peer = times.get("faiss", times.get("FlashLib"))
            ratio = f"{peer / t:.2f}×" if peer else "–"
            rows.append([f"{n} × {d}", name, f"{t * 1e3:.0f}", ratio, f"{right[name]:.2%}"])
    return table(["rows", "search", "ms", "faster than the peer (faiss, FlashLib)", "rows with the true set"], rows)


PROBE = """
import sys, torch
from lightning_featgeo.cuda_ext import certified, knn
torch.manual_seed(0)
q, b = torch.randn(1024, {d}), torch.randn(100_000, {d})
how = {how!r}
if how == "ours, fp32 products": certified.bf16_devices.clear()
run = (lambda b: torch.cdist(q, b).topk(10, largest=False)) if how == "cdist + topk" else (lambda b: knn(q, b, 10))
run(b[:300].clone())
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
run(b)
print((status("VmHWM") - before) / 1024)
"""


def memory(raw: dict) -> str:
    rows = []
    for d in (128, 512):
        peaks = {}
        for how in ("cdist + topk", "ours, fp32 products", "ours, as it chooses"):
            code = PROBE.format(d=d, how=how)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks[how] = float(done.stdout)
        raw[f"peak MiB, 1024 x 100000 x {d}"] = peaks
        for how, peak in peaks.items():
            rows.append([f"100000 × {d}", how, f"{peak:.0f}", f"1/{peaks['cdist + topk'] / max(peak, 1e-9):.1f}"])
    return "Resident memory beyond the inputs, 1,024 queries, k = 10.\n\n" + table(
        ["reference", "search", "peak MiB", "of cdist + topk"], rows
    )


def trained_features() -> torch.Tensor:
    """Penultimate features of a small network on scikit-learn's digits, after it has learned them."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()), nn.Linear(128, 10)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(body(x)), y).backward()
        optimizer.step()
    return body(x).detach()


def certificates(device: str, raw: dict) -> str:
    torch.manual_seed(0)
    n, d = 8192, 512
    x = torch.randn(n, d)
    kinds = {
        "Gaussian, 512 dimensions": x,
        "ReLU of it": torch.relu(x),
        "100 clusters, σ within 0.3 of between": torch.randn(100, d)[torch.arange(n) % 100] + 0.3 * x,
        "100 clusters, σ within 0.01": torch.randn(100, d)[torch.arange(n) % 100] + 0.01 * x,
        "100 clusters, σ within 1e-4": torch.randn(100, d)[torch.arange(n) % 100] + 1e-4 * x,
    }
    if load_digits:
        pixels = torch.tensor(load_digits().data, dtype=torch.float32)
        kinds |= {
            "digits, pixels": pixels,
            "digits, trained features": trained_features(),
            "digits, pixels, each 60 times": pixels[:150].repeat(60, 1),
        }
    rows = []
    for name, points in kinds.items():
        p = points.to(device)
        ids = torch.arange(len(p), dtype=torch.int32, device=device)
        shares = {}
        for label, precision in (("bf16", BF16), ("fp32", F32), ("float64", F64)):
            frame = certified.Problem(p, ids, None, None, 10, True, 0.0).frame
            result = scan_ops.scan(p, None, ids, None, *frame, 10, True, precision, 0.0)
            shares[label] = float(result[2].double().mean())
        truth = search.knn(p, p, 10, None, None, True, 0.0)
        right = bool(torch.equal(knn(p, p, 10, exclude_self=True)[1], truth[1]))
        raw[f"certified: {name}"] = {**shares, "result is the exact one": right}
        rows.append([name, len(p), *(f"{s:.1%}" for s in shares.values()), "yes" if right else "NO"])
    return (
        "Share of rows whose 10 neighbours a scan of that precision proves; the rest go to the next one.\n\n"
        + table(["features", "n", "bf16", "fp32", "float64", "knn() is exact"], rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    raw: dict = {}
    sections = {
        "Against the peers": against_peers(args.device, args.repeats, raw),
        "All rows among themselves": among_themselves(args.device, args.repeats, raw),
        "Certificates": certificates(args.device, raw),
    }
    if args.device == "cpu" and os.path.exists("/proc/self/clear_refs"):
        sections["Memory"] = memory(raw)
    publish("Exact neighbours", sections, raw, args.out, args.device)


if __name__ == "__main__":
    main()
