"""A run with a monitor and an alarm, for ``soak``: folder, epochs, the logger's version."""

import sys
import warnings

from lightning.pytorch.loggers import TensorBoardLogger

from lightning_featgeo import FeatureGeometryMonitor, GeometryAlarm
from tests._helpers.models import Classifier, loaders, trainer

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder, epochs, version = sys.argv[1:]
    monitor = FeatureGeometryMonitor(signals=["feature_std", "effective_rank", "id_two_nn"])
    logger = TensorBoardLogger(folder, version=version)  # two CSVLoggers write into one table, and fail
    run = trainer(monitor, GeometryAlarm("collapse"), max_epochs=int(epochs), logger=logger)
    print("ready", flush=True)
    run.fit(Classifier(), *loaders())
