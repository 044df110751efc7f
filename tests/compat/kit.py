"""What a third party's own training is watched with: the monitor, and a keeper that knows the right rows by itself.

A use is a function that trains with somebody else's model, trainer or both, on tiny generated data, exactly as that
library's own pages do it, with two callbacks more: our monitor without arguments, and a :class:`Keeper`, to which the
author of the use has said, before the monitor was run, which module's input (or output) is the right one, how its rows
are made and which labels are theirs. What the monitor logs must then be what the keeper computes, in float64 NumPy.
"""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_featgeo import ConfigurationError, FeatureGeometryMonitor
from tests.compat.keeper import Keeper

AS_IS, ONE_ARGUMENT, REFUSED, WRONG, FAILED = "as is", "one argument", "refused", "wrong", "failed"
NO_CLASSES = "no class curves"  # the right rows, and labels that are there and not used
GOOD = (AS_IS, ONE_ARGUMENT, REFUSED)
torch.set_num_threads(1)
RELATIVE = 1e-3  # float32 features streamed by us, the same rows in float64 by the keeper


# --- uses ----------------------------------------------------------------------------------------------------------


@dataclass
class Use:
    """Somebody's way of training.

    Args:
        package: whose; the name of its distribution.
        name: of what is trained.
        run: trains with a monitor (what ``watch`` makes, by its arguments) and returns the keeper, and whose history
            it is: the monitor, the adapter or a ``History``.
        then: the argument that the monitor is expected to print, if it can't do without; as a dict.
        why: where more than the usual was taken for right, or less: a sentence for the table.
    """

    package: str
    name: str
    run: Callable[[Callable[..., Any]], tuple[Keeper, Any]]
    then: dict[str, Any] | None = None
    why: str = ""


USES: list[Use] = []


def use(package: str, name: str, then: dict[str, Any] | None = None, why: str = "") -> Callable[[Any], Any]:
    """Declares a function to be a use."""

    def declare(run: Any) -> Any:
        USES.append(Use(package, name, run, then, why))
        return run

    return declare


