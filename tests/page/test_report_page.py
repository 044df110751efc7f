"""The report in a real browser: drawn, not only present; hovered, toggled, downloaded; no request, no error."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_featgeo.history.history import History
from lightning_featgeo.report import write_report
from tests._helpers.histories import SIGNALS, record, stop, write
from tests.page.opened import TO_THE_MIDDLE, Opened, reports

HOSTILE = "</script><img src=x onerror='window.hacked=1'> \"quoted\" & 'more' \u202e 雪 {{x}} ${y} " + "long " * 20


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: one intact, one hostile in name that stops and has gaps, one with another k."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "a.jsonl", name="intact")
    stop(write(folder / "b.jsonl", windows=9, name=HOSTILE, end=None, gap=("nc1",)), 5.0)
    other = {**record(0).facts, "k": 10}
    stop(write(folder / "c.jsonl", name="other k", facts=other), 7.0, kind="alarm", text="tail merging")
    history = History.load(folder / "a.jsonl")
    history.path = folder / "a.jsonl"
    for i in range(12):
        gap = ("nc1",) if i in (3, 4, 8, 10) else ()
        history.append(record(i, stage="train", gap=gap))
    return write_report(sorted(folder.glob("*.jsonl")), folder / "report.html", baseline="intact", quiet=True)


@pytest.fixture(scope="module")
def drawn(browser: Any, compared: Path) -> Iterator[Opened]:
    """The three runs, every chart drawn: for tests that change nothing on the page."""
    with reports(browser) as opener:
        opened = opener(compared)
        opened.all_drawn()
        yield opened


def test_charts_are_drawn_without_an_error_or_a_request(drawn: Opened, compared: Path, artefacts: Path) -> None:
    opened = drawn
    opened.page.screenshot(path=artefacts / "compared_light.png", full_page=True)
    assert opened.said == []
    assert opened.requests == [compared.as_uri()]
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator(".run h2").nth(1).inner_text().startswith("</script><img src=x onerror=")
    charts = opened.page.eval_on_selector_all(
        ".chart:not([data-kind])",
        """boxes => boxes.map((box) => {
          const own = box.getBoundingClientRect();
          return [...box.querySelectorAll('.mark-line path[d]')].map((path) => {
            const it = path.getBoundingClientRect();
            const across = it.left >= own.left && it.right <= own.right;
            return {points: path.getAttribute('d').split(/[ML]/).length - 1, wide: it.width, high: it.height,
                    inside: across && it.top >= own.top && it.bottom <= own.bottom};
          });
        })""",
    )
    assert len(charts) == len(SIGNALS) + 1 + len(SIGNALS)  # the other k stands apart for id_two_nn
    for lines in charts:
        assert lines
        for line in lines:
            assert line["points"] in (9, 12) or line["points"] == 8  # with gaps: what is left
            assert line["inside"]
            assert line["wide"] > 100
            assert line["high"] > 20


def test_curves_that_differ_stand_apart_and_the_reason_is_said(drawn: Opened) -> None:
    apart = drawn.page.locator(".panel", has_text="Separate panel")
    assert apart.count() == 1
    assert "id_two_nn" in apart.inner_text()
    assert "other k differs in neighbours (k): 10 instead of 20" in apart.inner_text()


def test_hovering_shows_the_values(drawn: Opened, artefacts: Path) -> None:
    opened = drawn
    box = opened.page.locator(".chart[data-panel='0']:not([data-kind])")
    box.evaluate(TO_THE_MIDDLE)
    frame = box.bounding_box()
    opened.page.mouse.move(frame["x"] + frame["width"] * 0.6, frame["y"] + frame["height"] * 0.3)
    opened.page.mouse.move(frame["x"] + frame["width"] * 0.7, frame["y"] + frame["height"] * 0.4, steps=20)
    tip = opened.page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    text = tip.inner_text()
    opened.page.screenshot(path=artefacts / "hover.png")
    epoch = int(re.search(r"epoch\s*(\d+)", text)[1])
    value = float(re.search(r"value\s*([\d.]+)", text)[1])
    assert value == pytest.approx(record(epoch - 1).values["feature_std"], rel=1e-4)
    assert any(name in text for name in ("intact", "</script>", "other k"))  # whose it is

    gap = opened.page.locator(".chart:not([data-kind]) .mark-symbol path[aria-label*='no value']").first
    gap.evaluate(TO_THE_MIDDLE)
    gap.hover()
    opened.page.wait_for_function(
        "document.getElementById('vg-tooltip-element').innerText.includes('the rows were all the same')"
    )
    assert opened.said == []


def test_toggles(open_report: Callable[..., Opened], compared: Path, artefacts: Path) -> None:
    opened = open_report(compared)
    opened.all_drawn()
    page = opened.page
    assert len(opened.colours(0)) == 3
    opened.settle(0, page.locator("input[data-run='1']").uncheck)
    assert len(opened.colours(0)) == 2
    opened.settle(0, lambda: page.keyboard.press("Space"))  # the keyboard does it too: the box has the focus
    assert len(opened.colours(0)) == 3

    chart = ".chart[data-panel='0']:not([data-kind])"
    assert "optimiser step" not in page.inner_text(chart)
    opened.settle(0, page.locator("input[value='step']").check)
    assert "optimiser step" in page.inner_text(chart)

    banded = next(i for i in range(20) if page.locator(f".chart[data-panel='{i}'] .mark-area").count())
    opened.settle(banded, page.locator("#errors").uncheck)
    assert page.locator(f".chart[data-panel='{banded}'] .mark-area").count() == 0

    before = opened.colours(0)
    opened.settle(0, page.locator("#theme").click)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert opened.colours(0) != before  # the baseline is drawn in the page's ink
    page.screenshot(path=artefacts / "compared_dark.png", full_page=True)

    part = page.locator("#part-1")
    assert part.is_visible()
    page.locator("input[data-part='part-1']").uncheck()
    assert not part.is_visible()
    page.locator("#theme").click()  # drawn again while it is hidden
    page.locator("input[data-part='part-1']").check()
    opened.all_drawn()
    widths = part.locator(".chart svg").evaluate_all("all => all.map((svg) => svg.getBoundingClientRect().width)")
    assert len(widths) == len(SIGNALS) + 1
    assert min(widths) > 200

    spectra = page.locator("article[data-of='1']")
    assert spectra.first.is_visible()
    page.locator("input[data-run='1']").uncheck()
    assert not spectra.first.is_visible()
    assert opened.said == []


def test_narrow_and_dark_and_light_on_paper(
    open_report: Callable[..., Opened], compared: Path, artefacts: Path
) -> None:
    opened = open_report(compared, width=360, dark=True)
    opened.all_drawn()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"
    opened.page.screenshot(path=artefacts / "compared_narrow.png", full_page=True)
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "light"
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"
    opened.all_drawn()
    assert opened.said == []


def test_a_run_named_like_a_colour_is_drawn(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="var(--ink)")
    opened = open_report(write_report(tmp_path / "a.jsonl", tmp_path / "report.html", quiet=True))
    opened.all_drawn()
    (colour,) = opened.colours(0)
    assert colour
    assert colour.startswith("#")


def test_numbers_as_a_table_and_as_csv(drawn: Opened, tmp_path: Path) -> None:
    opened = drawn
    with opened.page.expect_download() as coming:
        opened.page.locator("#csv").click()
    coming.value.save_as(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    mine = [r for r in rows if (r["run"], r["stage"], r["signal"]) == ("intact", "val", "id_two_nn")]
    assert [float(r["value"]) for r in mine] == pytest.approx(
        [record(i).values["id_two_nn"] for i in range(12)], rel=1e-5
    )
    assert {float(r["standard_error"]) for r in mine} == {0.1}
    gaps = [r for r in rows if r["gap"]]
    assert len(gaps) == 9 + 4
    assert {r["value"] for r in gaps} == {""}
    numbers = opened.page.locator("details[data-numbers='0']")
    numbers.locator("summary").click()
    numbers.locator("table").wait_for()
    assert numbers.locator("tr").count() == 1 + 12 + 9 + 12


def test_no_cell_of_a_csv_is_run_by_a_spreadsheet(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", name="=1+1;=cmd; @sum")
    opened = open_report(write_report(tmp_path / "a.jsonl", tmp_path / "report.html", quiet=True))
    with opened.page.expect_download() as coming:
        opened.page.locator("#csv").click()
    coming.value.save_as(tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        assert {row["run"] for row in csv.DictReader(file)} == {"'=1+1;'=cmd; '@sum"}


def test_every_chart_and_control_has_words(drawn: Opened) -> None:
    page = drawn.page
    labels = page.eval_on_selector_all(
        ".chart", "all => all.map((one) => one.parentElement.getAttribute('aria-label'))"
    )
    assert all(len(label) > 20 for label in labels)
    assert any("4 of 12 windows without a value (undefined)" in label for label in labels)
    unnamed = page.eval_on_selector_all(
        "input, button", "all => all.filter((one) => !(one.labels?.length || one.textContent.trim())).length"
    )
    assert unnamed == 0


def test_a_line_for_each_run_through_what_went_with_an_outcome(
    open_report: Callable[..., Opened], tmp_path: Path, artefacts: Path
) -> None:
    for i in range(7):
        history = write(tmp_path / f"{i}.jsonl", windows=2, name=HOSTILE if i == 0 else f"run {i}", end=None)
        values = {"effective_rank": float(i), "nc1": float(i % 3)}
        history.append(record(2, signals=("effective_rank", "nc1"), values=values))
        history.log_metrics({"val/acc": i / 10}, 3.0, 60)
    report = write_report(sorted(tmp_path.glob("*.jsonl")), tmp_path / "report.html", quiet=True, outcome="val/acc")
    opened = open_report(report)
    box = opened.page.locator(".chart[data-kind='outcome']")
    box.evaluate(TO_THE_MIDDLE)
    opened.page.wait_for_function("(box) => box.dataset.drawn", arg=box.element_handle())
    lines = box.locator(".mark-line path")
    assert lines.count() == 7
    assert len(set(lines.evaluate_all("paths => paths.map((path) => path.getAttribute('stroke'))"))) == 7
    assert {"0", "6", "0.6"} <= set(box.locator("svg .mark-text text").all_text_contents())
    rows = opened.page.locator("#outcome tr")
    assert rows.nth(1).inner_text().split("\t")[:2] == ["featgeo/val/effective_rank", "+1.00 (+0.82 to +1.00)"]
    opened.page.screenshot(path=artefacts / "outcome.png", full_page=True)
    before = int(box.get_attribute("data-drawn") or 0)
    opened.page.locator("input[data-run='3']").uncheck()
    opened.page.wait_for_function(f"document.querySelector('[data-kind=outcome]').dataset.drawn > {before}")
    assert lines.count() == 6
    assert opened.said == []
    assert opened.page.evaluate("window.hacked") is None
