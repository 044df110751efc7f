"""A run with a ``CometLogger`` that writes to a folder. A script, as Comet patches what is imported after it."""

import sys

from lightning.pytorch.loggers import CometLogger

from lightning_featgeo import Display, FeatureGeometryMonitor, GeometryAlarm, Threshold
from tests._helpers.models import Classifier, loaders, trainer

if __name__ == "__main__":
    logger = CometLogger(project="digits", prefix="exp", offline_directory=sys.argv[1])
    monitor = FeatureGeometryMonitor(display=Display(embedding_rows=50), on_error="raise")
    alarm = GeometryAlarm(
        "featgeo/val/feature_std", Threshold(below=9.0), action=lambda alarm: print("ALARM", alarm.line)
    )
    trainer(monitor, alarm, max_epochs=3, logger=logger, default_root_dir=sys.argv[1]).fit(Classifier(), *loaders())
    logger.experiment.end()
    print("HISTORY", monitor.history.path)
