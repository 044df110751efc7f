"""Each signal asked for alone is what it is among all others: it names everything that it reads."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from lightning_featgeo import GeometryMetric
from lightning_featgeo.metrics.catalog import CATALOG
from tests._helpers.data import PLAIN, digits_features

HEAD = torch.nn.Linear(96, 10)
COMPARED = [
    name
    for name, row in CATALOG.items()
    if "reference" in row.requires and not row.requires & {"views", "targets", "groups", "earlier", "layers", "anchor"}
]


def part(signals: str | list[str], of: slice, **settings: Any) -> GeometryMetric:
    x, y = digits_features()
    metric = GeometryMetric(signals, num_classes=10, head=HEAD, **settings)
    metric.update(x[of], y[of])
    return metric


def only(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key == name}


def test_each_signal_alone_is_what_it_is_among_all() -> None:
    names = sorted(PLAIN)
    together = part(names, slice(0, 400)).window()
    for name in names:
        alone = part([name], slice(0, 400)).window()
        assert only(name, alone.values) == pytest.approx(only(name, together.values), rel=1e-9, abs=1e-12)
        assert only(name, alone.gaps) == only(name, together.gaps)


def test_each_comparison_alone_takes_a_reference_that_serves_it_alone() -> None:
    together = part(COMPARED, slice(0, 500), has_reference=True).window(
        reference=part("n_samples", slice(500, 1400), serve=COMPARED)
    )
    for name in COMPARED:
        reference = part("n_samples", slice(500, 1400), serve=[name])
        alone = part([name], slice(0, 500), has_reference=True).window(reference=reference)
        assert only(name, alone.values) == pytest.approx(only(name, together.values), rel=1e-9, abs=1e-12)
        assert only(name, alone.gaps) == only(name, together.gaps)