@dataclass
class Outcome:
    """What came of a use."""

    package: str
    name: str
    verdict: str
    watched: str = ""
    rows: int = 0
    compared: dict[str, tuple[float, float]] = field(default_factory=dict)  # ours, the keeper's
    said: str = ""  # the refusal, warnings, or what went wrong
    argument: str = ""  # that was printed and given
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain."""
        return asdict(self)


def tried(use: Use) -> Outcome:
    """A use, first without arguments, then with the one that was printed."""
    first = _once(use, {})
    if first.verdict in (AS_IS, WRONG, FAILED) or use.then is None:
        return first
    printed = [f"{name}={value!r}".replace("'", '"') for name, value in use.then.items()]
    missing = [line for line in printed if line not in first.said.replace("'", '"')]
    if missing:
        first.verdict, first.said = FAILED, f"not printed: {', '.join(missing)}. Printed was: {first.said}"
        return first
    second = _once(use, use.then)
    second.verdict = (
        ONE_ARGUMENT if second.verdict == AS_IS else FAILED if second.verdict == REFUSED else second.verdict
    )
    second.argument, second.said = ", ".join(printed), second.said or first.said
    return second


def _once(use: Use, arguments: dict[str, Any]) -> Outcome:
    found = Outcome(use.package, use.name, FAILED, why=use.why)
    printed = StringIO()
    made: list[Any] = []

    def watch(kind: Callable[..., Any] = FeatureGeometryMonitor, **given: Any) -> Any:
        made.append(kind(**(given | arguments)))
        return made[-1]

    try:
        with warnings.catch_warnings(record=True) as warned, _heard(printed):
            warnings.simplefilter("always")
            keeper, monitor = use.run(watch)
    except ConfigurationError as error:
        found.verdict, found.said = REFUSED, str(error)
        return found
    except Exception as error:
        cause = error.__cause__ or error.__context__
        while cause is not None and not isinstance(cause, ConfigurationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            found.verdict, found.said = REFUSED, str(cause)
            return found
        traceback.print_exception(error)
        found.said = "".join(traceback.format_exception_only(error)).strip()
        return found
    text = printed.getvalue()
    watched = re.search(r"featgeo: watching ((?:.|\n           )*)", text)
    found.watched = " ".join(watched[1].split()) if watched else ""
    ours = [str(w.message) for w in warned if "featgeo" in type(w.message).__module__]
    found.said = " ".join(dict.fromkeys(ours))
    history = getattr(monitor, "history", monitor)
    found.watched = found.watched or str(history.run.get("described", ""))
    try:
        return _judged(found, keeper, history, text)
    except Exception as error:  # rows that the keeper can't compute with
        found.said = f"the keeper: {error!r}"
        return found


def _judged(found: Outcome, keeper: Keeper, history: Any, text: str) -> Outcome:
    records = [r for r in history if r.layer is None and r.stage.split("_")[0] == keeper.stage]
    if not records or not records[-1].values:
        gaps = dict.fromkeys(str(gap) for gap in records[-1].gaps.values()) if records else {}
        found.verdict, found.said = REFUSED, " ".join([found.said, *gaps]) or f"No window was logged. {text[-1500:]}"
        return found
    if not keeper.kept:
        found.said = f"the keeper saw no rows ({keeper.called} calls); watched: {found.watched}"
        return found
    record, right = records[-1], keeper.values()
    ours = dict(record.values) | {"n_samples": float(record.counts.get("seen", 0))}
    found.rows = int(ours["n_samples"])
    found.compared = {name: (ours[name], value) for name, value in right.items() if name in ours}
    off = [
        f"{name}: {a:.6g}, right is {b:.6g}"
        for name, (a, b) in found.compared.items()
        if abs(a - b) > RELATIVE * max(abs(b), 1e-3)
    ]
    if off:
        found.verdict, found.said = WRONG, "; ".join(off) + f". {found.said} {record.notes or ''} {text[-1200:]}"
    elif len(found.compared) < 2:
        found.said = f"nothing to compare: {sorted(ours)} with {sorted(right)}"
    else:
        found.verdict = AS_IS
        labelled = keeper.labels is not None and "nc1" in right
        if labelled and "nc1" not in found.compared:
            gaps = {str(record.gaps[name]) for name in ("nc1", "knn_accuracy") if name in record.gaps}
            found.verdict, found.said = NO_CLASSES, f"labels are there and not used: {sorted(gaps) or text[-1500:]}"
    return found


@contextmanager
def _heard(printed: StringIO) -> Any:
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(printed))
        yield


def without_factories() -> None:
    """Trainers without what other packages of the environment add to all of them."""
    from lightning.pytorch.trainer.connectors import callback_connector

    callback_connector._load_external_callbacks = lambda group: []


# --- what most uses need ---------------------------------------------------------------------------------------------


class Module(pl.LightningModule):
    """A network, a loss of the batch, an optimizer: what everybody writes around somebody's model."""

    def __init__(self, net: nn.Module, loss: Callable[[nn.Module, Any], Tensor], lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.loss, self.lr = net, loss, lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.net, batch), batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def trainer(callbacks: Sequence[Any], **arguments: Any) -> pl.Trainer:
    """Two epochs, quiet."""
    defaults: dict[str, Any] = {
        "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return pl.Trainer(callbacks=list(callbacks), **(defaults | arguments))


def images(n: int, side: int, channels: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    """(n, channels, side, side) noise with a pattern for each class, and (n,) labels."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    patterns = torch.randn(classes, channels, side, side, generator=generator)
    return patterns[y] + torch.randn(n, channels, side, side, generator=generator), y


def loaders(*tensors: Tensor, batch_size: int = 16, train: int = 32) -> tuple[Any, Any]:
    """A training loader of the first rows, a validation loader of the others."""
    from torch.utils.data import DataLoader, TensorDataset

    first, others = TensorDataset(*(t[:train] for t in tensors)), TensorDataset(*(t[train:] for t in tensors))
    return DataLoader(first, batch_size, shuffle=True), DataLoader(others, batch_size)
