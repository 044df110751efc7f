"""What only one logger can show, one function each. A logger's package is imported inside its function only.

Scalars don't pass here: ``pl_module.log`` (or, inside an epoch, ``logger.log_metrics``) sends them to every logger.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_featgeo.history import Record
from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.types import Tensor

EPOCH = "featgeo/epoch"
ALARM = "alarm"  # beside the signals of a stage: 1 while an alarm stands, 0 while none does, a gap if nobody can tell
MAX_LINES = 12  # spectra in one chart; older windows are thinned


def wandb_loggers(loggers: Iterable[Logger]) -> list[Any]:
    """The W&B loggers among them, by class name: importing wandb costs a second and not everyone uses it."""
    return [logger for logger in loggers if any(c.__name__ == "WandbLogger" for c in type(logger).__mro__)]


def wandb_define(logger: Any, names: Sequence[str]) -> None:
    """Give each name the fractional epoch as x axis, and a summary of last and best."""
    run = logger.experiment
    run.define_metric(EPOCH, hidden=True)
    for name in names:
        signal = CATALOG.get(name.rpartition("/")[2])
        best = {"higher": ",max", "lower": ",min"}.get(signal.direction if signal else "none", "")
        run.define_metric(name, step_metric=EPOCH, summary=f"last{best}")


Spectra = list[tuple[float, list[float]]]


def wandb_curves(
    logger: Any, spectra: Spectra, record: Record, curves: Mapping[str, Tensor], marks: Mapping[float, str]
) -> None:
    """Eigenvalue spectra over time as one chart; histograms of log density and local dimension.

    ``spectra``: (epoch, eigenvalues) of this name's windows so far, the one of this record last. ``marks``: epoch ->
    what was raised there.
    """
    import wandb

    prefix = record.prefix.replace("featgeo/", "featgeo_curves/", 1)
    row: dict[str, Any] = {EPOCH: record.epoch}
    if "eigenvalues" in curves:
        shown = thin(spectra, set(marks))
        row[prefix + "spectrum"] = wandb.plot.line_series(
            xs=[list(range(1, len(v) + 1)) for _, v in shown],
            ys=[v for _, v in shown],
            keys=[f"epoch {epoch:g}" + (f" ({marks[epoch]})" if epoch in marks else "") for epoch, _ in shown],
            title=f"Eigenvalues, {record.prefix.rstrip('/')}",
            xname="rank",
        )
    for name in ("log_density", "local_dimension"):
        if name in curves:
            row[prefix + name] = wandb.Histogram(curves[name].tolist())
    if len(row) > 1:
        logger.experiment.log(row)  # never step=: a step behind W&B's own would drop the row


def thin(spectra: Spectra, kept: Collection[float] = ()) -> Spectra:
    """First, last, those of ``kept`` epochs, and evenly spaced ones between."""
    n = len(spectra)
    if n <= MAX_LINES:
        return spectra
    chosen = [i for i, (epoch, _) in enumerate(spectra) if epoch in kept][-MAX_LINES // 2 :]
    even = max(2, MAX_LINES - len(chosen))
    return [spectra[i] for i in sorted({*chosen, *(round(i * (n - 1) / (even - 1)) for i in range(even))})]


def wandb_note(logger: Any, key: str, text: str) -> None:
    """The reason of a stop or an alarm, in the run's summary."""
    logger.experiment.summary[key] = text


def wandb_alert(logger: Any, title: str, text: str) -> None:
    """An alert: W&B sends it on, by mail or chat, as its user has chosen."""
    logger.experiment.alert(title=title, text=text, level="WARN")
