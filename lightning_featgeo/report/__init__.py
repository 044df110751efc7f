"""Report: histories of runs as one HTML file that works offline.

python -m lightning_featgeo.report RUN [RUN …] [-o report.html] [--baseline NAME] [--outcome METRIC]
"""

from __future__ import annotations

import io
import secrets
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_featgeo.errors import near_misses
from lightning_featgeo.report.page import render
from lightning_featgeo.report.runs import ReportError, Run, distinct, find, load

__all__ = ["ReportError", "write_report"]


def write_report(
    paths: str | Path | Sequence[str | Path],
    output: str | Path = "report.html",
    baseline: str | None = None,
    quiet: bool = False,
    outcome: str | None = None,
) -> Path:
    """Write a report.

    Args:
        paths: history files, or folders that hold some: of runs that go on, that ended or that crashed.
        output: the file to write; an old one is replaced once the new one is whole.
        baseline: name of the run (or a part of it that no other has) that others are compared with.
        quiet: no progress bar. Otherwise there is one where it takes longer than two seconds.
        outcome: a metric that the runs have logged themselves, such as "val/accuracy": the page begins with which
            curves went with it, across runs and within them.

    Returns:
        The file.

    Raises:
        ReportError: if there is nothing to report on, a library is missing, the baseline can't be told, or no run has
            logged the outcome.
    """
    return put(page_of(paths, baseline, quiet, outcome), output)


def page_of(
    paths: str | Path | Sequence[str | Path], baseline: str | None = None, quiet: bool = False,
    outcome: str | None = None,
) -> str:  # fmt: skip
    """The text of a report: see :func:`write_report`."""
    found, left_out = found_runs(paths, quiet, thin=outcome is None)  # moves are between windows that follow each other
    index = None if baseline is None else _index(baseline, [run.name for run in found])
    return render(found, index, left_out, _bar(quiet), outcome)


def found_runs(
    paths: str | Path | Sequence[str | Path], quiet: bool = False, thin: bool = True
) -> tuple[list[Run], list[str]]:  # fmt: skip
    """Runs of histories, with names that differ, and what could not be used, in words.

    Args:
        paths: history files, or folders that hold some.
        quiet: no progress bar.
        thin: of very long runs, as many windows as can be drawn.

    Raises:
        ReportError: if there is nothing to report on.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = find(given)
    return distinct(list(_bar(quiet)(load(files, thin=thin), total=len(files), desc="histories", unit="run")))


def survive_encodings() -> None:
    """What standard output can't encode becomes a question mark: no traceback for a name or a sparkline."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _bar(quiet: bool) -> Callable[..., Any]:
    from tqdm.auto import tqdm

    return partial(tqdm, delay=2, leave=False, disable=quiet, file=sys.stderr)


def put(text: str, output: str | Path) -> Path:
    """Write a whole file in place of an old one.

    Raises:
        ReportError: if there is a folder of that name.
    """
    target = Path(output)
    if target.is_dir():
        raise ReportError(f"{target} is a folder: name the file to write, such as {target / 'report.html'}")
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with half.open("xb") as file:  # a new file: never through a link that somebody has put there
            file.write(text.encode("utf-8", "replace"))
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)
    return target


def _index(baseline: str, names: list[str]) -> int:
    if baseline in names:
        return names.index(baseline)
    fitting = [i for i, name in enumerate(names) if baseline in name]
    if len(fitting) == 1:
        return fitting[0]
    raise ReportError(
        f"baseline {baseline!r} is {'several' if fitting else 'none'} of the runs: {', '.join(names)}."
        f"{near_misses(baseline, names)}"
    )
