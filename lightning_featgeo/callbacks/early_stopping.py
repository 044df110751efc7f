"""GeometryEarlyStopping: end a run when a geometry signal says so, on fresh values only.

A rule is a pure function of a signal's past values; it answers with the reason, or None. The stopper asks it each
time a window closes (also inside an epoch) with a defined value: a gap is no check and counts for nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info

from lightning_featgeo.history import Record
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.signals import Direction
from lightning_featgeo.types import ConfigurationError, near_misses


class Rule(ABC):
    """A stop rule: subclass it for one of your own."""

    @abstractmethod
    def check(self, values: Sequence[float], direction: Direction) -> str | None:
        """The reason to stop after the last of ``values`` (oldest first, never empty), or None."""


@dataclass(frozen=True)
class Drop(Rule):
    """The signal is worse than its best so far by more than ``fraction`` of that best's size."""

    fraction: float = 0.5

    def __post_init__(self) -> None:
        if not self.fraction > 0:
            raise ConfigurationError(f"Drop(fraction={self.fraction}): must be above 0, for example 0.5")

    def check(self, values: Sequence[float], direction: Direction) -> str | None:
        """See the class."""
        if direction == "none":
            raise ConfigurationError(
                "Drop needs a signal with a better and a worse direction; "
                "use Threshold(below=…) or Plateau() for this one"
            )
        best = max(values) if direction == "higher" else min(values)
        worse_by = best - values[-1] if direction == "higher" else values[-1] - best
        if worse_by <= self.fraction * abs(best) or worse_by == 0:
            return None
        verb = "fell" if direction == "higher" else "rose"
        share = f"{worse_by / abs(best):.0%}" if best else f"{worse_by:.4g}"
        return f"{verb} {share} from its best, {best:.4g} → {values[-1]:.4g} (limit {self.fraction:.0%})"


@dataclass(frozen=True)
class Plateau(Rule):
    """The signal has converged: its last ``checks`` values lie within ``tolerance`` of their size."""

    checks: int = 5
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.checks < 2 or not self.tolerance >= 0:
            raise ConfigurationError(
                f"Plateau(checks={self.checks}, tolerance={self.tolerance}): "
                "needs at least 2 checks and a tolerance ≥ 0"
            )

    def check(self, values: Sequence[float], direction: Direction) -> str | None:
        """See the class."""
        recent = values[-self.checks :]
        if len(recent) < self.checks:
            return None
        spread, size = max(recent) - min(recent), max(abs(v) for v in recent)
        if spread > self.tolerance * size:
            return None
        share = spread / size if size else 0.0
        return (
            f"stayed within {share:.1%} for {self.checks} checks, {recent[0]:.4g} → {recent[-1]:.4g} "
            f"(limit {self.tolerance:.1%})"
        )


@dataclass(frozen=True)
class Threshold(Rule):
    """The signal is below ``below`` or above ``above``."""

    below: float | None = None
    above: float | None = None

    def __post_init__(self) -> None:
        if self.below is None and self.above is None:
            raise ConfigurationError("Threshold needs a limit: Threshold(below=0.1) or Threshold(above=10)")

    def check(self, values: Sequence[float], direction: Direction) -> str | None:
        """See the class."""
        value = values[-1]
        if self.below is not None and value < self.below:
            return f"is {value:.4g}, below the limit {self.below:.4g}"
        if self.above is not None and value > self.above:
            return f"is {value:.4g}, above the limit {self.above:.4g}"
        return None


