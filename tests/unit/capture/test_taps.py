"""Taps in eager and compiled code."""

import copy
import pickle

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from lightning_featgeo.capture.taps import FeatureTap, find_modules
from lightning_featgeo.errors import ConfigurationError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.1), nn.Flatten())
        self.head = nn.Linear(4 * 36, 10)

    def forward(self, x):
        return self.head(self.body(x))


def test_input_and_output_sides_and_keyword_arguments() -> None:
    class Pair(nn.Module):
        def forward(self, *, x):
            return {"other": 3, "last_hidden_state": x + 1, "first": x}

    module = Pair()
    before, after = FeatureTap(module, "m", "input"), FeatureTap(module, "m", "output")
    before.open()
    after.open()
    x = torch.randn(2, 3)
    module(x=x)
    assert torch.equal(before.take()[0].features, x)
    assert torch.equal(after.take()[0].features, x + 1)


def test_a_closed_tap_catches_nothing_and_a_removed_one_is_gone() -> None:
    net = Net()
    tap = FeatureTap(net.head, "head", "input")
    net(torch.randn(2, 1, 8, 8))
    assert tap.take() == []
    tap.open()
    net(torch.randn(2, 1, 8, 8))
    tap.pause()
    net(torch.randn(2, 1, 8, 8))
    tap.resume()
    net(torch.randn(2, 1, 8, 8))
    assert len(tap.take()) == 2
    tap.remove()
    assert not net.head._forward_pre_hooks


def test_what_is_caught_survives_in_place_writes_and_carries_no_gradient() -> None:
    layer, relu = nn.Linear(4, 4), nn.ReLU(inplace=True)
    tap = FeatureTap(layer, "layer", "output")
    tap.open()
    x = torch.randn(8, 4)
    expected = layer(x).detach().clone()
    relu(layer(x))
    caught = tap.take()[-1].features
    assert torch.equal(caught, expected)
    assert not caught.requires_grad


def test_a_hooked_module_can_be_pickled_and_copied() -> None:
    net = Net()
    FeatureTap(net.head, "head", "input")
    pickle.loads(pickle.dumps(net))
    copy.deepcopy(net)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_before_fit_with_ten_calls_a_step_without_recompiling(how: str) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")
    net = Net()
    if how == "wrapped":
        model = torch.compile(net, backend=counter, fullgraph=True)
    else:
        net.compile(backend=counter, fullgraph=True)
        model = net
    tap = FeatureTap(net.head, "head", "input")
    for _ in range(3):
        tap.open()
        loss = sum(model(torch.randn(4, 1, 8, 8)).square().mean() for _ in range(10))
        loss.backward()
        assert len(tap.take()) == 10
    assert counter.frame_count == 1
    net.eval()
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        tap.open()
        model(x)
        model(torch.zeros_like(x))  # would overwrite an alias
        torch.testing.assert_close(tap.take()[0].features, net.body(x))
    tap.remove()  # and a later run, which hooks the same module again, still catches
    tap.attach()
    with torch.no_grad():
        tap.open()
        model(x)
        assert len(tap.take()) == 1


def test_out_of_memory_in_the_copy_does_not_reach_the_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    tap = FeatureTap(net.head, "head", "input")
    tap.open()

    def no_memory(self, x):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("lightning_featgeo.capture.stash.Slot.add", no_memory)
    net(torch.randn(2, 1, 8, 8))
    with pytest.raises(RuntimeError, match="could not copy the features of 'head'"):
        tap.take()


def test_modules_are_found_by_path_glob_and_through_compile() -> None:
    root = nn.Module()
    root.net = torch.compile(Net())
    assert list(find_modules(root, "net.head")) == ["net.head"]
    assert list(find_modules(root, "net.body.*")) == ["net.body.0", "net.body.1", "net.body.2", "net.body.3"]
    with pytest.raises(ConfigurationError, match=r"no module 'net.haed' in Module. Did you mean 'net.head'"):
        find_modules(root, "net.haed")


def test_of_a_model_output_the_last_hidden_layer_is_taken_not_the_embeddings() -> None:
    class Output(nn.Module):
        def forward(self, x):
            return {"loss": None, "hidden_states": (x, x + 1, x + 2)}

    module = Output()
    tap = FeatureTap(module, "m", "output")
    tap.open()
    x = torch.randn(2, 3)
    module(x)
    assert torch.equal(tap.take()[0].features, x + 2)


def test_a_module_is_found_by_its_second_name_and_a_misspelt_one_by_its_nearest() -> None:
    shared, model = nn.ReLU(), nn.Sequential()
    model.first, model.between, model.second = shared, nn.Linear(3, 3), shared
    assert find_modules(model, "second") == {"first": shared}
    assert list(find_modules(model, "*")) == ["first", "between"]
    with pytest.raises(
        ConfigurationError, match=r"Did you mean 'first'\? Paste: FeatureGeometryMonitor\(layer='first'\)"
    ):
        find_modules(model, "firts")


def test_sums_of_nested_tensors_are_caught() -> None:
    head = nn.Linear(4, 2)
    tap = FeatureTap(head, "head", "input")
    tap.open()
    parts = [torch.randn(3, 4), torch.randn(5, 4)]
    rows = torch.nested.nested_tensor(parts, requires_grad=True)
    head(rows + rows * 2)
    (call,) = tap.take()
    assert call.real is not None
    torch.testing.assert_close(call.features[0, :3], 3 * parts[0])
