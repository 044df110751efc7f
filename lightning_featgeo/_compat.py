"""Every private or moving name of torch, Lightning and torchmetrics that we use, and what happens where one is missing.

Nothing here is imported at the top but torch: a rename costs one feature, never ``import lightning_featgeo``.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

# --- torch -----------------------------------------------------------------------------------------------------------

# Attributes under which torch.compile, FSDP, activation checkpointing and Fabric keep the module that they wrap. One
# that is renamed shows in displayed paths, and globs have to name it.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")


def is_fsdp_wrapper(module: torch.nn.Module) -> bool:
    """Whether this is FSDP1's wrapper around a module; False where it is renamed: a sharded head then is a gap."""
    return hasattr(module, "_fsdp_wrapped_module")


def versions(model: torch.nn.Module) -> list[int]:
    """A number for each parameter that grows when it is written into; 0 where torch doesn't tell."""
    return [int(getattr(parameter, "_version", 0)) for parameter in model.parameters()]


def keep_in_compiled_graphs(op: Any) -> bool:
    """Declare an op an ordered effect, so that a compiled graph keeps its call in place; returns whether that worked.

    Without it (the registration is private to torch, and there from 2.4 on), the taps break the graph at the hook
    instead: slower, and right.
    """
    try:
        from torch._higher_order_ops.effects import _EffectType, _register_effectful_op

        _register_effectful_op(op, _EffectType.ORDERED)
    except Exception:  # renamed, moved, or registered otherwise
        return False
    return True


def uses_cuda_graphs(root: torch.nn.Module) -> bool:
    """Whether a part of a model was compiled to be replayed as CUDA graphs (``mode="reduce-overhead"``).

    False where torch doesn't tell (``fullgraph=True``, ``backend="cudagraphs"``, a compiled function around the model).
    """
    context = getattr(root, "_compiler_ctx", None)  # Lightning keeps it of a module that was compiled as a whole
    holders: list[Any] = [context.get("dynamo_ctx")] if isinstance(context, dict) else []
    for module in root.modules():
        holders += [module, getattr(module, "_compiled_call_impl", None)]
    for holder in holders:
        config = getattr(holder, "compiler_config", None)
        tell = getattr(holder, "get_compiler_config", None)
        if config is None and callable(tell):
            config = tell()
        if isinstance(config, Mapping) and config.get("triton.cudagraphs"):
            return True
    return False


def compiles() -> bool:
    """Whether ``torch.compile`` was used in this process: a hook that comes and goes would make it compile anew.

    False where torch doesn't tell.
    """
    frames = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(frames, "cached_backends", None) or {}
    return any(backend is not None for backend in backends.values())  # None: something was kept from compiling


def eagerly() -> AbstractContextManager[Any]:
    """Runs compiled code as it was written, so that batches of other shapes don't make it compile anew."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if compiles() and stance is not None else nullcontext()


def buffers_of(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    """A module's own buffers, those that are None too, to be changed in place."""
    found: dict[str, torch.Tensor | None] = module._buffers
    return found


def address(x: torch.Tensor) -> int | None:
    """Where a tensor's memory begins; None where it has none of its own (fake, wrapped, sparse)."""
    try:
        return x.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):  # sparse; fake and wrapped: they have no storage
        return None


def wraps_compiled(module: torch.nn.Module) -> bool:
    """Whether this is what ``torch.compile(module)`` returned; False where it is renamed."""
    return hasattr(module, "_orig_mod")


def is_compiled_in_place(module: torch.nn.Module) -> bool:
    """Whether ``module.compile()`` was called; False where torch doesn't tell: it then compiles once more."""
    return getattr(module, "_compiled_call_impl", None) is not None


# --- Lightning -------------------------------------------------------------------------------------------------------


_LIGHTNINGS = ("lightning", "pytorch_lightning", "lightning_fabric")


def is_lightnings(thing: Any, name: str) -> bool:
    """Whether this is an instance of Lightning's class of that name.

    ``pytorch_lightning`` is a second copy of all classes of ``lightning.pytorch``, so ``isinstance`` knows one half.
    """
    return any(c.__name__ == name and c.__module__.split(".")[0] in _LIGHTNINGS for c in type(thing).__mro__)


STEPS = ("training_step", "validation_step", "test_step", "predict_step")


def is_inside_step(module: Any) -> bool:
    """Whether Lightning runs a step of this module now, and no other hook; True where it doesn't tell."""
    running = getattr(module, "_current_fx_name", STEPS[0])
    return running in STEPS


def before_batch_transfer(module: Any, batch: Any) -> Any:
    """What a batch becomes on its way to the device by the run's own hook; as it is, where that is renamed."""
    hook = getattr(module, "_on_before_batch_transfer", None)
    return hook(batch, 0) if callable(hook) else batch


def is_redirected(module: torch.nn.Module) -> bool:
    """Whether a call of this module is a strategy's way to run a step of it, and no forward."""
    return getattr(module.__dict__.get("forward"), "__name__", "") == "wrapped_forward"


def state_key(callback: Any, **told: Any) -> str:
    """What a callback's state is filed under in checkpoints, distinct where the arguments differ."""
    generate = getattr(callback, "_generate_state_key", None)
    key = generate(**told) if callable(generate) else f"{type(callback).__qualname__}{told!r}"
    return str(key)


def is_in_spawned_processes(trainer: Any) -> bool:
    """Whether a fit runs in processes of its own that end with it (``ddp_spawn``): this one's objects are copies."""
    return is_lightnings(getattr(trainer.strategy, "launcher", None), "_MultiProcessingLauncher")


_LOOPS = {"val": "validate", "test": "test"}


