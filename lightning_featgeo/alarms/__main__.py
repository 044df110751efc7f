"""``python -m lightning_featgeo.alarms``: see ``--help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_featgeo.alarms import limits, rates
from lightning_featgeo.alarms.kinds import KINDS, Kind
from lightning_featgeo.errors import ConfigurationError, printable
from lightning_featgeo.report.runs import ReportError, Run, distinct, find, load

FEW = 60  # intact runs, below which not even a rate of 5 % can be told from 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m lightning_featgeo.alarms",
        description="Rates of alarms on your own runs, and limits that are fixed on them. Nothing is trained.",
    )
    commands = made.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="replay a kind of alarm over histories: how often is it right?")
    check.add_argument("runs", nargs="*", metavar="RUN", help="history files or folders of intact runs")
    check.add_argument("--failed", nargs="+", default=[], metavar="RUN", help="the same, of runs that failed")
    check.add_argument("--limits", help="a file that `calibrate` wrote; without it, the ready-made limits")
    fix = commands.add_parser("calibrate", help="fix limits so that none of these intact runs would be stopped")
    fix.add_argument("runs", nargs="+", metavar="RUN", help="history files or folders of intact runs")
    fix.add_argument("-o", "--out", default="limits.yaml", help="the file to write (limits.yaml)")
    for command in (check, fix):
        command.add_argument("--kind", choices=list(KINDS), default="collapse", help="(collapse)")
        command.add_argument("--stage", default="val", help="as in the logged names (val)")
        command.add_argument("--layer", help="as in the logged names; without it, the first one")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked; 2 if that is not possible."""
    given = parser().parse_args(arguments)
    try:
        lines = _check(given) if given.command == "check" else _calibrate(given)
    except (ConfigurationError, ReportError, OSError) as error:
        print(printable(f"featgeo: {error}"), file=sys.stderr)
        return 2
    for line in lines:
        print(printable(line))
    return 0


def _runs(paths: Sequence[str], said: list[str]) -> list[Run]:
    if not paths:
        return []
    runs, left_out = distinct(list(load(find(paths))))
    said += [f"left out: {each}" for each in left_out]
    said += [f"{run.name}: {note}" for run in runs for note in run.notes]
    return runs


def _check(given: argparse.Namespace) -> list[str]:
    if not given.runs and not given.failed:
        raise ReportError("name intact runs, or --failed ones: history files, or folders that hold some")
    if both := {path.resolve() for path in find(given.runs)} & {path.resolve() for path in find(given.failed)}:
        raise ReportError(f"a run is intact or failed, not both: {min(both)}")
    kind: Kind = limits.read(given.limits, given.kind) if given.limits else KINDS[given.kind]
    lines: list[str] = []
    intact, failed = (
        [rates.replay(run.name, run.records, kind, given.stage, given.layer) for run in _runs(paths, lines)]
        for paths in (given.runs, given.failed)
    )
    if all(run.why for run in (*intact, *failed)):
        raise ReportError(_none_of({run.name: run.why for run in (*intact, *failed)}))
    for title, replayed in (("intact", intact), ("failed", failed)):
        for run in replayed:
            told = [alarm.line for alarm in (run.notice, run.failure) if alarm]
            names = [name for name, alarm in (("notice", run.notice), ("failure", run.failure)) if alarm]
            lines.append(f"{title}  {run.name}: {run.windows} windows; " + (", ".join(names) or run.why or "quiet"))
            lines += [f"    {name}: {line}" for name, line in zip(names, told, strict=True)]
    lines += ["", *rates.summary(intact, failed)]
    known = sum(not run.why for run in intact)
    if not known:
        lines.append("without intact runs nothing can be said of false alarms: name some")
    elif known < FEW:
        lines.append(f"few intact runs ({known}): with n of them, rates below 3/n can't be told from none")
    return lines


def _none_of(why: Mapping[str, str]) -> str:
    return "\n  ".join(["none of these runs can be judged:", *(f"{name}: {each}" for name, each in why.items())])


def _calibrate(given: argparse.Namespace) -> list[str]:
    lines: list[str] = []
    kind, runs, out = KINDS[given.kind], _runs(given.runs, lines), Path(given.out)
    if out.exists():
        raise ReportError(f"{out} is there already: name another file with --out")
    replayed = {run.name: rates.replay(run.name, run.records, kind, given.stage, given.layer) for run in runs}
    blind = {name: each.why for name, each in replayed.items() if each.why}
    lines += [f"left out: {name}: {why}" for name, why in blind.items()]
    used = {run.name: run.records for run in runs if run.name not in blind}
    if not used:
        raise ReportError(_none_of(blind))
    found = rates.calibrate(used, kind, given.stage, given.layer)
    try:
        limits.write(out, kind, {at: each.fraction for at, each in found.items()}, len(used))
    except OSError as error:
        raise ReportError(f"{out} can't be written ({error.strerror or error})") from None
    for at, each in found.items():
        watch, now = kind.watches[at], limits.fraction_of(kind.watches[at])
        lines.append(
            f"{watch.title}: {type(watch.rule).__name__} of {watch.signal} holds from {each.fraction:.3f} (was {now}), "
            f"for the sake of {each.run}"
        )
    if found:
        lines.append("if one of these runs is not intact, leave it out: it widens the limit for all others")
    if not found:
        lines.append(f"none of {len(used)} would be stopped by the ready-made limits, which stay as they are")
    high = rates.interval(0, len(used))[1]
    lines.append(
        f"with these limits none of {len(used)} would be stopped, on which they were fixed; on others the rate may be "
        f"{high:.0%} or more: check them on runs that are not among these"
    )
    lines.append(f"wrote {out}; use it as GeometryEarlyStopping({given.kind!r}, limits={str(out)!r})")
    return lines


if __name__ == "__main__":
    sys.exit(main())
