"""Runs for a report: finds histories in files and folders, and says plainly what can't be used."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lightning_featgeo.errors import printable
from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record

LONGEST = 80  # characters of a name


class ReportError(Exception):
    """There is nothing to report on; the message says why and what to do."""


@dataclass
class Run:
    """One run with a name of its own. ``notes``: what its reader must know."""

    name: str
    path: Path
    history: History
    notes: list[str] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """Its windows."""
        return self.history.records


def find(paths: Iterable[str | Path]) -> list[Path]:
    """History files at or below paths, each once, older ones first within a folder.

    Raises:
        ReportError: if a path does not exist, or a folder holds no history.
    """
    found: dict[Path, None] = {}
    for given in map(Path, paths):
        if given.is_file():
            found[given] = None
        elif given.is_dir():
            below = sorted(p for p in given.rglob("*.jsonl") if p.is_file() and _looks_like_history(p))
            if not below:
                raise ReportError(
                    f"{given}: no history below this folder. A monitor writes one next to its logger's files, as "
                    "<log_dir>/featgeo/<time>.jsonl"
                )
            found.update(dict.fromkeys(below))
        else:
            raise ReportError(f"{given}: there is no such file or folder")
    unique: dict[Path, Path] = {path.resolve(): path for path in reversed(found)}
    return [path for path in found if unique[path.resolve()] is path]


def _looks_like_history(path: Path) -> bool:
    """Whether its first line could be one of ours; an empty file below a folder called featgeo could."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline(2**20)
        return not first.strip() if path.parent.name == "featgeo" and not first.strip() else _is_ours(first)
    except OSError:
        return False


def _is_ours(line: str) -> bool:
    try:
        parsed = json.loads(line)
    except ValueError:
        return line.startswith(('{"run": {', '{"window": {', '{"metrics": {'))  # cut by a crash
    return isinstance(parsed, dict) and bool({"run", "window", "event", "end", "metrics", "layout"} & parsed.keys())


def load(paths: Iterable[Path], thin: bool = False) -> Iterator[Run]:
    """Each history as a run; files without a window are left out with a warning, by :func:`distinct`.

    Args:
        paths: of the files.
        thin: of a very long run, take as many windows as can be drawn.
    """
    for path in paths:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                history = History.load(path, thin)
            except OSError as error:
                raise ReportError(f"{path}: can't be read ({error.strerror or error})") from None
        notes = [str(each.message).removeprefix("featgeo: ") for each in said]
        if len(history) < history.closed:
            notes.append(
                f"{history.closed:,} windows are in the file: the last ones, the latest with an alarm and some of "
                f"the others, spread evenly, are drawn ({len(history):,} in all)"
            )
        yield Run(_name(path, history), path, history, notes)


def distinct(loaded: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """All runs, with names that differ, and what was left out.

    A file that only adds stages to another one of its folder (a test after a fit) belongs to that run.

    Args:
        loaded: runs from :func:`load`.

    Raises:
        ReportError: if nothing is left.
    """
    kept: list[Run] = []
    left_out: list[str] = []
    for run in loaded:
        if not run.records:
            why = "; ".join(run.notes) or "there is no curve in it"
            left_out.append(f"{run.path}: no window has closed: {why}")
        elif not _joined(run, kept):
            kept.append(run)
    if not kept:
        raise ReportError("nothing to report on:\n  " + "\n  ".join(left_out or ["no run was given"]))
    taken: set[str] = set()
    for run in kept:
        name, count = run.name, 1
        while run.name in taken:
            count += 1
            run.name = f"{name} ({count})"
        taken.add(run.name)
    return kept, left_out


def _joined(run: Run, kept: list[Run]) -> bool:
    """Whether a run was the evaluation of one before it, by the logger's own word, and has been added there."""
    identity = run.history.run.get("id")
    stages = {record.stage for record in run.records}
    for other in reversed(kept):
        same = identity is not None and identity == other.history.run.get("id") and other.path.parent == run.path.parent
        if same and not stages & {record.stage for record in other.records}:
            ends = [each.history.run.get("end") for each in (other, run)]
            worst = next((end for end in ends if end != "finished"), "finished")
            other.history.run["end"] = worst  # a fit that was killed, though the test after it has finished
            other.history.records += run.records
            other.history.events += run.history.events
            for moment in run.history.metrics.moments:
                other.history.metrics.add(moment, thin=False)
            other.history.layouts += run.history.layouts
            other.notes += run.notes
            return True
    return False


def _name(path: Path, history: History) -> str:
    name = history.run.get("name")
    if not name:
        folder = path.parent.parent if path.parent.name == "featgeo" else path.parent
        name = folder.name if path.parent.name == "featgeo" else path.stem
    text = " ".join(printable(str(name)).split()) or path.stem  # without what turns or hides the text behind it
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