class GeometryEarlyStopping(EarlyStopping):
    """Stops training when a rule holds for ``patience`` fresh values in a row.

    Args:
        monitor: a logged name, such as "featgeo/val/feature_std". Which way is worse comes from the catalogue.
        rule: ``Drop()``, ``Plateau()``, ``Threshold(below=…)``, or a ``Rule`` of your own.
        patience: consecutive fresh values for which the rule must hold, ≥ 1.
        warmup: first fresh values that are not judged and don't count as the best, ≥ 0.

    After a stop ``stopping_reason_message`` tells why, in words; ``stopped_epoch`` when. Needs a
    ``FeatureGeometryMonitor`` among the trainer's callbacks.
    """

    def __init__(
        self,
        monitor: str = "featgeo/val/feature_std",
        rule: Rule | None = None,
        patience: int = 2,
        warmup: int = 0,
    ) -> None:
        if patience < 1 or warmup < 0:
            raise ConfigurationError(f"needs patience ≥ 1 and warmup ≥ 0, got {patience} and {warmup}")
        signal = monitor.rpartition("/")[2]
        if not monitor.startswith("featgeo/") or signal not in CATALOG:
            raise ConfigurationError(
                f"GeometryEarlyStopping watches geometry names such as 'featgeo/val/feature_std', got {monitor!r}."
                f"{near_misses(signal, list(CATALOG))}"
            )
        self.signal = signal
        self.direction: Direction = CATALOG[signal].direction
        self.rule: Rule = Drop() if rule is None else rule
        if isinstance(self.rule, Drop):
            self.rule.check([1.0], self.direction)  # refuses signals without a direction, now
        mode = "min" if self.direction == "lower" else "max"
        super().__init__(monitor=monitor, mode=mode, patience=patience, strict=False, check_finite=False)
        self.warmup = warmup
        self.values: list[float] = []
        self._resumed = False

    @property
    def state_key(self) -> str:
        """Distinct for stoppers with another rule, patience or warm-up on the same curve."""
        rule = repr(self.rule) if is_dataclass(self.rule) else type(self.rule).__qualname__  # no memory address
        return self._generate_state_key(monitor=self.monitor, rule=rule, patience=self.patience, warmup=self.warmup)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse to stand alone: values come from a monitor.

        Raises:
            ConfigurationError: with the line to paste.
        """
        super().setup(trainer, pl_module, stage)
        callbacks: Sequence[Any] = getattr(trainer, "callbacks", [])
        if not any(hasattr(callback, "known_geometry_names") for callback in callbacks):
            raise ConfigurationError(
                f"GeometryEarlyStopping({self.monitor!r}) needs a FeatureGeometryMonitor: "
                "Trainer(callbacks=[FeatureGeometryMonitor(), GeometryEarlyStopping(…)])"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A new run has no past, unless it was loaded or the trainer goes on; none has stopped yet."""
        if not self._resumed and trainer.global_step == 0:
            self.values, self.wait_count, self.stopped_epoch = [], 0, 0
        self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None
        self._resumed = False

    def observe(self, trainer: pl.Trainer, record: Record) -> str | None:
        """Look at a window that just closed; returns the reason if this is where the run stops."""
        if (
            not self.monitor.startswith(record.prefix)
            or self._should_skip_check(trainer)
            or getattr(trainer, "fast_dev_run", False)
        ):
            return None
        value = record.values.get(self.monitor.removeprefix(record.prefix))
        if value is None:
            return None
        self.values.append(value)
        judged = self.values[self.warmup :]
        reason = self.rule.check(judged, self.direction) if judged else None
        self.wait_count = self.wait_count + 1 if reason else 0
        if reason is None or self.wait_count < self.patience or self.stopping_reason_message is not None:
            return None
        self.stopped_epoch = trainer.current_epoch
        self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
        past = " ".join(f"{v:.4g}" for v in self.values[-6:])
        self.stopping_reason_message = (
            f"featgeo: stopping at epoch {record.epoch:.2f} (step {record.step}). {self.monitor} {reason}, "
            f"{self.wait_count} check{'s' * (self.wait_count > 1)} in a row. Last values: {past}."
        )
        trainer.should_stop = True
        rank_zero_info(self.stopping_reason_message)
        return self.stopping_reason_message

    def _run_early_stopping_check(self, trainer: pl.Trainer) -> None:
        """Lightning's check at an epoch's end: nothing to do, the rule was asked when the window closed."""

    def state_dict(self) -> dict[str, Any]:
        """The past values are the state."""
        return {**super().state_dict(), "values": list(self.values)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the saved past."""
        super().load_state_dict(state_dict)
        self.values = list(state_dict["values"])
        self._resumed = True
