"""``python -m lightning_featgeo.report``: see ``--help``."""

from __future__ import annotations

import argparse
import sys

from lightning_featgeo.errors import printable
from lightning_featgeo.report import ReportError, found_runs, put, write_report
from lightning_featgeo.report.facts import as_json, as_markdown


def main(arguments: list[str] | None = None) -> int:
    """Parse, write, say where; 2 if that is not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_featgeo.report",
        description="Curves, spectra, alarms and stops of runs, as one HTML file that works offline.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a history file (….jsonl), or a folder that holds some")
    parser.add_argument("-o", "--output", help="the file to write (report.html); of the forms below, else the terminal")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="facts for a script: curves, alarms, gaps, what to look at")
    form.add_argument("--markdown", action="store_true", help="the same for people, such as for a pull request")
    parser.add_argument("--baseline", help="name of the run that others are compared with")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    try:
        if given.json or given.markdown:
            text = (as_json if given.json else as_markdown)(*found_runs(given.runs, given.quiet))
            if given.output is None:
                print(text if given.json else printable(text), end="")
                return 0
            path = put(text, given.output)
        else:
            path = write_report(given.runs, given.output or "report.html", given.baseline, given.quiet)
    except (ReportError, OSError) as error:
        print(printable(f"featgeo: {error}"), file=sys.stderr)
        return 2
    what = "" if given.json or given.markdown else "; open it in a browser"
    print(printable(f"featgeo: {path}") + f" ({path.stat().st_size / 1e6:.2f} MB){what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
