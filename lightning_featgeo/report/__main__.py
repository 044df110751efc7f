"""``python -m lightning_featgeo.report``: see ``--help``."""

from __future__ import annotations

import argparse
import contextlib
import sys

from lightning_featgeo.errors import printable
from lightning_featgeo.report import ReportError, charts, found_runs, page_of, put, survive_encodings, write_report
from lightning_featgeo.report.facts import as_json, as_markdown
from lightning_featgeo.report.live import ADDRESS, LiveReport, server


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
    form.add_argument("--live", action="store_true", help="serve the page to this machine, and follow the runs")
    parser.add_argument("--port", type=int, default=0, help="of --live (one that is free)")
    parser.add_argument("--baseline", help="name of the run that others are compared with")
    parser.add_argument(
        "--outcome", metavar="METRIC", help="of the runs' own, as val/accuracy: which curves went with it?"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    if given.baseline and (given.json or given.markdown):
        parser.error("--baseline is of the page: facts have every run by itself")
    if given.live and given.output:
        parser.error("--output is of a file: --live writes none")
    if given.port and not given.live:
        parser.error("--port is of --live")
    survive_encodings()
    try:
        if given.live:
            return _serve(given.runs, given.port, given.baseline, given.outcome)
        if given.json or given.markdown:
            found, left_out = found_runs(given.runs, given.quiet, thin=False)
            text = (as_json if given.json else as_markdown)(found, left_out, given.outcome)
            if given.output is None:
                print(text if given.json else printable(text), end="")
                return 0
            path = put(text, given.output)
        else:
            output = given.output or "report.html"
            path = write_report(given.runs, output, given.baseline, given.quiet, given.outcome)
    except (ReportError, OSError) as error:
        print(printable(f"featgeo: {error}"), file=sys.stderr)
        return 2
    what = "" if given.json or given.markdown else "; open it in a browser"
    print(printable(f"featgeo: {path}") + f" ({path.stat().st_size / 1e6:.2f} MB){what}")
    return 0


def _serve(runs: list[str], port: int, baseline: str | None, outcome: str | None) -> int:
    charts.libraries()  # said now, if one is missing
    report = LiveReport(runs, lambda paths: page_of(paths, baseline, quiet=True, outcome=outcome))
    with server(report, port) as serving:
        url = f"http://{ADDRESS}:{serving.server_port}/"
        print(f"featgeo: open {url} in a browser of this machine; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            serving.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
