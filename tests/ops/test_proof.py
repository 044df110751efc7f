"""The bound on a scan's products, against sums that are made as different hardware makes them."""

import numpy as np
import pytest
import torch

from lightning_featgeo.cuda_ext.proof import BF16, F32, F64, product_error, unit_roundoff

NOTHING_LOST = torch.zeros((), dtype=torch.float64)  # the rows below are bf16 numbers


def cut_off(x: float) -> float:
    """To the 24 bits of an fp32 number by leaving out the rest, as tensor cores do."""
    mantissa, exponent = np.frexp(x)
    return float(np.ldexp(np.trunc(np.ldexp(mantissa, 24)), exponent - 24))


def tensor_core_product(q: torch.Tensor, b: torch.Tensor, at_once: int) -> float:
    """Products join the sum ``at_once`` at a time, each cut off at the last bit of the largest of them."""
    total = 0.0
    for products in (q.double() * b.double()).split(at_once):
        joined = np.array([total, *products.tolist()])
        last_bit = 2.0 ** (np.frexp(np.abs(joined).max())[1] - 24)
        total = cut_off(float((np.trunc(joined / last_bit) * last_bit).sum()))
    return total


@pytest.mark.parametrize("d", [16, 512, 4096])
@pytest.mark.parametrize("at_once", [4, 8, 16])
def test_sums_that_are_cut_off_stay_within_the_bound(d: int, at_once: int) -> None:
    q, b = torch.full((d,), 2.0**-11), torch.full((d,), 2.0**-12 * (1 + 127 / 128))  # products just below a last bit
    q[0] = b[0] = 1.0
    for row, other in ((q, b), (torch.randn(d).bfloat16(), torch.randn(d).bfloat16())):
        assert torch.equal(row.bfloat16().to(row.dtype), row)
        truth = float(row.double() @ other.double())
        lengths = float(torch.linalg.vector_norm(row.double()) * torch.linalg.vector_norm(other.double()))
        share = abs(tensor_core_product(row, other, at_once) - truth) / lengths
        assert share <= float(product_error(d, NOTHING_LOST, unit_roundoff(BF16, "cuda")))
    share = abs(tensor_core_product(q, b, at_once) - float(q.double() @ b.double())) / float(q.norm() * b.norm())
    if d > 16:  # and beyond that of sums that are rounded
        assert share > 1.5 * float(product_error(d, NOTHING_LOST, unit_roundoff(BF16, "cpu")))


def test_only_bf16_products_on_cuda_are_cut_off() -> None:
    assert [unit_roundoff(p, "cuda") for p in (BF16, F32, F64)] == [2.0**-22, 2.0**-24, 2.0**-53]
    assert [unit_roundoff(p, "cpu") for p in (BF16, F32, F64)] == [2.0**-24, 2.0**-24, 2.0**-53]
