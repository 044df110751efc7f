"""A report that is open in a browser, and what it has done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TO_THE_MIDDLE = "(one) => one.scrollIntoView({block: 'center', behavior: 'instant'})"


@dataclass
class Opened:
    """A page, and what it has done besides."""

    page: Any
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def all_drawn(self) -> None:
        """Scroll to every chart that can be seen, and wait until it is drawn."""
        for box in self.page.locator(".chart").all():
            if box.is_visible():
                box.evaluate(TO_THE_MIDDLE)
                self.page.wait_for_function("(box) => box.dataset.drawn", arg=box.element_handle())

    def colours(self, panel: int) -> set[str]:
        """Stroke colours of the lines of a chart."""
        return set(
            self.page.eval_on_selector_all(
                f".chart[data-panel='{panel}']:not([data-kind]) .mark-line path",
                "paths => paths.map((path) => path.getAttribute('stroke'))",
            )
        )

    def settle(self, panel: int, act: Callable[[], None]) -> None:
        """Do something that draws a chart again, and wait until that has happened."""
        box = f".chart[data-panel='{panel}']:not([data-kind])"
        before = int(self.page.get_attribute(box, "data-drawn"))
        act()
        self.page.wait_for_function(f'Number(document.querySelector("{box}").dataset.drawn) > {before}')


@contextmanager
def reports(browser: Any) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def opener(path: Path, width: int = 1280, dark: bool = False) -> Opened:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(1_800_000)  # ms: a guard against hanging
        opened = Opened(context.new_page())
        opened.page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: opened.said.append(f"error: {error}"))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(path.as_uri())
        return opened

    yield opener
    for context in contexts:
        context.close()
