"""No op that is an error on CUDA under ``torch.use_deterministic_algorithms(True)``, which no CPU would show."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_featgeo import GeometryMetric, Tokens
from lightning_featgeo.metrics.settings import Policy
from lightning_featgeo.rows.assembler import RowAssembler
from tests._helpers.data import digits_features, head

# From the documentation of torch.use_deterministic_algorithms; "float": an error for floating-point tensors only.
REFUSED = {"kthvalue": "", "cumsum": "float", "median": "", "nanmedian": "", "histc": "float", "put_": "", "renorm": ""}


class Refusing(TorchDispatchMode):
    """Refuses what CUDA would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        refused = name in REFUSED and (REFUSED[name] != "float" or args[0].is_floating_point())
        weights = args[1] if len(args) > 1 else (kwargs or {}).get("weights")
        refused |= name == "bincount" and weights is not None
        assert not refused, f"{func} is an error on CUDA under deterministic algorithms"
        return func(*args, **(kwargs or {}))


def test_every_signal_of_labelled_rows() -> None:
    x, y = digits_features()
    policy = Policy(strict=True)  # what is refused inside of a signal is no gap
    metric = GeometryMetric("all", num_classes=10, head=head(10, x.shape[1]), policy=policy)
    with Refusing():
        metric.update(x[:400], y[:400])
        result = metric.window()
    assert "spectral_spread" in result.values
    assert result.values["id_two_nn"] > 0


@pytest.mark.parametrize("masked", [True, False])
def test_the_draw_of_tokens(masked: bool) -> None:
    batch = {"input": torch.randn(3, 7, 4)} | ({"attention_mask": torch.ones(3, 7)} if masked else {})
    assembler = RowAssembler("tokens", tokens=Tokens(per_sequence=3))
    with Refusing():
        (part,) = assembler.assemble([batch["input"]], batch, 0).parts
    assert part.rows.keep.reshape(3, 7).sum(dim=1).tolist() == [3, 3, 3]
