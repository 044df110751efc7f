"""Matrices of all pairs of layers, against the pairs one by one."""

import pytest
import torch

from lightning_featgeo.metrics.functional.between_layers import cka_matrix, overlap_matrix
from tests._helpers import oracles


def test_the_other_matrix_is_the_overlap_of_each_pair() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=g)
    layers = [x, x + 0.3 * torch.randn(200, 8, generator=g), torch.randn(200, 30, generator=g)]
    found = overlap_matrix(layers)
    for i, one in enumerate(layers):
        for j, other in enumerate(layers):
            truth = 1.0 if i == j else oracles.overlap(one.double().numpy(), other.double().numpy())
            assert float(found[i, j]) == pytest.approx(truth, abs=1e-9)


def test_the_matrix_of_layers_is_the_cka_of_each_pair() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(80, 30, generator=g)
    layers = [x, 3 * x @ torch.linalg.qr(torch.randn(30, 30, generator=g)).Q + 5, torch.randn(80, 200, generator=g)]
    found = cka_matrix([*layers, torch.ones(80, 4)])
    for i, one in enumerate(layers):
        for j, other in enumerate(layers):
            assert float(found[i, j]) == pytest.approx(
                oracles.cka(one.double().numpy(), other.double().numpy()), rel=1e-9
            )
    assert bool(found[3].isnan().all())
    assert float(found[0, 1]) == pytest.approx(1)
