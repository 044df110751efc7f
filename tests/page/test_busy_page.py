"""Reports of many runs and long ones, and pages on which much happens at once."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_featgeo.history.layouts import Layout
from lightning_featgeo.report import write_report
from tests._helpers.histories import record, write
from tests.page.opened import TO_THE_MIDDLE, Opened
from tests.page.test_report_page import HOSTILE


def test_many_runs_leave_the_curves_in_reach(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    for i in range(20):
        write(tmp_path / f"{i:02}.jsonl", name=f"seed {i}", windows=4)
    opened = open_report(write_report(tmp_path, tmp_path / "report.html", quiet=True))
    assert opened.page.locator("#curves").bounding_box()["y"] < 900
    opened.all_drawn()
    assert len(opened.colours(0)) == 8  # and dashes beyond
    assert opened.said == []


def test_a_thousand_epochs_of_fifty_signals(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    signals = tuple(f"own_signal_{i}" for i in range(50))
    lines = [json.dumps({"window": vars(record(i, signals=signals))}) for i in range(1000)]
    (tmp_path / "long.jsonl").write_text("\n".join(lines) + "\n")
    path = write_report(tmp_path / "long.jsonl", tmp_path / "report.html", quiet=True)
    assert path.stat().st_size < 2e6
    opened = open_report(path)
    opened.all_drawn()
    assert opened.page.locator(".chart[data-drawn]").count() == 50 + 1
    assert opened.said == []


SECONDS = float(os.environ.get("LIGHTNING_FEATGEO_TOGGLES", "4"))  # a minute and more finds what comes rarely


def test_switches_at_random_while_charts_are_drawn(
    open_report: Callable[..., Opened], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.jsonl", 40, name=f"run {i}")
    opened = open_report(write_report(tmp_path, tmp_path / "report.html", quiet=True))
    page, choose, done = opened.page, random.Random(0), 0
    switches = page.locator("input[type=checkbox], input[type=radio], select, summary, button").all()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or done <= 20:  # a busy machine takes longer
        done += 1
        what = choose.random()
        if what < 0.7:
            switch = choose.choice(switches)
            if switch.is_visible() and not switch.get_attribute("data-csv") and switch.get_attribute("id") != "csv":
                switch.evaluate("one => one.click()")
        elif what < 0.8:
            page.set_viewport_size({"width": choose.randint(320, 1600), "height": choose.randint(400, 1200)})
        elif what < 0.9:
            page.evaluate("y => scrollTo(0, y)", choose.randint(0, 6000))
        else:
            page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    record_property("switched", done)
    page.wait_for_timeout(300)
    assert opened.said == []


def test_a_slider_goes_through_the_windows_of_a_layout(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    """The dots of the chosen window are drawn where they lie, in a square, with their names; each over its own extent
    or all over one."""
    history = write(tmp_path / "a.jsonl", windows=2)
    history.describe({"class_names": ["<b>cat", "dog"]})
    square = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    for epoch, size in ((1.0, 4.0), (2.0, 1.0)):
        history.add_layout(
            Layout.of(
                "val",
                None,
                epoch,
                0.5,
                square * size,
                torch.arange(4),
                torch.tensor([0, 1, 0, -1]),
                {"2": HOSTILE} if epoch == 1 else {},
            )
        )  # fmt: skip
    page = write_report(tmp_path / "a.jsonl", tmp_path / "report.html", quiet=True)
    opened = open_report(page, width=500)
    box = "[data-kind='layout']"
    opened.page.locator(box).evaluate(TO_THE_MIDDLE)
    opened.page.wait_for_function(f'document.querySelector("{box}").dataset.drawn')

    def corners() -> list[tuple[float, float]]:
        found = opened.page.eval_on_selector_all(
            f"{box} .mark-symbol.role-mark path",
            """dots => dots.map((dot) => {
              const it = dot.getBoundingClientRect();
              return [it.x + it.width / 2, it.y + it.height / 2];
            })""",
        )
        return [(round(x), round(y)) for x, y in found]

    def wide(points: list[tuple[float, float]]) -> float:
        (ax, ay), (bx, _), (_, cy) = points[0], points[1], points[2]
        assert ax - bx == pytest.approx(cy - ay, abs=1)  # a square stays one
        return ax - bx

    slider, told = opened.page.locator("input[data-frames]"), opened.page.locator("output[data-frame]")
    assert told.inner_text() == "epoch 2: 50 % of the variance"
    small = wide(corners())
    slider.focus()
    opened.page.keyboard.press("ArrowLeft")
    assert told.inner_text() == "epoch 1: 50 % of the variance"
    assert wide(corners()) == pytest.approx(4 * small, rel=0.05)
    opened.page.locator("input[data-scale]").uncheck()
    opened.page.keyboard.press("Tab")
    slider.fill("1")
    assert wide(corners()) == pytest.approx(4 * small, rel=0.05)
    x, y = corners()[2]
    opened.page.mouse.move(x, y)
    tip = opened.page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert "</script><img src=x" in tip.inner_text()
    assert "<b>cat" in tip.inner_text()
    assert opened.page.evaluate("window.hacked") is None
    assert opened.said == []


def test_a_slider_goes_through_how_alike_layers_are(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    """Each cell has the colour and the words of its pair of layers, in the window that is chosen."""
    history = write(tmp_path / "a.jsonl", windows=0, end=None)
    for window, alike in enumerate((0.0, 1.0)):
        for i, name in enumerate((HOSTILE, "same", "same")):
            matrix = [[], [alike], [None, 0.5]] if i == 0 else []
            history.append(record(window, layer=None if i == 0 else f"l{i}", facts={"layer": name}, layer_cka=matrix))
    opened = open_report(write_report(tmp_path / "a.jsonl", tmp_path / "report.html", quiet=True), width=500)
    box = "[data-kind='matrix']"
    opened.page.locator(box).evaluate(TO_THE_MIDDLE)
    opened.page.wait_for_function(f'document.querySelector("{box}").dataset.drawn')

    def cells() -> list[str]:
        return opened.page.eval_on_selector_all(
            f"{box} .mark-rect.role-mark path", "cells => cells.map((cell) => cell.getAttribute('fill'))"
        )

    assert opened.page.locator("output[data-frame]").inner_text() == "epoch 2"
    last = cells()
    assert len(last) == 7  # row by row; a pair without a value has no cell
    assert last[1] == last[2] == last[0] == last[6]  # CKA of 1, as on the diagonal
    assert last[4] == last[5] != last[0]
    opened.page.locator("input[data-frames]").fill("0")
    opened.page.wait_for_function(
        f"""last => document.querySelectorAll("{box} .mark-rect.role-mark path")[1].getAttribute('fill') !== last""",
        arg=last[1],
    )
    first = cells()
    assert first[1] == first[2] != last[1]
    assert first[4] == last[4]
    assert opened.page.evaluate("window.hacked") is None
    assert opened.said == []


def test_drift_against_several_windows_is_one_chart(open_report: Callable[..., Opened], tmp_path: Path) -> None:
    drifts = ("cka_drift", "cka_drift_first", "cka_drift_best")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", name=name, signals=("feature_std", *drifts), spectrum=[])
    opened = open_report(write_report(tmp_path, tmp_path / "report.html", quiet=True))
    opened.all_drawn()
    assert opened.page.locator("article.panel h3").all_inner_texts()[1:] == ["cka_drift"]
    box = opened.page.locator(".chart[data-panel='1 2 3']")
    lines = box.locator(".mark-line.role-mark path")
    assert lines.count() == 6  # of two runs
    assert len({line.get_attribute("stroke") for line in lines.all()}) == 2
    assert len({line.get_attribute("stroke-dasharray") for line in lines.all()}) == 3
    assert "the best window before" in box.inner_text()
    opened.page.locator("input[data-run='1']").uncheck()
    opened.page.wait_for_function(
        "document.querySelectorAll(\".chart[data-panel='1 2 3'] .mark-line.role-mark path\").length === 3"
    )
    assert opened.page.locator("details[data-numbers]").count() == 4
    assert opened.said == []
