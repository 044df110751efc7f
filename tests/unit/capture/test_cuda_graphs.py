"""Where CUDA graphs are replayed, the tap breaks the graph: a copy inside of it ended a run on an H200."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from lightning_featgeo import _compat
from lightning_featgeo.capture.sources import Sources


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def in_place(**how: object) -> nn.Module:
    model = net()
    model.compile(**how)
    return nn.Sequential(model)


@pytest.mark.parametrize(
    ("make", "used"),
    [
        (net, False),
        (lambda: torch.compile(net()), False),
        (lambda: torch.compile(net(), mode="reduce-overhead"), True),
        (lambda: nn.Sequential(torch.compile(net(), mode="max-autotune")), True),
        (lambda: torch.compile(net(), options={"triton.cudagraphs": True}), True),
        (lambda: in_place(mode="reduce-overhead"), True),
        (in_place, False),
    ],
)
def test_it_is_told_which_models_are_replayed(make: Callable[[], nn.Module], used: bool) -> None:
    assert _compat.uses_cuda_graphs(make()) is used


@pytest.mark.compiler
@pytest.mark.parametrize(("cuda_graphs", "graphs"), [(False, 1), (True, 2)])
def test_the_graph_is_broken_at_the_tap_only_where_it_would_be_replayed(
    cuda_graphs: bool, graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(_compat, "uses_cuda_graphs", lambda root: cuda_graphs)
    traced: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        traced.append(graph)
        return graph.forward

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = net()[:2], net()[2]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    model = Model()
    sources = Sources(model, None, "head", None, None, [])
    sources.open()
    model(torch.randn(4, 6))  # type checks of the tests are made at a function's first call: not while it is traced
    sources.take(None, None)
    compiled = torch.compile(model, backend=backend)
    for _ in range(3):
        x = torch.randn(4, 6)
        sources.open()
        compiled(x)
        (caught,) = sources.take(None, None)
        torch.testing.assert_close([call.features for call in caught], [model.body(x)])
    assert len(traced) == graphs
    sources.remove()