def loads_together(trainer: Any, stage: str) -> bool:
    """Whether each batch of an evaluation holds a batch of every loader (``CombinedLoader`` but for "sequential").

    False where Lightning doesn't tell.
    """
    in_fit = stage == "val" and trainer.state.fn == "fit"
    loop = trainer.fit_loop.epoch_loop.val_loop if in_fit else getattr(trainer, f"{_LOOPS[stage]}_loop", None)
    mode = getattr(getattr(loop, "_combined_loader", None), "_mode", "sequential")
    return bool(mode != "sequential")


def device_mesh(strategy: Any) -> Any:
    """The mesh of FSDP2 or tensor parallelism; None where there is none: then all processes see different data."""
    return getattr(strategy, "_device_mesh", None)


def wrapped_module(strategy: Any) -> torch.nn.Module | None:
    """What the strategy has wrapped around the LightningModule; None: nothing that is known."""
    model = getattr(strategy, "model", None)
    return model if isinstance(model, torch.nn.Module) else None


def is_installed(*packages: str) -> bool:
    """Whether all of these are there; none is imported. One that can't be looked for is not."""
    try:
        return all(importlib.util.find_spec(package) is not None for package in packages)
    except Exception:  # a finder of somebody else's, a stub without a spec
        return False


def logging_step(trainer: Any) -> int:
    """The step under which Lightning files its own values: batches that stepped, however many optimisers there are."""
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    return int(getattr(loop, "_batches_that_stepped", trainer.global_step))


def last_saved_step(checkpoint: Any) -> int:
    """Optimiser steps when a ``ModelCheckpoint`` last saved; 0: never, or unknown, and an alarm names no checkpoint."""
    return int(getattr(checkpoint, "_last_global_step_saved", 0) or 0)


def skip_ranking_on_gaps(checkpoint: Any, name: str) -> Callable[[], None] | None:
    """Let a ``ModelCheckpoint`` skip its ranking while its monitored name has no value; returns how to undo it.

    None where it can't be done: such a checkpoint ends the run on the first gap, as without us.
    """
    original = checkpoint.__dict__.get("_save_topk_checkpoint", getattr(checkpoint, "_save_topk_checkpoint", None))
    if not callable(original) or isinstance(original, _RankUnlessGap):
        return None
    own = "_save_topk_checkpoint" in checkpoint.__dict__  # the user's
    checkpoint._save_topk_checkpoint = _RankUnlessGap(original, name)

    def undo() -> None:
        if own:
            checkpoint._save_topk_checkpoint = original
        else:
            checkpoint.__dict__.pop("_save_topk_checkpoint", None)

    return undo


class _RankUnlessGap:
    """In the place of ``ModelCheckpoint._save_topk_checkpoint``; can be pickled."""

    def __init__(self, original: Callable[..., None], name: str) -> None:
        self.original, self.name = original, name

    def __call__(self, trainer: Any, monitor_candidates: Mapping[str, torch.Tensor]) -> None:
        if self.name in monitor_candidates:
            self.original(trainer, monitor_candidates)


def skips_early_stopping(stopper: Any, trainer: Any) -> bool:
    """Whether Lightning's ``EarlyStopping`` would not look now (sanity check, evaluation)."""
    asked = getattr(stopper, "_should_skip_check", None)
    if callable(asked):
        return bool(asked(trainer))
    return trainer.state.fn != "fit" or trainer.sanity_checking


def mark_stopped(stopper: Any, message: str | None) -> None:
    """Say on an ``EarlyStopping`` why it stopped (None: it has not); older Lightning keeps the message alone."""
    try:
        from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

        reason = EarlyStoppingReason.NOT_STOPPED if message is None else EarlyStoppingReason.PATIENCE_EXHAUSTED
        stopper.stopping_reason = reason
    except ImportError:
        pass
    stopper.stopping_reason_message = message


# --- torchmetrics ----------------------------------------------------------------------------------------------------


def begins_anew(metric: Any) -> None:
    """What ``torchmetrics.Metric.reset`` does besides its states."""
    metric._update_count, metric._computed, metric._forward_cache = 0, None, None


def has_updates(metric: Any, more: int = 0) -> None:
    """Count updates (at least one), so that ``compute`` does not warn, and forget a cached result."""
    metric._update_count = max(getattr(metric, "_update_count", 0) + more, 1)
    metric._computed = None


def state_defaults(metric: Any) -> Mapping[str, Any]:
    """State name -> the value it begins with."""
    found: Mapping[str, Any] = metric._defaults
    return found


def states_of_metric(metric: Any) -> dict[str, Any]:
    """Attributes of a torchmetrics metric that an update may change, as they are now."""

    def kept(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, torch.Tensor) else copy.copy(value)

    inside = ("_modules", "_parameters", "_buffers", "_defaults")
    return {name: kept(one) for name, one in vars(metric).items() if name not in inside and not callable(one)}


def prepared_inputs(trainer: Any, inputs: Any) -> Any:
    """A batch on the device of a Hugging Face Trainer, as it prepares it itself; as it is where it can't be asked."""
    prepare = getattr(trainer, "_prepare_inputs", None)
    return inputs if prepare is None else prepare(inputs)


def takes_batches_itself(module: Any, stage: str) -> bool:
    """Whether a step is given an iterator (``dataloader_iter``): hooks before it have the batch of the last step."""
    name = {"train": "training_step", "val": "validation_step", "test": "test_step"}.get(stage, "")
    code = getattr(getattr(type(module), name, None), "__code__", None)
    return code is not None and "dataloader_iter" in code.co_varnames[: code.co_argcount]
