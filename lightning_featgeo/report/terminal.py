"""A run in the terminal: curves as sparklines, alarms and gaps, at 80 columns; once, or while the history grows.

python -m lightning_featgeo.watch RUN [--once]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_featgeo.errors import printable
from lightning_featgeo.report import words
from lightning_featgeo.report.curves import Curve, Panel, panels
from lightning_featgeo.report.runs import ReportError, Run, find, load

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"
HOW_TO = "pip install 'lightning-featgeo[terminal]'"
NAMES, NUMBERS, LEAST = 26, 10, 8  # columns: of names, of each of two numbers, and at least of a sparkline
STYLES = {"stop": "bold red", "alarm": "bold red", "notice": "yellow", "quiet": "green"}
OUTCOMES = {"stop": "stopped", "alarm": "alarm", "notice": "to look at"}


def sparkline(values: Sequence[float], width: int) -> str:
    """Values over time in at most so many characters: each the mean of its windows, a dot where none has a value.

    >>> sparkline([0.0, 1.0, float("nan"), 2.0], 10)
    '▁▅·█'
    """
    count = min(width, len(values))
    cells = [
        [v for v in values[i * len(values) // count : (i + 1) * len(values) // count] if math.isfinite(v)]
        for i in range(count)
    ]
    means = [sum(cell) / len(cell) if cell else math.nan for cell in cells]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    top = len(BARS) - 1

    def bar(mean: float) -> str:
        if not math.isfinite(mean):
            return GAP
        return BARS[round((mean - low) / (high - low) * top) if high > low else top // 2]

    return "".join(map(bar, means))


def picture(run: Run, width: int, wanted: Callable[[Panel], bool] = lambda panel: True) -> Group:
    """What there is to see of a run now.

    Args:
        run: its history.
        width: of the terminal.
        wanted: which curves.
    """
    from rich.console import Group
    from rich.text import Text

    kind, sentence = words.headline(run)
    told = kind != "quiet"  # below the curves
    title = Text(f"{run.name}  ", "bold").append(OUTCOMES[kind] if told else _plain(sentence), STYLES[kind])
    parts: list[Any] = [title, Text(_plain(words.ending(run)), "dim")]
    sections: dict[str, list[Panel]] = {}
    for panel in panels([run]):
        if wanted(panel):
            sections.setdefault("/".join(filter(None, ["featgeo", panel.stage, panel.layer])), []).append(panel)
    for name, found in sections.items():
        parts += [Text(), _curves(name, found, width)]
    if not sections:
        parts += [Text(), Text("No curve of that name has a window yet.", "dim")]
    parts += _events(run)
    parts += _gaps([panel for found in sections.values() for panel in found])
    parts += [Text(_plain(note), "dim") for note in run.notes]
    return Group(*parts)


def _plain(text: str) -> str:
    return " ".join(printable(text).split())


def _curves(name: str, found: Sequence[Panel], width: int) -> Table:
    from rich.table import Table

    room = max(LEAST, width - NAMES - 2 * NUMBERS - 6)
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column(_plain(name), width=NAMES, no_wrap=True, overflow="ellipsis", header_style="bold")
    table.add_column("over time", width=room, no_wrap=True, header_style="dim", style="cyan")
    table.add_column("first", width=NUMBERS, justify="right", no_wrap=True, header_style="dim", style="dim")
    table.add_column("last", width=NUMBERS, justify="right", no_wrap=True, header_style="dim", style="bold")
    for panel in found:
        for curve in panel.curves:
            known = [value for value in curve.values if math.isfinite(value)]
            ends = [words.number(known[0]), words.number(known[-1])] if known else ["–", "–"]
            table.add_row(_plain(panel.signal), sparkline(curve.values, room), *ends)
    return table


def _events(run: Run) -> Iterator[Any]:
    from rich.text import Text

    for event in run.history.events:
        kind = str(event.get("kind"))
        if kind not in STYLES:
            continue
        epoch = event.get("epoch")
        when = f"epoch {epoch:g}: " if isinstance(epoch, (int, float)) else ""
        yield Text("\n").append(f"{kind}  ", STYLES[kind]).append(_plain(f"{when}{event.get('reason') or ''}"))
        alarm = event.get("alarm")
        steps = alarm.get("steps") if isinstance(alarm, dict) else None
        for step in steps if isinstance(steps, list) else []:
            yield Text(f"  {_plain(str(step))}", "dim")


def _gaps(found: Sequence[Panel]) -> Iterator[Any]:
    from rich.text import Text

    why: dict[str, list[str]] = {}
    for panel in found:
        for curve in panel.curves:
            if curve.gaps:
                why.setdefault(_last_gap(curve), []).append(panel.signal)
    for reason, signals in why.items():
        yield Text("\n").append(f"gap  {', '.join(dict.fromkeys(signals))}: ", "yellow").append(_plain(reason))


def _last_gap(curve: Curve) -> str:
    return f"{len(curve.gaps)} of {len(curve.values)} windows: {curve.gaps[max(curve.gaps)]}"


def named(patterns: Sequence[str], stage: str | None) -> Callable[[Panel], bool]:
    """Which curves were asked for: any of these patterns (``nc*``), of this stage."""

    def wanted(panel: Panel) -> bool:
        fits = not patterns or any(fnmatchcase(panel.signal, pattern) for pattern in patterns)
        return fits and stage in (None, panel.stage)

    return wanted


def newest(path: str | Path) -> Path:
    """The history to look at: the file itself, or the one below a folder that was written last.

    Raises:
        ReportError: if there is none.
    """
    return max(find([path]), key=lambda file: file.stat().st_mtime)


def console(**options: Any) -> Console:
    """A terminal.

    Raises:
        ReportError: if rich is not installed, with the line to type.
    """
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise ReportError(f"this needs rich, which is not installed: {HOW_TO}") from None
    return Console(**options)


def show(path: str | Path, to: Console, wanted: Callable[[Panel], bool] = lambda panel: True) -> None:
    """Print a run as it is now."""
    to.print(picture(_read(newest(path)), to.width, wanted))


def follow(
    path: str, to: Console, wanted: Callable[[Panel], bool] = lambda panel: True, every: float = 1.0
) -> None:  # fmt: skip
    """Show a run until its history says that it has ended, anew whenever the file has grown.

    Raises:
        ReportError: if there is no such file or folder. A folder that has no history yet is waited for.
    """
    from rich.live import Live
    from rich.text import Text

    with Live(console=to, auto_refresh=False, vertical_overflow="visible") as live:
        seen: tuple[Path, int] | None = None
        while True:
            file = _waited_for(path)
            now = (file, file.stat().st_size) if file is not None else None
            if file is None:
                live.update(Text(f"waiting for a run below {_plain(path)}", "dim"), refresh=True)
            elif now != seen:
                run = _read(file)
                live.update(picture(run, to.width, wanted), refresh=True)
                if run.history.run.get("end"):
                    return
                seen = now
            time.sleep(every)


def _waited_for(path: str) -> Path | None:
    try:
        return newest(path)
    except ReportError:
        if not Path(path).is_dir():
            raise
        return None


def _read(file: Path) -> Run:
    return next(iter(load([file], thin=True)))
