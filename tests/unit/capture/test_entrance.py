"""What entered the network for a call of a watched module."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_featgeo.capture.entrance import SEARCHED
from lightning_featgeo.capture.sources import Sources


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
        self.neck, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.encoder(x)))


def entered(net: Net, step: Callable[[Net], Any], times: int = 1, grad: bool = True) -> list[list[Tensor]]:
    sources = Sources(net, None, "head", None, None, [])
    for _ in range(times):
        sources.open()
        with torch.set_grad_enabled(grad):
            step(net)
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
def test_a_call_is_traced_to_the_networks_input(step: Callable[[Net], Any], grad: bool, times: int) -> None:
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


class Values(TorchDispatchMode):
    """Notes what would wait for a device: a value that is read on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"):
            self.read.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_value_is_read_inside_a_step() -> None:
    """Rows are taken just before the head, as where a sequence's last token is classified."""
    net, last = Net(), torch.tensor([3, 1, 0, 2])
    sources = Sources(net, None, "head", None, None, [])
    for _ in range(SEARCHED + 2):
        sources.open()
        with Values() as values:
            hidden = net.neck(net.encoder(X))
            net.head(hidden[last])
            net.head(torch.cat([hidden[2:], hidden[:2]]))
        (calls,) = sources.take(None, None)
        assert values.read == []
        assert [call.rows.tolist() for call in calls if call.rows is not None] == [[3, 1, 0, 2], [2, 3, 0, 1]]


def test_a_stage_that_calls_other_modules_is_searched_anew() -> None:
    net = Net()
    sources = Sources(net, None, "head", None, None, [])
    steps = [lambda: net(X)] * (SEARCHED + 1) + [lambda: net.head(net.neck(net.encoder(X)))] * 3
    seen = []
    for step in steps:
        sources.open()
        with torch.no_grad():
            step()
        (calls,) = sources.take(None, None)
        seen.append(any(one is X for one in calls[0].entered or ()))
    assert seen == [True] * (SEARCHED + 1) + [False, True, True]


def test_what_a_single_module_gave_is_not_held_through_the_step() -> None:
    net, alive = Net(), []
    sources = Sources(net, None, "head", None, None, [])
    for _ in range(SEARCHED + 2):
        sources.open()
        with torch.no_grad():
            logits = weakref.ref(net(X))
        alive.append(logits() is not None)
        sources.take(None, None)
    assert alive[SEARCHED:] == [False, False]
