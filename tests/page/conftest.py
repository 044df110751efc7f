"""A real browser: Chromium or Chrome as installed, or the one that playwright has downloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.opened import Opened, reports

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def executable(playwright: Any) -> str | None:
    """Path of a browser, or None."""
    found = os.environ.get("LIGHTNING_FEATGEO_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    own = playwright.chromium.executable_path
    return found or (own if os.path.exists(own) else None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        path = executable(playwright)
        if path is None:
            pytest.skip("no Chromium or Chrome was found: `make browser` installs one")
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Where screenshots are kept."""
    folder = Path(os.environ.get("LIGHTNING_FEATGEO_ARTEFACTS", Path(__file__).parents[2] / "build" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def open_report(browser: Any) -> Iterator[Callable[..., Opened]]:
    with reports(browser) as opener:
        yield opener
