"""``benchmarks/gpu_check.py`` and the self-check, on emulated kernels; then every fault in turn, until it is noticed.

    LIGHTNING_FEATGEO_BACKEND=reference python -m tests.native.emulation.check FOLDER [--cases 2]

Builds into FOLDER. Prints one line of JSON: the checks that failed on the kernels as they are, what hostile calls did,
and the faults that were not noticed; all are to be empty.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch

import lightning_featgeo.cuda_ext
from lightning_featgeo.cuda_ext import build as recipe
from lightning_featgeo.cuda_ext import library, ops, reference, self_check
from tests.native.emulation.emulate import build, load
from tests.native.emulation.faults import FAULTS
from tests.native.emulation.hostile import hostile

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import gpu_check

HEAVY = {"scatter_": 2, "knn": 2, "self_neighbors": 1, "select_": 2, "best": 2, "group_sums_": 2}  # cases
CPU = torch.device("cpu")


def failures(name: str, seeds: range) -> Iterator[str]:
    """What a check says of the kernels, case by case."""
    if name not in gpu_check.CHECKS:
        yield from self_check.faulty(CPU, [name], lambda *told: None).values()
        return
    for seed in seeds:
        torch.manual_seed(seed)
        try:
            gpu_check.CHECKS[name](random.Random(seed), True)
        except Exception as error:  # wrong numbers, or what the emulator says of an access
            yield f"seed {seed}: {type(error).__name__}: {str(error)[:300]}"


def main() -> int:
    """Check, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=1, help="times as many")
    args = parser.parse_args()
    if "cpu" in library.libraries:
        parser.error("the emulated kernels take the place of compiled CPU ops: set LIGHTNING_FEATGEO_BACKEND=reference")
    torch.set_num_threads(1)
    kernels = load(build(args.folder))
    begin, wrong = time.perf_counter(), {}
    for name in (*gpu_check.CHECKS, *self_check.CHECKED):
        kernels.emu_seed(len(name))
        told = list(failures(name, range(HEAVY.get(name, 6) * args.cases)))
        if told:
            wrong[name] = told
    called = hostile(kernels.featgeo_ops().decode().split(), 150)
    passed = time.perf_counter() - begin
    missed = []
    for number, fault in enumerate(FAULTS, 1):
        kernels.emu_plant(number)
        if next(failures(fault.check, range(40)), None) is None:
            missed.append(f"{fault.file}: {fault.wrong}")
    kernels.emu_plant(1 + next(i for i, fault in enumerate(FAULTS) if fault.check == "prepare"))
    # what happens to ops that the self-check finds wrong
    library.libraries["cuda"] = kernels
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(name="an emulated GPU")
    torch.cuda.device = lambda device: nullcontext()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        library._check(CPU)
    aside = dict(library.faults)
    info = lightning_featgeo.cuda_ext.backend_info()["cuda"]
    x = torch.randn(90, 33)
    right = torch.equal(ops.knn(x, x, 9)[1], reference.knn(x, x, 9, None, None, False, 0.0)[1])
    print(
        json.dumps(
            {
                "wrong": wrong,
                "hostile": called["wrong"],
                "missed": missed,
                "planted": len(FAULTS),
                "set aside": sorted(aside),
                "right without them": right,
                "remembered": len(list(recipe.cache_folder().glob("checked-*.json"))),
                "told": [str(one.message) for one in told],
                "info": info,
                "seconds": [round(passed, 1), round(time.perf_counter() - begin - passed, 1)],
                "package": lightning_featgeo.cuda_ext.__file__,
            }
        )
    )
    return int(bool(wrong or missed or called["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
