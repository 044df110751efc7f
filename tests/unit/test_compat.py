"""Private names of torch and Lightning: what happens where one of them is missing."""

import argparse
import sys
import types
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lightning_featgeo import _autograd, _compat, _loggers
from lightning_featgeo.capture import stash
from lightning_featgeo.capture.sources import Sources


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """As if a module had been renamed: importing from it fails."""
    monkeypatch.setitem(sys.modules, module, types.ModuleType(module))


@pytest.mark.compiler
def test_without_effects_the_tap_breaks_the_graph_and_catches_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch._higher_order_ops.effects")
    assert _compat.keep_in_compiled_graphs(torch.ops.lightning_featgeo.stash.default) is False
    monkeypatch.setattr(stash, "IN_GRAPHS", False)
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    sources = Sources(torch.nn.Sequential(model), None, "0.2", None, None, [])
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        x = torch.randn(5, 4)
        sources.open()
        compiled(x)
        (caught,) = sources.take(None, None)
        torch.testing.assert_close([call.features for call in caught], [model[:2](x)])
    sources.remove()


def test_without_functorch_nothing_is_inside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.func.vmap(lambda x: torch.tensor(_autograd.is_inside_torch_func(x)) | (x > x))(torch.ones(2)).all()
    monkeypatch.delattr(torch._C, "_functorch")
    assert _autograd.is_inside_torch_func(torch.ones(2)) is False


def test_a_stop_is_marked_also_without_lightnings_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    stopper = EarlyStopping("x")
    before = {**vars(stopper)}
    _compat.mark_stopped(stopper, "because")
    if "stopping_reason" not in before:  # older Lightning has no reasons: nothing is touched
        assert vars(stopper) == before
        return
    assert stopper.stopping_reason.name == "PATIENCE_EXHAUSTED"
    module = types.ModuleType("lightning.pytorch.callbacks.early_stopping")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _compat.mark_stopped(stopper, None)
    assert stopper.stopping_reason_message is None
    assert stopper.stopping_reason.name == "PATIENCE_EXHAUSTED"  # older Lightning has no reasons: nothing is touched


def test_a_checkpoint_without_the_private_step_is_left_alone() -> None:
    class Renamed(ModelCheckpoint):
        _save_topk_checkpoint = None

    assert _compat.skip_ranking_on_gaps(Renamed(monitor="x"), "x") is None
    checkpoint = ModelCheckpoint(monitor="featgeo/val/nc1")
    saved: list[Any] = []
    checkpoint._save_topk_checkpoint = lambda trainer, candidates: saved.append(candidates)
    undo = _compat.skip_ranking_on_gaps(checkpoint, "featgeo/val/nc1")
    assert undo is not None
    checkpoint._save_topk_checkpoint(None, {})
    checkpoint._save_topk_checkpoint(None, {"featgeo/val/nc1": torch.ones(())})
    assert len(saved) == 1


def test_an_early_stopper_without_the_private_question() -> None:
    trainer = types.SimpleNamespace(state=types.SimpleNamespace(fn="fit"), sanity_checking=False)
    assert _compat.skips_early_stopping(object(), trainer) is False
    trainer.sanity_checking = True
    assert _compat.skips_early_stopping(object(), trainer) is True


def test_parameters_are_kept_also_without_lightnings_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = argparse.Namespace(lr=0.1, net={"width": 3})
    assert _loggers.flat_parameters(nested) == {"lr": 0.1, "net/width": 3}
    without(monkeypatch, "lightning.fabric.utilities.logger")
    assert _loggers.flat_parameters(nested) == {"lr": 0.1, "net": {"width": 3}}
    assert _loggers.flat_parameters({"lr": 0.1}) == {"lr": 0.1}
