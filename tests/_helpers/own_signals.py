"""Signals of one's own, as a user writes them."""

from torch import Tensor


def mean_norm(rows: Tensor) -> Tensor:
    return rows.norm(dim=1).mean()


def heaviest_class(class_counts: Tensor, class_means: Tensor, power: float = 2.0) -> float:
    return float(class_means[class_counts.argmax()].norm() ** power)


def broken(rows: Tensor) -> Tensor:
    raise KeyError("nothing there")
