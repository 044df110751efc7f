"""Batches of PyTorch Geometric, by what they promise: the library itself is tried in ``make compat``."""

from typing import Any

import torch

from lightning_featgeo.rows import tree
from lightning_featgeo.rows.label_search import label_parts


class Hetero:
    """Makes whatever is asked for, and says its keys in any order."""

    __module__ = "torch_geometric.data.hetero_data"

    def __init__(self) -> None:
        self.stores: dict[Any, dict[str, torch.Tensor]] = {
            "paper": {"x": torch.zeros(4, 2), "y": torch.arange(4)},
            ("author", "writes", "paper"): {"edge_index": torch.zeros(2, 5, dtype=torch.int64)},
        }

    def keys(self) -> list[str]:
        return ["y", "edge_index", "x"]

    def __getitem__(self, key: Any) -> dict[str, torch.Tensor]:
        return self.stores.setdefault(key, {})

    def to_dict(self) -> dict[Any, dict[str, torch.Tensor]]:
        return {key: dict(store) for key, store in self.stores.items()}


def test_a_graph_of_several_kinds_of_nodes_is_read_and_not_changed() -> None:
    graph = Hetero()
    found = {tree.dotted(path): x.shape for path, x in tree.tensors(graph)}
    assert found == {"paper.x": (4, 2), "paper.y": (4,), "author__writes__paper.edge_index": (2, 5)}
    assert [path for path, _ in label_parts(graph)] == [("paper", "y")]
    assert tree.follow(graph, "paper.y") is graph["paper"]["y"]
    assert list(graph.stores) == ["paper", ("author", "writes", "paper")]
