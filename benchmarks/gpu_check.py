"""Everything that only a GPU can show, in one go: each CUDA kernel against float64, the sanitizer, then the benchmarks.

    make gpu-check        (or, with the package importable:
    LIGHTNING_FEATGEO_CUDA=1 python benchmarks/gpu_check.py [--cases 60] [--no-bench] [--sanitize 0])

The benchmarks are ``covariance``, ``neighbors``, ``gpu_costs`` (a step, a close) and ``gpu_run`` (whole runs). Needs
torch built for CUDA 13 and the package's own dependencies, and downloads nothing. Shapes are drawn at random: odd
sizes, k from 1 to 256, d from 1 to 4096, rows of every type that are not contiguous (``gpu_cases``). The references
are the plain-torch ops on the CPU. Exits with 1 if anything is wrong. Figures of the benchmarks go to
``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from gpu_cases import CHECKS, Draw

from lightning_featgeo.cuda_ext import backend_info, library, self_check

HERE = Path(__file__).parent


def compare(cases: int, small: bool) -> int:
    wrong = 0
    for name, check in CHECKS.items():
        failures = []
        for seed in range(cases):
            torch.manual_seed(seed)
            try:
                check(Draw(seed), small)
            except Exception as error:  # every failing case is reported, with the seed that draws it again
                failures.append(f"    seed {seed}: {type(error).__name__}: {str(error)[:300]}")
        torch.cuda.synchronize()
        print(f"{name}: {cases - len(failures)} of {cases} right", *failures[:5], sep="\n", flush=True)
        wrong += len(failures)
    return wrong


def sanitized(tool: str, seconds: int) -> int:
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if program is None:
        print(f"compute-sanitizer was not found: {tool} was not run")
        return 0
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, __file__, "--cases", "3", "--small"]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"compute-sanitizer {tool}: not finished after {seconds} s, so it proves nothing", flush=True)
        return 0
    print(
        f"compute-sanitizer {tool} ({time.perf_counter() - begin:.0f} s): "
        + ("clean" if done.returncode == 0 else done.stdout[-3000:] + done.stderr[-1000:]),
        flush=True,
    )
    return int(done.returncode != 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--small", action="store_true", help="small shapes, the comparisons only: for the sanitizer")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--sanitize", type=int, default=600, help="seconds that each sanitizer tool gets; 0: none runs")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device is visible to torch: run this on a machine with a GPU")
        return 1
    library.load_for(torch.zeros(1).cuda())
    if "cuda" not in library.libraries:
        print(f"the CUDA kernels are not loaded: {library.reasons['cuda']}")
        return 1
    print(torch.cuda.get_device_name(), backend_info(), sep="\n", flush=True)
    begin = time.perf_counter()
    verdict = self_check.faulty(torch.device("cuda"), self_check.CHECKED, lambda *told: None)
    print(f"self-check: {verdict or 'nothing wrong'} ({time.perf_counter() - begin:.1f} s)", flush=True)
    wrong = len(verdict) + compare(args.cases, args.small)
    if args.small:
        return int(wrong > 0)
    if not args.no_bench:
        name = torch.cuda.get_device_name().lower().replace(" ", "_")
        benches = {"covariance": ["--device", "cuda"], "neighbors": ["--device", "cuda"]}
        benches |= {"gpu_costs": ["--quick", "--ways", "CUDA kernels", "plain torch ops"], "gpu_run": []}
        for bench, asked in benches.items():
            out = HERE / "results" / f"{bench}_{name}.md"
            command = [sys.executable, str(HERE / f"{bench}.py"), *asked, "--out", str(out)]
            wrong += subprocess.run(command, env=os.environ, check=False).returncode != 0
    for tool in ("memcheck", "racecheck", "synccheck") if args.sanitize else ():
        wrong += sanitized(tool, args.sanitize)
    print("all right" if not wrong else f"{wrong} things are wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
