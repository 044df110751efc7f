"""Of what a module is given or puts out, the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from lightning_featgeo.capture.taps import FeatureTap
from lightning_featgeo.capture.values import of_input, of_output, plain
from lightning_featgeo.errors import ConfigurationError

X, Z, IDS = torch.randn(4, 6), torch.randn(4, 3), torch.arange(8).reshape(4, 2)


class Named(NamedTuple):
    loss: Tensor
    features: Tensor


@dataclass
class Output:
    ids: Tensor
    embedding: Tensor


class Loose:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    "output",
    [
        Z,
        {"input_ids": IDS, "mask": IDS > 0, "embedding": Z},
        {"loss": Z.mean(), "features": Z},
        (X, Z),
        [X, {"deep": (IDS, Z)}],
        (Z, None),
        Named(Z.mean(), Z),
        Output(IDS, Z),
        Loose(tensors=Z, mask=IDS > 0),
        (Z, torch.rand(()), IDS),
        {"last_hidden_state": Z, "pooler_output": X + 1},
        {"hidden_states": (X + 1, Z)},
    ],
)
def test_the_only_tensor_that_can_be_features_is_taken(output: Any) -> None:
    assert of_output(nn.Identity(), (X, {}), output, "m", None) is Z


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        ({"text": Z, "image": X + 1}, ["m:text", "m:image"]),
        ([X, Z, X + 1], ["m:1", "m:2"]),
        ((Z, (X + 1, IDS)), ["m:0", "m:1.0"]),
    ],
)
def test_several_are_an_error_and_each_line_to_paste_works(output: Any, lines: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        of_output(nn.Identity(), (X, {}), output, "m", None)
    for line in lines:
        assert f"FeatureGeometryMonitor(layer={line!r})" in str(error.value)
        assert of_output(nn.Identity(), (X, {}), output, "m", line.partition(":")[2]).is_floating_point()
    assert of_output(nn.Identity(), (X, {}), [X, Z], "m", "-1") is Z


@pytest.mark.parametrize("wanted", ["nowhere", "7", "ids"])
def test_a_part_that_is_not_there_or_no_feature_says_what_is(wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="FeatureGeometryMonitor\\(layer='m:embedding'\\)"):
        of_output(nn.Identity(), (X, {}), {"ids": IDS, "embedding": Z}, "m", wanted)


def test_no_features_at_all_are_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"'m' puts out .*no floating-point tensor"):
        of_output(nn.Identity(), (X, {}), {"ids": IDS, "same": X}, "m", None)


def test_recurrent_and_attention_modules_of_torch_give_their_first_output() -> None:
    for module in (nn.LSTM(6, 5), nn.GRU(6, 5), nn.MultiheadAttention(6, 2)):
        given = (X[None],) * (3 if isinstance(module, nn.MultiheadAttention) else 1)
        made = module(*given)
        assert of_output(module, given, made, "m", None) is made[0]


def test_a_head_is_given_numbers() -> None:
    assert of_input((IDS, Z), {}) is Z
    assert of_input((), {"hidden": {"states": Z}, "mask": IDS}) is Z
    assert of_input((IDS,), {}) is None


def test_packed_and_nested_sequences_are_unpacked() -> None:
    x, lengths = torch.randn(3, 5, 2), torch.tensor([2, 5, 3])
    real = torch.arange(5) < lengths[:, None]
    packed = plain(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    nested = plain(torch.nested.nested_tensor([x[i, :n] for i, n in enumerate(lengths)]))
    for made in (packed, nested):
        assert made.real is not None
        assert torch.equal(made.real, real)
        assert torch.equal(made.features[real], x[real])


def test_complex_numbers_are_two_real_ones_and_subclasses_plain() -> None:
    z = torch.randn(4, 3, dtype=torch.cfloat)
    assert torch.equal(plain(z).features, torch.stack([z.real, z.imag], dim=-1).flatten(1))

    class Image(torch.Tensor):
        pass

    assert type(plain(Z.as_subclass(Image)).features) is Tensor
    with pytest.raises(ConfigurationError, match="features are sparse"):
        plain(Z.to_sparse())


def test_a_scripted_module_takes_no_hook_and_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match=r"TorchScript.*layer=.*head=.*features="):
        FeatureTap(torch.jit.script(nn.Linear(2, 2)), "m", "output")


def test_a_hook_that_was_copied_without_its_flag_bears_it() -> None:
    tap = FeatureTap(nn.Linear(6, 3), "m", "output")
    tap.open()
    (hook,) = tap.module._forward_hooks.values()
    hook(tap.module, (X,), Z)
    hook(tap.module, (X,), {}, Z)
    assert [torch.equal(call.features, Z) for call in tap.take() if call.features is not None] == [True, True]
