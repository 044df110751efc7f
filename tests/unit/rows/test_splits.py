"""Of a graph's nodes, those that the stage is about."""

from typing import Any

import pytest
import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.splits import of_stage

MARKS = torch.tensor([True, False, True, False])
GRAPH = {"x": torch.randn(4, 2), "train_mask": ~MARKS, "val_mask": MARKS}
SAMPLED = {"x": torch.randn(4, 2), "batch_size": 3, "input_id": torch.tensor([7, 1, 5])}


def marked(batch: Any, *rest: Any) -> list[bool] | None:
    found = of_stage(batch, list(tree.tensors(batch)), *rest)
    return None if found is None else found[0].tolist()


@pytest.mark.parametrize(
    ("batch", "rest", "expected"),
    [
        (GRAPH, ("val", 4), MARKS.tolist()),
        (GRAPH, ("train", 4), (~MARKS).tolist()),
        (GRAPH, ("test", 4), None),  # it marks no test nodes
        (GRAPH, ("val", 5), None),  # the mask is of something else
        (GRAPH, ("val", 4, None), None),  # the user wants all
        (GRAPH, ("val", 4, "train_mask"), (~MARKS).tolist()),  # or others
        (GRAPH | {"val_mask": MARKS.float()}, ("val", 4), None),  # numbers are no marks
        (SAMPLED, ("val", 4), [True, True, True, False]),
        (SAMPLED | {"val_mask": MARKS}, ("val", 4), [True, True, True, False]),  # neighbours come again elsewhere
        (SAMPLED | {"input_id": torch.tensor([7])}, ("val", 4), None),
        ([GRAPH["x"], MARKS], ("val", 4), None),
    ],
)
def test_the_stages_own_nodes(batch: Any, rest: tuple[Any, ...], expected: list[bool] | None) -> None:
    assert marked(batch, *rest) == expected
