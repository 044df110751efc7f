"""What entered the network for a call of a watched module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_featgeo.capture.entrance import SEARCHED
from lightning_featgeo.capture.sources import Sources


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
        self.neck, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.encoder(x)))


def entered(net: Net, step: object, times: int = 1, grad: bool = True) -> list[list[Tensor]]:
    sources = Sources(net, None, "head", None, None, [])
    for _ in range(times):
        sources.open()
        with torch.set_grad_enabled(grad):
            step(net)  # type: ignore[operator]
        (calls,) = sources.take(None, None)
    assert not net._forward_hooks  # no hook is left between steps
    assert not net.encoder._forward_pre_hooks
    return [list(call.entered or ()) for call in calls]


X, X2 = torch.randn(4, 6), torch.randn(4, 6)


@pytest.mark.parametrize("times", [1, SEARCHED + 3])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "step",
    [
        lambda net: net(X),
        lambda net: net.head(net.neck(net.encoder(X))),
        lambda net: net.head(net.encoder(X).relu()),
        lambda net: net.head(net.encoder[1](net.encoder[0](X)) * 2),
    ],
)
def test_a_call_is_traced_to_the_networks_input(step: object, grad: bool, times: int) -> None:
    ((found,),) = entered(Net(), step, times, grad)
    assert found is X


@pytest.mark.parametrize("grad", [True, False])
def test_two_calls_have_inputs_of_their_own(grad: bool) -> None:
    def interleaved(net: Net) -> None:
        a, b = net.encoder(X), net.encoder(X2)
        net.head(b.tanh())
        net.head(a)

    found = entered(Net(), interleaved, grad=grad)
    if grad:
        assert [one[0] is x for one, x in zip(found, (X2, X), strict=True)] == [True, True]
    assert found[1][0] is X  # the same memory


def test_calls_of_other_hooks_do_not_count() -> None:
    net, inside = Net(), [False]
    sources = Sources(net, None, "head", None, None, [], is_inside_step=lambda: inside[0])
    sources.open()
    net(X2)
    inside[0] = True
    net(X)
    inside[0] = False
    net(X2)
    (calls,) = sources.take(None, None)
    assert [call.entered for call in calls] == [(X,)]


def test_what_backward_runs_again_does_not_count() -> None:
    from torch.utils.checkpoint import checkpoint

    net = Net()
    for reentrant in (True, False):
        sources = Sources(net, None, "head", None, None, [])
        sources.open()
        checkpoint(net, X.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
        (calls,) = sources.take(None, None)
        assert len(calls) == 1


def test_a_replaced_module_is_found_again() -> None:
    net = Net()
    sources = Sources(net, None, "head", None, None, [])
    assert not sources.refresh()
    net.head = nn.Linear(5, 7)
    assert sources.refresh()
    sources.open()
    net(X)
    assert len(sources.take(None, None)[0]) == 1
    assert sources.head is net.head
