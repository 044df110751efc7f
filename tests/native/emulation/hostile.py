"""Raw CUDA ops with arguments that nobody would give, on emulated kernels: a refusal in words, or a result.

    LIGHTNING_FEATGEO_BACKEND=reference python -m tests.native.emulation.hostile FOLDER [--calls 400] [--sanitized]

Calls the emulated ops as ``tests/ops/test_hostile.py`` calls those of the CPU. What the emulator says of a launch (an
access outside of the op's tensors, a launch that no GPU takes, threads that wait for ever) is no refusal: on a GPU it
would have been a stray write, an error in some later call, or a hang. ``--sanitized`` looks at the launchers instead.
Prints one line of JSON: how many calls gave a result, and what was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings

from lightning_featgeo.cuda_ext import library
from tests.native.emulation.emulate import build, load
from tests.ops.test_hostile import calls, valid


def once_wrong() -> Iterator[tuple[str, list[Any]]]:
    """Calls that read or wrote outside of their tensors once; a few random ones don't always find them."""
    rows = 33, 16, 7
    yield "prepare", [*valid("prepare", *rows, torch.float32)[:3], 7]
    best = valid("best", *rows, torch.float32)
    yield "best", [*best[:7], -1, *best[8:]]
    yield "prove", valid("prove", *rows, torch.float16)
    yield "frame", [torch.randn(33, 3, 0), None, 512]
    state, fresh, slots, sources, _ = valid("place_", *rows, torch.float32)
    everything = torch.ones(33, dtype=torch.bool)
    for wild in (2**40, -1):
        yield "place_", [state, fresh, torch.full_like(slots, wild), sources, everything]
        yield "place_", [state, fresh, slots, torch.full_like(sources, wild), everything]


def hostile(names: Sequence[str], examples: int) -> dict[str, object]:
    """What came of so many hostile calls: counts, and what the emulator said of a kernel."""
    came, wrong = Counter[str](), dict[str, str]()

    def tried(name: str, arguments: list[Any]) -> None:
        try:
            getattr(torch.ops.lightning_featgeo, name)(*arguments)
        except Exception as error:
            said = str(error)
            two_rows_for_a_slot = name == "place_" and "race" in said  # either may win: no stray write
            if "emulated CUDA" in said and not two_rows_for_a_slot:
                shapes = [(tuple(a.shape), str(a.dtype)) if isinstance(a, torch.Tensor) else a for a in arguments]
                wrong.setdefault(f"{name}: {said.partition(', thread')[0]}", str(shapes))
            came["refused"] += 1
        else:
            came["done"] += 1

    @given(calls(names))
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def call(drawn: tuple[str, list[Any]]) -> None:
        tried(*drawn)

    for known in once_wrong():
        tried(*known)
    call()
    return {**came, "wrong": wrong}


def main() -> int:
    """Build, call, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--sanitized", action="store_true")
    args = parser.parse_args()
    if "cpu" in library.libraries:
        parser.error("the emulated kernels take the place of compiled CPU ops: set LIGHTNING_FEATGEO_BACKEND=reference")
    torch.set_num_threads(1)
    kernels = load(build(args.folder, args.sanitized))
    kernels.emu_seed(0)
    found = hostile(kernels.featgeo_ops().decode().split(), args.calls)
    print(json.dumps(found))
    return int(bool(found["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
