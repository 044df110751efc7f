"""Hooks that come and go: put back as they were registered, on the module that they belong to."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from lightning_featgeo import _hooks
from lightning_featgeo.capture.hooks import Hook


def seen_by(before: bool, always: bool = False) -> tuple[nn.Module, Hook, list[Any]]:
    module, seen = nn.Linear(2, 2), []

    def function(module: nn.Module, args: Any, kwargs: Any, *output: Any) -> None:
        seen.append(kwargs)

    return module, Hook(module, function, before, always), seen


@pytest.mark.parametrize("before", [True, False])
def test_it_is_called_with_keywords_whenever_it_is_there(before: bool) -> None:
    module, hook, seen = seen_by(before)
    for times in range(1, 4):
        hook.attach()
        hook.attach()  # once is enough
        module(input=torch.ones(1, 2))
        hook.detach()
        module(torch.ones(1, 2))
        assert len(seen) == times
        assert set(seen[-1]) == {"input"}
    assert not module._forward_pre_hooks
    assert not module._forward_hooks
    assert not module._forward_pre_hooks_with_kwargs
    assert not module._forward_hooks_with_kwargs


def test_it_stays_one_that_is_always_called() -> None:
    module, hook, seen = seen_by(before=False, always=True)
    for _ in range(2):
        hook.attach()
        with pytest.raises(RuntimeError):
            module(torch.ones(1, 3))
        hook.detach()
    assert len(seen) == 2
    assert not module._forward_hooks_always_called


def test_it_comes_before_others_each_time() -> None:
    module, hook, seen = seen_by(before=True)
    order: list[str] = []
    module.register_forward_pre_hook(lambda *_: order.append(f"theirs after {len(seen)}"))
    for _ in range(2):
        hook.attach(first=True)
        module(torch.ones(1, 2))
        hook.detach()
    assert order == ["theirs after 1", "theirs after 2"]


@pytest.mark.parametrize("before", [True, False])
def test_a_module_that_got_new_dicts_is_hooked_anew(before: bool) -> None:
    module, hook, seen = seen_by(before)
    hook.attach()
    hook.detach()
    old = module._forward_pre_hooks, module._forward_hooks  # somebody keeps them
    module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    hook.attach()
    module(torch.ones(1, 2))
    assert len(seen) == 1
    assert not any(old)


def test_where_torch_keeps_hooks_otherwise_they_are_registered_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hooks, "place_of", lambda handle: None)
    module, hook, seen = seen_by(before=True)
    for _ in range(3):
        hook.attach()
        module(torch.ones(1, 2))
        hook.detach()
    assert len(seen) == 3
    assert not module._forward_pre_hooks
