"""What a step makes of labels, from what its losses have shown: batch by batch."""

import torch

from lightning_featgeo.rows.remade import Remade


def learned(*batches: tuple[list[int], list[int]]) -> Remade:
    made = Remade()
    for labels, scored in batches:
        made.learn(torch.tensor(labels), torch.tensor(scored))
    return made


def test_several_classes_of_a_label_in_one_batch_are_noise() -> None:
    made = learned(([0, 0, 1, 1], [0, 1, 2, 2]))
    assert made.varies
    assert made.table is None
    assert made.of(torch.tensor([0, 1]), False).tolist() == [0, 1]


def test_a_label_has_its_class_once_two_batches_have_shown_it() -> None:
    made = learned(([1, 1, 2, 2], [0, 0, 1, 1]))
    assert made.is_pending
    assert made.of(torch.tensor([1, 2]), False).tolist() == [-1, -1]
    made.learn(torch.tensor([1, 2, 2, 1]), torch.tensor([0, 1, 1, 0]))
    assert made.table == {1: 0, 2: 1}
    assert made.of(torch.tensor([2, 1, -1]), False).tolist() == [1, 0, -1]


def test_a_class_that_is_never_scored_has_none_and_one_that_sometimes_is_is_noise() -> None:
    made = learned(*2 * [([0, 0, 1, 1], [0, 0, -1, -1])])
    assert made.table == {0: 0, 1: -1}
    assert made.of(torch.tensor([0, 1]), False).tolist() == [0, -1]
    assert made.are_classes(torch.tensor([0, 1])) is False
    assert learned(([0, 0, 1, 1], [0, 0, 1, -1])).varies
