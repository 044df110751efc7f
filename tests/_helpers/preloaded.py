"""What forked test processes have at hand: what the first validation of a process and the first report put together.

Half of the CPU time of a short run in a new process is spent on its first log, where Python asks of every metric class
of torchmetrics in turn whether a value is one, and on imports that wait for a trainer.
"""

import contextlib
import io
import logging
import warnings

import torch

from lightning_featgeo import FeatureGeometryMonitor, _compat
from tests._helpers.models import Classifier, loaders, trainer


def first_validation() -> None:
    """A validation without a word. No fit: after a backward pass, forked processes can't make one."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        trainer(FeatureGeometryMonitor()).validate(Classifier(), loaders()[1], verbose=False)
    logging.disable(logging.NOTSET)


first_validation()
if _compat.is_installed("altair", "vl_convert"):
    from lightning_featgeo.report.charts import runtime

    runtime()
