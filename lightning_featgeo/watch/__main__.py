"""``python -m lightning_featgeo.watch``: a run in the terminal; see ``--help``."""

from __future__ import annotations

import argparse
import sys

from lightning_featgeo.errors import printable
from lightning_featgeo.report import ReportError, survive_encodings, terminal


def main(arguments: list[str] | None = None) -> int:
    """Show a run, once or until it ends; 2 if that is not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_featgeo.watch",
        description="A run's curves, alarms and gaps in the terminal, while it goes on. Ctrl-C ends the view only.",
    )
    parser.add_argument("run", metavar="RUN", help="a history file (….jsonl), or a folder: its newest one")
    parser.add_argument("--once", action="store_true", help="print what there is now, and end")
    parser.add_argument("--stage", help="curves of this stage only, such as val")
    parser.add_argument(
        "--signal", action="append", default=[], metavar="NAME", help="these only; * stands for anything"
    )
    parser.add_argument("--layer", help="of layers of this name only; * stands for anything")
    parser.add_argument("--width", type=int, help="columns, from 40 on (those of the terminal)")
    given = parser.parse_args(arguments)
    if given.width is not None and given.width < 40:
        parser.error(f"--width {given.width}: a table needs 40 columns")
    wanted = terminal.named(given.signal, given.stage, given.layer)
    survive_encodings()
    try:
        to = terminal.console(width=given.width)
        if given.once:
            terminal.show(given.run, to, wanted)
        else:
            terminal.follow(given.run, to, wanted)
    except KeyboardInterrupt:
        return 0
    except (ReportError, OSError) as error:
        print(printable(f"featgeo: {error}"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
