"""A run in the terminal: curves as sparklines, alarms and gaps, at 80 columns; once, or while the history grows.

python -m lightning_featgeo.watch RUN [--once]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_featgeo.errors import printable
from lightning_featgeo.report import words
from lightning_featgeo.report.curves import Curve, Panel, panels
from lightning_featgeo.report.runs import ReportError, Run, find, load

if TYPE_CHECKING:
    from rich.console import Console, Group

BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "_.-=+*#@"  # for a terminal or file that has no such characters
GAP = "·"
HOW_TO = "pip install 'lightning-featgeo[terminal]'"
NAMES, NUMBERS, LEAST = 26, 10, 8  # columns: of names, of each of two numbers, and at least of a sparkline
MOST_EVENTS = 3  # alarms and notices, the last ones
MOST_READ = 2**26  # bytes of a history of which all windows are looked at
STYLES = {"stop": "bold red", "alarm": "bold red", "notice": "yellow", "quiet": "green"}
OUTCOMES = {"stop": "stopped", "alarm": "alarm", "notice": "to look at"}


def sparkline(times: Sequence[float], values: Sequence[float], width: int, bars: str = BARS) -> str:
    """Values over time in at most so many characters: each the mean of its windows, a dot where none has a value.

    >>> sparkline([1.0, 2.0, 3.0, 4.0], [0.0, 1.0, float("nan"), 2.0], 10)
    '▁▅·█'
    """
    count = min(width, len(values))
    cells: list[list[float]] = [[] for _ in range(count)]
    begin, span = min(times, default=0.0), max(times, default=0.0) - min(times, default=0.0)
    for i, (at, value) in enumerate(zip(times, values, strict=True)):
        many = len(values) > width and span > 0  # then by time: of a very long run, late windows are kept densely
        cells[min(count - 1, int((at - begin) / span * count)) if many else i * count // len(values)].append(value)
    known = [[value for value in cell if math.isfinite(value)] for cell in cells]
    means = [sum(value / len(cell) for value in cell) if cell else math.nan for cell in known]
    low = min((mean for mean in means if math.isfinite(mean)), default=0.0)
    high = max((mean for mean in means if math.isfinite(mean)), default=0.0)
    rises = high / 2 - low / 2 > 1e-9 * max(abs(high), abs(low))  # else the rounding of means would be drawn
    drawn = ""
    for cell, mean in zip(cells, means, strict=True):
        if not cell:  # no window then
            drawn += drawn[-1:] or GAP
        elif not math.isfinite(mean):
            drawn += GAP
        else:
            share = (mean / 2 - low / 2) / (high / 2 - low / 2) if rises else 0.45
            drawn += bars[round(share * (len(bars) - 1))]
    return drawn


def picture(run: Run, width: int, wanted: Callable[[Panel], bool] = lambda panel: True, bars: str = BARS) -> Group:
    """What there is to see of a run now.

    Args:
        run: its history.
        width: of the terminal.
        wanted: which curves.
        bars: characters of a sparkline, low to high.
    """
    from rich.console import Group
    from rich.text import Text

    kind, sentence = words.headline(run)
    told = kind != "quiet"  # by the events
    title = Text(f"{run.name}  ", "bold").append(OUTCOMES[kind] if told else _plain(sentence), STYLES[kind])
    parts: list[Any] = [title, Text(_plain(words.ending(run)), "dim"), *_events(run)]  # above what may be cut off
    sections: dict[str, list[Panel]] = {}
    every = panels([run])
    for panel in filter(wanted, every):
        sections.setdefault("/".join(filter(None, ["featgeo", panel.stage, panel.layer])), []).append(panel)
    for name, found in sections.items():
        parts += [Text(), *_curves(_plain(name), found, width, bars)]
    if not sections:
        parts += [Text(), Text(_nothing(every), "dim")]
    parts += _gaps([panel for found in sections.values() for panel in found])
    parts += [Text(_plain(note), "dim") for note in run.notes]
    return Group(*parts)


def _plain(text: str) -> str:
    return " ".join(printable(text).split())


def _nothing(every: Sequence[Panel]) -> str:
    if not every:
        return "No window has closed yet."

    def known(given: Iterable[str | None]) -> str:
        return _plain(", ".join(dict.fromkeys(filter(None, given))))

    layers = known(panel.layer for panel in every)
    return (
        f"There is no such curve. Stages: {known(panel.stage for panel in every)}; signals: "
        f"{known(panel.signal for panel in every)}" + (f"; layers: {layers}" if layers else "")
    )


def _curves(heading: str, found: Sequence[Panel], width: int, bars: str) -> Iterator[Any]:
    from rich.table import Table
    from rich.text import Text

    both = width >= NAMES + LEAST + 2 * NUMBERS + 6
    columns = 2 * NUMBERS + 6 if both else NUMBERS + 4
    names = min(NAMES, max(LEAST, width - columns - LEAST))
    room = max(LEAST, width - names - columns)
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_edge=False)
    if len(heading) > names:  # a line of its own; layers differ at the end
        yield Text(heading if len(heading) <= width else "…" + heading[1 - width :], "bold")
        heading = ""
    table.add_column(heading, width=names, no_wrap=True, overflow="ellipsis", header_style="bold")
    table.add_column("over time", width=room, no_wrap=True, header_style="dim", style="cyan")
    if both:
        table.add_column("first", width=NUMBERS, justify="right", no_wrap=True, header_style="dim", style="dim")
    table.add_column("last", width=NUMBERS, justify="right", no_wrap=True, header_style="dim", style="bold")
    for panel in found:
        for curve in panel.curves:
            known = [value for value in curve.values if math.isfinite(value)]
            ends = [words.number(known[0]), words.number(known[-1])] if known else ["–", "–"]
            line = sparkline([record.epoch for record in curve.records], curve.values, room, bars)
            table.add_row(_plain(panel.signal), line, *ends[0 if both else 1 :])
    yield table


def _events(run: Run) -> Iterator[Any]:
    from rich.text import Text

    told = [event for event in run.history.events if str(event.get("kind")) in STYLES]
    if len(told) > MOST_EVENTS:
        yield Text(f"\n{len(told) - MOST_EVENTS} earlier ones are in the report", "dim")
    for event in told[-MOST_EVENTS:]:
        kind = str(event["kind"])
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


def named(
    patterns: Sequence[str] = (), stage: str | None = None, layer: str | None = None
) -> Callable[[Panel], bool]:  # fmt: skip
    """Which curves were asked for: any of these patterns (``nc*``), of this stage, of layers like this one."""

    def wanted(panel: Panel) -> bool:
        fits = not patterns or any(fnmatchcase(panel.signal, pattern) for pattern in patterns)
        where = layer is None or (panel.layer is not None and fnmatchcase(panel.layer, layer))
        return fits and where and stage in (None, panel.stage)

    return wanted


def newest(path: str | Path) -> Path:
    """The history to look at: the file itself, or the one below a folder that was written last.

    Raises:
        ReportError: if there is none.
    """
    return max(find([path]), key=_written)


def _written(file: Path) -> float:
    """When; -1 if it was deleted a moment ago."""
    try:
        return file.stat().st_mtime
    except OSError:
        return -1.0


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
    """Print a run as it is now.

    Raises:
        ReportError: if there is none.
    """
    to.print(picture(_read(newest(path)), to.width, wanted, _bars(to)))


def follow(
    path: str, to: Console, wanted: Callable[[Panel], bool] = lambda panel: True, every: float = 1.0
) -> None:  # fmt: skip
    """Show a run until its history says that it has ended, anew whenever the file has grown.

    Below a folder, a run is waited for: the first one, or one that begins after those that have ended.

    Raises:
        ReportError: if there is no such file or folder.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    waits, went_on, started = Path(path).is_dir(), False, time.time()
    waiting = Text(_plain(f"Waiting for a run to begin below {path}; Ctrl-C ends this."), "dim")
    with Live(waiting, console=to, auto_refresh=False) as live:
        live.refresh()
        seen: tuple[Path, int] | None = None
        while True:
            begin = time.monotonic()
            file = _waited_for(path)
            try:
                now = None if file is None else (file, file.stat().st_size)
                run = _read(file) if file is not None and now != seen else None
            except (ReportError, OSError):  # its first line is being written, or it was deleted a moment ago
                if not waits:
                    raise
                run = None
            if run is not None and file is not None:
                drawn = picture(run, to.width, wanted, _bars(to))
                ended = bool(run.history.run.get("end"))
                went_on |= not ended or started <= _written(file) <= time.time() + 1.0  # not by a clock that is ahead
                live.update(Group(drawn, Text(), waiting) if ended and waits and not went_on else drawn, refresh=True)
                if ended and (went_on or not waits):
                    return
                seen = now
            time.sleep(max(every, 4 * (time.monotonic() - begin)))  # reading a long history takes its time


def _bars(to: Console) -> str:
    return BARS if to.encoding.lower().startswith("utf") else PLAIN_BARS


def _waited_for(path: str) -> Path | None:
    try:
        return newest(path)
    except ReportError:
        if not Path(path).is_dir():
            raise
        return None


def _read(file: Path) -> Run:
    size = file.stat().st_size
    run = next(iter(load([file], thin=size > MOST_READ)))
    if size and not (run.history.run or run.records or run.history.events):
        raise ReportError(f"{file}: no line of it is one of a history")
    return run
