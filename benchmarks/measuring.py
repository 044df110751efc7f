"""What the benchmarks share: interleaved timings in one process, and tables that say where they were made."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from lightning_featgeo.cuda_ext import backend_info


def interleaved(cases: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Seconds of each case: the median over rounds in which every case runs once, after one round that is not counted.

    The machine's speed drifts; a ratio of two cases is of times taken next to each other.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, call in cases.items():
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in times.items()}


def where(device: str = "cpu") -> str:
    """The machine and versions, for the head of a table."""
    if device == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.machine())
        machine = f"{os.cpu_count()} cores of {model}"
    return f"{machine}; torch {torch.__version__}, {torch.get_num_threads()} threads; {backend_info()['reason']}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def table(heads: list[str], rows: list[list[object]]) -> str:
    """A markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(title: str, sections: Mapping[str, str], raw: object, out: Path | None, device: str = "cpu") -> None:
    """Print the tables; with ``out``, write them as markdown, and the figures as JSON beside it."""
    root = f"{Path(__file__).resolve().parent.parent}{os.sep}"
    command = f"python {' '.join(sys.argv)}".replace(root, "")
    head = f"# {title}\n\n{where(device)}. Command: `{command}`\n"
    text = head + "".join(f"\n## {name}\n\n{body}\n" for name, body in sections.items())
    print(text)
    if out:
        out.write_text(text)
        record = {"command": command, "machine": where(device), "figures": raw}
        out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
