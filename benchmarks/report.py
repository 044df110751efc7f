"""Size of a report and the time to write it and to draw it, for short and long runs.

python benchmarks/report.py -o benchmarks/results/report.md

Histories are generated: every signal of the catalogue that a window without reference can have, with standard errors
and spectra of 512 eigenvalues. "drawn" is what the browser takes from opening the file until the first chart is there,
"all" until every chart has been scrolled to and is there (headless Chromium).
"""

from __future__ import annotations

import argparse
import math
import platform
import shutil
import tempfile
import time
from pathlib import Path

from lightning_featgeo.history.history import History
from lightning_featgeo.history.record import Record
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.report import write_report
from lightning_featgeo.watch.watched_layer import thin_spectrum

SIGNALS = [name for name, row in CATALOG.items() if not row.requires & {"reference", "places"}][:50]
SCALES = ((10, 8, 1), (10, 50, 1), (1000, 8, 1), (1000, 50, 1), (1000, 50, 4), (100, 8, 20))


def history(path: Path, epochs: int, signals: int) -> None:
    import torch

    made = History(path)
    made.describe({"name": path.stem, "definitions": dict.fromkeys(SIGNALS[:signals], 1)})
    facts = {"layer": "fc", "dim": 512, "k": 20, "knn_vote_k": 200, "bank_size": 4096, "pool": "rows", "views": "auto"}
    for i in range(epochs):
        values = {
            name: (j + 1) * (1 - math.exp(-i / 20)) + 0.01 * math.sin(i * j) for j, name in enumerate(SIGNALS[:signals])
        }
        errors = {name: 0.0123456 * (1 + j) for j, name in enumerate(values) if j % 3 == 0}
        spectrum = thin_spectrum(torch.arange(1, 513, dtype=torch.float64) ** -(1 + i / epochs))
        made.append(
            Record(i, "val", None, i + 1.0, 100 * (i + 1), values, errors, counts={"seen": 10_000}, facts=facts,
                   spectrum=spectrum)
        )  # fmt: skip


def draw(path: Path) -> tuple[float, float] | None:
    """Seconds until the first chart, and until all have been drawn; None without a browser."""
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 2000})
        begin = time.perf_counter()
        page.goto(path.as_uri())
        page.locator(".chart").first.evaluate("(one) => one.scrollIntoView({block: 'center', behavior: 'instant'})")
        page.wait_for_selector(".chart[data-drawn]", timeout=120_000)
        first = time.perf_counter() - begin
        for box in page.locator(".chart").all():
            box.evaluate("(one) => one.scrollIntoView({block: 'center', behavior: 'instant'})")
            page.wait_for_function("(box) => box.dataset.drawn", arg=box.element_handle(), timeout=120_000)
        every = time.perf_counter() - begin
        browser.close()
    return first, every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    lines = [
        f"# Reports\n\n`python benchmarks/report.py` on {platform.machine()}, 2 cores, Python "
        f"{platform.python_version()}, headless Chromium. Histories are generated.\n",
        "| epochs | signals | runs | histories, MB | report, MB | written in, s | first chart, s | all charts, s |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for epochs, signals, runs in SCALES:
        with tempfile.TemporaryDirectory() as folder:
            for run in range(runs):
                history(Path(folder) / f"run_{run}.jsonl", epochs, signals)
            size = sum(path.stat().st_size for path in Path(folder).glob("*.jsonl"))
            begin = time.perf_counter()
            report = write_report(folder, Path(folder) / "report.html", quiet=True)
            written = time.perf_counter() - begin
            drawn = draw(report)
            shown = ("–", "–") if drawn is None else tuple(f"{seconds:.1f}" for seconds in drawn)
            lines.append(
                f"| {epochs:,} | {signals} | {runs} | {size / 1e6:.2f} | {report.stat().st_size / 1e6:.2f} | "
                f"{written:.1f} | {shown[0]} | {shown[1]} |"
            )
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
