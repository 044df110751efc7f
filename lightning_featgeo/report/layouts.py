"""The same rows in the plane, window after window: what the page's slider goes through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_featgeo.history.layouts import Layout
from lightning_featgeo.report.runs import Run

MOST_FRAMES = 48  # windows of one sequence
MOST_POINTS = 100_000  # in all of them
MOST_CLASSES = 20  # that colours can tell apart


def sequences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One for each stage and layer of a run whose history has layouts: frames, and rows with their names and classes.

    Windows are chosen evenly, the first and the last among them. Whatever a run's windows share is there once.
    """
    found = {(i, *key): own for i, run in enumerate(runs) for key, own in _by_curve(run.history.layouts).items()}
    points = sum(len(layout.samples) for own in found.values() for layout in own)
    share = min(1.0, MOST_POINTS / max(points, 1))
    return [
        _sequence(run, stage, layer, own, max(2, min(MOST_FRAMES, int(len(own) * share))), runs[run].history.run)
        for (run, stage, layer), own in found.items()
    ]


def evenly(n: int, most: int) -> list[int]:
    """At most so many of n places, the first and the last among them."""
    return sorted({round(i * (n - 1) / (most - 1)) for i in range(most)}) if n > 1 else [0]


def _by_curve(layouts: Sequence[Layout]) -> dict[tuple[str, str | None], list[Layout]]:
    found: dict[tuple[str, str | None], list[Layout]] = {}
    for layout in layouts:
        if len(layout.samples):
            found.setdefault((layout.stage, layout.layer), []).append(layout)
    return found


def _sequence(
    run: int, stage: str, layer: str | None, own: Sequence[Layout], most: int, header: Mapping[str, Any]
) -> dict[str, Any]:
    n = len(own)
    chosen = evenly(n, most)
    names = {int(sample): name for layout in own for sample, name in layout.names.items()}
    rows: dict[tuple[int, int], int] = {}  # (sample, label) -> its number; a sample with several views comes again
    frames = []
    for layout in [own[i] for i in chosen]:
        pairs = zip(layout.samples, layout.labels, strict=True)
        frames.append(
            {
                "epoch": float(f"{layout.epoch:.6g}"),
                "share": layout.share,
                "unit": layout.unit,
                "points": list(layout.points),
                "rows": [rows.setdefault(pair, len(rows)) for pair in pairs],
            }
        )
    for frame, before in reversed(list(zip(frames[1:], frames[:-1], strict=True))):
        if frame["rows"] == before["rows"]:
            frame["rows"] = None  # those of the frame before
    labels = sorted({label for _, label in rows if label >= 0})
    titles = header.get("class_names") or []
    classes = [titles[label] if label < len(titles) else str(label) for label in labels]
    at = {label: i for i, label in enumerate(labels)}
    return {
        "run": run,
        "stage": stage,
        "layer": layer,
        "of": n,
        "frames": frames,
        "samples": [names.get(sample, f"sample {sample}") for sample, _ in rows],
        "labels": [at.get(label, -1) for _, label in rows],
        "classes": classes,
        "coloured": 0 < len(classes) <= MOST_CLASSES,
    }
