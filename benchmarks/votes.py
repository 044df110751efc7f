"""Votes from every row of a reference, as they come: time and memory beside one matrix product and what peers do.

    python benchmarks/votes.py [--out benchmarks/results/votes.md]

Peers: the k nearest of each block by ``topk``, merged (what lightly's and solo-learn's kNN callbacks do with a feature
bank, here in blocks, as the bank would not fit), and scikit-learn's brute force where all rows fit. The product is one
fp32 ``queries @ rowsᵀ`` of each block, which no search that multiplies can beat. Blocks are timed one after the other,
all of them by everybody, so that the machine's drift hits all.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from measuring import publish, table
from sklearn.neighbors import NearestNeighbors

from lightning_featgeo.metrics.accumulators.voters import VoterAccumulator
from lightning_featgeo.rows.rows import build_rows

QUERIES, K, BLOCK, BATCH, CLASSES = 4096, 200, 32_768, 256, 1000


def rows(n: int, means: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows around the means of 1,000 classes, as features of a trained network lie."""
    y = torch.randint(CLASSES, (n,), generator=generator)
    return means[y] + 1.5 * torch.randn(n, means.shape[1], generator=generator), y


def measure(n: int, d: int) -> dict[str, Any]:
    """Seconds of each way over all blocks, and how its neighbours' distances compare."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, d, generator=generator)
    queries = torch.nn.functional.normalize(rows(QUERIES, means, generator)[0], dim=1)
    voters = VoterAccumulator([queries.double()], K, CLASSES)
    best = queries.new_full((QUERIES, K), -torch.inf)
    seconds: Counter[str] = Counter()
    kept = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for start in range(0, n, BLOCK):
        x, y = rows(min(BLOCK, n - start), means, generator)
        index = torch.arange(start, start + len(x))
        if n <= 2**18:
            kept.append(x)
        begin = time.perf_counter()
        product = queries @ x.T
        seconds["one fp32 product"] += time.perf_counter() - begin
        del product
        begin = time.perf_counter()
        for part in torch.arange(len(x)).split(BATCH):
            voters.update(build_rows(x[part], y[part], index[part]))
        seconds["ours"] += time.perf_counter() - begin
        begin = time.perf_counter()
        products = queries @ torch.nn.functional.normalize(x, dim=1).T
        best = torch.cat([best, products.topk(min(K, len(x)), dim=1).values], dim=1).topk(K, dim=1).values
        seconds["product + topk, merged"] += time.perf_counter() - begin
        del products
    begin = time.perf_counter()
    distances, _ = voters.compute()
    seconds["ours"] += time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    furthest = float((1 - distances.square() / 2 - best.double()).abs().max())
    if kept:
        whole = torch.nn.functional.normalize(torch.cat(kept).double(), dim=1).numpy()
        begin = time.perf_counter()
        theirs = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(whole).kneighbors(queries.double().numpy())[0]
        seconds["scikit-learn, brute"] += time.perf_counter() - begin
        furthest = float((distances - torch.from_numpy(theirs)).abs().max())
    return {
        "rows": n, "d": d, "seconds": dict(seconds), "state_mib": voters.memory_bytes / 2**20,
        "peak_mib": peak / 1024, "furthest": furthest,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--sizes", nargs="*", default=["131072x512", "1000000x512", "1281167x768"])
    asked = parser.parse_args()
    found = [measure(*map(int, size.split("x"))) for size in asked.sizes]
    body = []
    for one in found:
        size, product = f"{one['rows']:,} × {one['d']}", one["seconds"]["one fp32 product"]
        body += [[size, way, f"{seconds:.1f}", f"{seconds / product:.2f}"] for way, seconds in one["seconds"].items()]
        body.append([size, f"state of ours: {one['state_mib']:.0f} MiB", "", ""])
    furthest = ", ".join(f"{one['furthest']:.1e}" for one in found)
    told = (
        f"{QUERIES:,} queries, k = {K}, rows in batches of {BATCH}. Distances differ from scikit-learn's (for "
        f"the large ones, cosines from those of fp32 products) by at most {furthest}."
    )
    heads = ["reference", "way", "seconds", "of one product"]
    publish("Votes from every row of a reference", {"Time": f"{told}\n\n{table(heads, body)}"}, found, asked.out)


if __name__ == "__main__":
    main()
