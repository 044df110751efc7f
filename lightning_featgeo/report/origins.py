"""Which histories are of one run (resumed, evaluated, begun anew); and a metric of a run under either of its names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_featgeo.report.runs import Run


def of_other_runs(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Histories that are no run of their own, by what is said of them: a run is to count once.

    Records hold the seconds that they took: two that are equal to the letter are one record, copied by a resume.
    """
    out: dict[str, list[int]] = {}
    gone: set[int] = set()

    def leave(why: str, which: Iterable[int]) -> None:
        new = [i for i in which if i not in gone]
        gone.update(new)
        out.setdefault(why, []).extend(new)

    by_logger: dict[tuple[Path, str], list[int]] = {}
    for i, run in enumerate(runs):
        if (identity := run.history.run.get("id")) is not None:
            by_logger.setdefault((run.path.parent, str(identity)), []).append(i)
    for same in by_logger.values():  # older ones first
        fits = [i for i in same if runs[i].history.run.get("doing", "fit") == "fit"]
        stays = (fits or same)[-1]
        leave("as evaluations of a run that is here", [i for i in same if i not in fits and i != stays] if fits else [])
        leave("as a later fit went on in the same run", [i for i in (fits or same) if i != stays])
    by_first: dict[str, list[int]] = {}
    for i, run in enumerate(runs):
        if i not in gone and run.records and run.records[0].seconds > 0:
            by_first.setdefault(run.records[0].text, []).append(i)
    for alike in by_first.values():
        stays = max(alike, key=lambda i: (max(record.epoch for record in runs[i].records), i))
        leave("as another run goes on from one of their checkpoints", [i for i in alike if i != stays])
    return {why: sorted(which) for why, which in out.items() if which}


def spelled(run: Run, name: str) -> str:
    """The metric's name in this run: a value logged on steps and over epochs is there as the epochs'."""
    known = run.history.metrics.names()
    return f"{name}_epoch" if name not in known and f"{name}_epoch" in known else name


def last_value(run: Run, name: str) -> float | None:
    """The metric as it stood at the run's end; NaN where that is no number, None where it was never logged."""
    return run.history.metrics.last(spelled(run, name))


def value_at(run: Run, name: str, times: Iterable[tuple[float, int]]) -> list[float]:
    """The metric as it stood at each (epoch, step); NaN where there is no number."""
    return [value if math.isfinite(value) else math.nan for value in run.history.metrics.at(spelled(run, name), times)]
