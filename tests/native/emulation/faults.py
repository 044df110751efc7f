"""Faults that are planted in the kernels, one at a time, to see that the checks notice them.

In ``wrong``, FAULT is true while the fault is on. ``check`` is one of ``benchmarks/gpu_cases.py``, or an op that the
self-check looks at.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """What is in a source file, what it is made, and the check that has to notice."""

    check: str
    file: str
    right: str
    wrong: str

    def switched(self, number: int) -> str:
        """``wrong``, for the fault of this number."""
        return self.wrong.replace("FAULT", f"emu::fault({number})")


GROUPS, SCATTER, UNITS, RESERVOIR = "group_sums_", "scatter_", "unit_stats_, direction_sums_", "reservoir_slots, place_"

FAULTS = [
    # a buffer that overflows, barriers left out, a limit that is too tight, rows that may not meet
    Fault("select_", "select.cuh", "count > room - kThreads", "count > room - (FAULT ? 0 : kThreads)"),
    Fault(
        "select_",
        "select.cuh",
        "    __syncthreads();\n    sort();  // for",
        "    if (!FAULT) __syncthreads();\n    sort();  // for",
    ),
    Fault("select_", "select.cuh", "tight = least[width - 1];", "tight = least[FAULT ? 0 : width - 1];"),
    Fault(
        "select_",
        "select.cuh",
        "limit) || tile.reference_ids[j] == id",
        "limit) || (!FAULT && tile.reference_ids[j] == id)",
    ),
    Fault(
        "kernel_sums_", "select.cuh", "tile.reference_ids[j] == id ? 0.0", "tile.reference_ids[j] == id && !FAULT ? 0.0"
    ),
    Fault("kernel_sums_", "select.cuh", "w < kThreads / 32; ++w) total", "w < kThreads / 32 - FAULT; ++w) total"),
    # a column or a warp too few
    Fault("prepare", "prepare.cuh", "j < rows.d ?", "j < rows.d - FAULT ?"),
    Fault("prepare", "prepare.cuh", "w < kWarps; ++w) most", "w < kWarps - FAULT; ++w) most"),
    # candidates that are passed over, or not put in order; a proof without its bound
    Fault("prove", "prove.cuh", "> highest) break;", "> (FAULT ? 0.0 : highest)) break;"),
    Fault("prove", "prove.cuh", "if (k) sort(room);", "if (k && !FAULT) sort(room);"),
    Fault("prove", "prove.cuh", "limit > bounds.highest(row, kth)", "limit > (FAULT ? kth : bounds.highest(row, kth))"),
    # rows counted twice, or in the wrong bucket; what a warp adds is lost
    Fault(SCATTER, "moments.cuh", "(g == common && lane != leader)", "(g == common && lane != leader && !FAULT)"),
    Fault(SCATTER, "moments.cuh", "start = threadIdx.y * 32;", "start = threadIdx.y * (FAULT ? 16 : 32);"),
    Fault(SCATTER, "moments.cuh", "(s.buckets == 1 || g < s.labelled)", "(FAULT || s.buckets == 1 || g < s.labelled)"),
    Fault(
        "group_sums_",
        "moments.cuh",
        "w < kWarps; ++w) total += square_of",
        "w < kWarps - FAULT; ++w) total += square_of",
    ),
    Fault(SCATTER, "moments.cuh", "if (listed.how_many[1] == 0)", "if (FAULT || listed.how_many[1] == 0)"),
    Fault(SCATTER, "moments.cuh", "warp);\n    __syncthreads();\n  }", "warp);\n    if (!FAULT) __syncthreads();\n  }"),
    # digits that were settled before, ranks of lanes, ties, rows that were not accepted
    Fault(RESERVOIR, "reservoir.cuh", "alike = shift == 56", "alike = FAULT || shift == 56"),
    Fault(RESERVOIR, "reservoir.cuh", "if (lane >= offset)", "if (FAULT || lane >= offset)"),
    Fault(RESERVOIR, "reservoir.cuh", "own >= stay", "own >= (FAULT ? 0 : stay)"),
    Fault("place_", "reservoir.cuh", "|| !accepted[i])", "|| (!FAULT && !accepted[i]))"),
    Fault("hash_priority", "units.cuh", "(z >> 27)", "(z >> (FAULT ? 26 : 27))"),
    Fault(UNITS, "units.cuh", "if (!keep[i]) continue;", "if (!FAULT && !keep[i]) continue;"),
    # a NaN, and the tiles before the last
    Fault("frame", "search.cuh", "nan |= x != x;", "nan |= !FAULT && x != x;"),
    Fault("best", "search.cuh", "from + j == 0, mine", "from + j == 0 || FAULT, mine"),
]
