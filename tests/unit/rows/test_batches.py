import ast
from typing import Any

import pytest
import torch

from lightning_featgeo.errors import ConfigurationError
from lightning_featgeo.rows.batches import batch_size, find_labels, find_mask, select, summarize

X, Y = torch.arange(12.0).reshape(4, 3).sin(), torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        {"image": X, "label": Y},
        {"x": X, "labels": Y},
        {"x": X, "y": Y},
        ([X, X], Y),
        (X, X, Y),
        (X, {"y": Y}),
    ],
)
def test_labels_are_found_in_the_usual_shapes(batch) -> None:
    found = find_labels(batch)
    assert found is not None
    assert torch.equal(found, Y)
    assert batch_size(batch) == 4


@pytest.mark.parametrize(
    "batch", [X, (X,), (X, X), (X, torch.rand(4)), (X, Y, Y + 1), {"x": X}, (X, Y > 0), "text", (X, torch.ones(4, 2))]
)
def test_nothing_is_taken_for_labels_that_may_be_something_else(batch) -> None:
    assert find_labels(batch) is None


def test_selectors_take_a_key_an_index_or_a_callable() -> None:
    assert torch.equal(find_labels((X, Y, Y + 5), 2), Y + 5)
    assert torch.equal(find_labels({"a": {"b": Y}}, lambda batch: batch["a"]["b"]), Y)
    assert find_labels((X, Y), None) is None


@pytest.mark.parametrize(
    ("batch", "selector", "says"),
    [
        ({"image": X, "labl": Y}, "label", "Did you mean 'labl'"),
        ((X, Y), 5, "labels=5: the batch has 2 parts, from 0 to 1: .*Paste: labels=1"),
        ((X, Y), "label", "the batch has 2 parts, from 0 to 1: .*Paste: labels=1"),
        ((X, X[None]), 1, "class labels are integers"),
    ],
)
def test_a_selector_that_finds_nothing_says_what_there_is(batch, selector, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        find_labels(batch, selector)


def test_masks() -> None:
    mask = torch.ones(4, 7)
    assert find_mask({"input_ids": X, "attention_mask": mask}) is mask
    assert find_mask({"attention_mask": torch.ones(4)}) is None
    assert find_mask({"m": mask}, "m") is mask
    assert find_mask({"attention_mask": mask}, None) is None
    assert find_mask((X, Y)) is None


def test_batches_are_described_for_messages() -> None:
    assert summarize({"a": (X, 3)}) == "{'a': tuple(float32(4, 3), int)}"
    assert batch_size(["no tensors"]) is None


@pytest.mark.parametrize(
    ("batch", "what", "line"),
    [
        ((X, Y, ["a"] * 4), "labels", "labels=1"),
        ((X, Y, ["a"] * 4), "id_key", "id_key=2"),
        ({"x": X, "label": Y}, "labels", "labels='label'"),
        ((X, X), "labels", "labels=None"),
    ],
)
def test_the_line_to_paste_works(batch: Any, what: str, line: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Paste: {line}"):
        select(batch, "nowhere", what)
    name, _, given = line.partition("=")
    assert name == what
    chosen = ast.literal_eval(given)
    assert chosen is None or len(select(batch, chosen, what)) == 4
