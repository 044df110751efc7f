"""``python -m lightning_featgeo.report``: see ``--help``."""

from __future__ import annotations

import argparse
import sys

from lightning_featgeo.errors import printable
from lightning_featgeo.report import ReportError, write_report


def main(arguments: list[str] | None = None) -> int:
    """Parse, write, say where; 2 if that is not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_featgeo.report",
        description="Curves, spectra, alarms and stops of runs, as one HTML file that works offline.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a history file (….jsonl), or a folder that holds some")
    parser.add_argument("-o", "--output", default="report.html", help="the file to write (report.html)")
    parser.add_argument("--baseline", help="name of the run that others are compared with")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    try:
        path = write_report(given.runs, given.output, given.baseline, given.quiet)
    except (ReportError, OSError) as error:
        print(printable(f"featgeo: {error}"), file=sys.stderr)
        return 2
    print(printable(f"featgeo: {path}") + f" ({path.stat().st_size / 1e6:.2f} MB); open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
