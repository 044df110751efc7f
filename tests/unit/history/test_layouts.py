"""Layouts: rows in the plane that don't flip between windows, kept in the history and read back."""

import json
from pathlib import Path

import pytest
import torch

from lightning_featgeo import History
from lightning_featgeo.errors import FeatureGeometryWarning
from lightning_featgeo.history.layouts import FINENESS, Layout, aligned, is_due


def layout(points: torch.Tensor | None = None, **given: object) -> Layout:
    found = torch.tensor([[3.0, -1.0], [-4.0, 0.5], [1.0, 0.5]]) if points is None else points
    n = len(found)
    whole = {"stage": "val", "layer": None, "epoch": 1.0, "share": 0.75, "names": {"7": "a cat"}, **given}
    return Layout.of(points=found, samples=torch.arange(7, 7 + n), labels=torch.arange(n) - 1, **whole)


def test_layouts_do_not_flip_between_epochs() -> None:
    """The same cloud, turned in feature space: its picture stays where it was, also with other samples among it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 6, generator=generator) * torch.tensor([5.0, 3.0, 1.0, 0.5, 0.2, 0.1])
    samples = torch.arange(50)
    first = aligned(rows, samples, None)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    order = torch.randperm(50, generator=generator)
    second = aligned((rows @ turn)[order], samples[order], (first, samples))
    assert second.numpy() == pytest.approx(first[order].numpy(), abs=1e-4)
    other = aligned((rows @ turn)[:40], torch.arange(10, 50), (first, samples))
    assert other.shape == (40, 2)
    assert aligned(torch.ones(4, 1), torch.arange(4), None).tolist() == [[0, 0]] * 4


def test_a_layout_is_read_back_to_a_thousandth_of_its_extent(tmp_path: Path) -> None:
    points = torch.tensor([[3.0, -1.0], [-4.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
    history = History(tmp_path / "h.jsonl")
    history.add_layout(layout(points))
    history.add_layout(layout(torch.zeros(2, 2)))
    history.describe({"class_names": ["none", "one"]})
    again = History.load(tmp_path / "h.jsonl")
    first, second = again.layouts
    assert first.plane.numpy() == pytest.approx(points.numpy(), abs=4.0 / FINENESS / 2 * 1.001)
    assert (list(first.samples), list(first.labels), dict(first.names)) == ([7, 8, 9], [-1, 0, 1], {"7": "a cat"})
    assert (first.share, first.stage, first.layer, first.epoch) == (0.75, "val", None, 1.0)
    assert second.plane.tolist() == [[0, 0]] * 2  # all rows alike
    assert again.run["class_names"] == ["none", "one"]


@pytest.mark.parametrize(
    "damage",
    [
        {"points": [1, 2, 3]},
        {"points": [1, 2, 3, 4, 5, 10**6]},
        {"samples": [1, 2, "3"]},
        {"labels": [1]},
        {"unit": float("nan")},
        {"stage": 3},
        {"names": {"cat": "7"}},
        {"share": None},
    ],
)
def test_a_damaged_layout_costs_no_other_line(tmp_path: Path, damage: dict[str, object]) -> None:
    path = tmp_path / "h.jsonl"
    good = {"layout": layout().as_dict()}
    lines = [good, {"layout": {**layout().as_dict(), **damage}}, {"end": "finished"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(FeatureGeometryWarning, match="1 lines"):
        again = History.load(path)
    assert len(again.layouts) == 1
    assert again.run["end"] == "finished"


def test_windows_that_keep_one_grow_like_a_logarithm() -> None:
    assert all(is_due(n) for n in range(1, 32))
    counts = [sum(is_due(n) for n in range(2**k, 2 ** (k + 1))) for k in range(4, 17)]
    assert counts == [16] * 13
