"""What one node of the autograd graph tells of rows that were taken: also where it keeps nothing that can be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lightning_featgeo import _autograd
from lightning_featgeo.capture.takes import hides_rows, permuted

ORDER = torch.tensor([2, 0, 3, 1])


def features() -> Tensor:
    return 2 * torch.arange(16.0, requires_grad=True).view(4, 4)


def test_a_graph_that_a_backward_has_freed_tells_nothing_and_raises_nothing() -> None:
    taken = features()[ORDER]
    taken.exp().sum().backward()
    assert _autograd.held(taken.grad_fn, "indices") == ()
    assert not _autograd.is_hidden(taken.grad_fn, "indices")
    assert _autograd.saved(taken.grad_fn, "indices") is None
    assert not hides_rows(taken.grad_fn)


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda h: h[ORDER],
    "select": lambda h: h.index_select(0, ORDER),
}
COLUMNS: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda h: h[:, ORDER], "select": lambda h: h.index_select(1, ORDER), "sort": lambda h: h.sort(1).values,
}  # fmt: skip


@pytest.mark.parametrize(
    ("take", "hides"), [*((t, True) for t in ROWS.values()), *((t, False) for t in COLUMNS.values())]
)
def test_under_checkpointing_only_indices_of_rows_hide_an_order(take: Callable[[Tensor], Tensor], hides: bool) -> None:
    made = checkpoint(take, features(), use_reentrant=False)
    assert isinstance(made, Tensor)
    assert hides_rows(made.grad_fn) is hides


def test_only_the_matrix_of_a_permutation_moves_rows() -> None:
    h = features()
    found = permuted((torch.eye(4)[ORDER] @ h).grad_fn)
    assert found is not None
    assert torch.equal(found[1], ORDER)
    for other in (torch.ones(4, 4) / 4, torch.eye(4)[[0, 0, 1, 2]], 2 * torch.eye(4), torch.ones(3, 4)):
        assert permuted((other @ h).grad_fn) is None
    large = torch.zeros(5000, 2, requires_grad=True)
    assert permuted((torch.eye(5000) @ (2 * large)).grad_fn) is None
