"""The same values on several threads, as users have them: the other tests compute on one."""

from collections.abc import Iterator

import pytest
import torch

from lightning_featgeo import GeometryMetric
from tests._helpers.data import PLAIN, head

WIDE = 160  # LAPACK's own threads start at 150 or so


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _values(count: int) -> dict[str, float]:
    torch.set_num_threads(count)
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(4 * 200) % 4  # as many of each class: their matrices are decomposed together
    x = torch.relu(torch.randn(len(y), WIDE, generator=generator) + 0.3 * torch.randn(4, WIDE, generator=generator)[y])
    metric = GeometryMetric(sorted(PLAIN), num_classes=4, head=head(4, WIDE))
    metric.update(x, y)
    return dict(metric.window().values)


@pytest.mark.usefixtures("threads")
def test_every_signal_of_labelled_rows() -> None:
    one, several = _values(1), _values(3)
    assert {"coding_rate_reduction", "dsmi", "nc1"} <= set(one)
    assert several == pytest.approx(one, rel=1e-9, abs=1e-12)
