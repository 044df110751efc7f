"""Pictures of a report for these pages: light, and dark on a narrow screen. `make figures` runs it.

python docs/screenshots.py runs/collapse.html runs/sweep/report.html docs/images
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
COLLAPSES = "without stop-gradient"  # the run whose rows draw together
SHOTS = {"report_light.png": (1280, 1000, "light"), "report_narrow_dark.png": (400, 1000, "dark")}


def main(report: Path, sweep: Path, folder: Path) -> None:
    """Take the pictures."""
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (width, height, scheme) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(report.resolve().as_uri())
            if scheme == "dark":
                page.locator("#part-0").evaluate("(one) => one.scrollIntoView({behavior: 'instant'})")
            page.wait_for_selector(".chart[data-drawn]")
            page.wait_for_timeout(500)
            page.screenshot(path=folder / name)
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        panel = page.locator("article:has([data-kind='layout'])", has_text=COLLAPSES).first
        panel.scroll_into_view_if_needed()
        panel.locator("[data-drawn]").wait_for()
        slider = panel.locator("input[data-frames]")
        for when, key in (("first", "Home"), ("last", "End")):
            slider.press(key)
            page.wait_for_timeout(500)
            panel.screenshot(path=folder / f"report_layout_{when}.png")
        page.goto(sweep.resolve().as_uri())
        outcome = page.locator("#outcome")
        outcome.scroll_into_view_if_needed()
        page.wait_for_selector("[data-kind='outcome'][data-drawn]")
        page.wait_for_timeout(500)
        outcome.screenshot(path=folder / "report_outcome.png")
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
