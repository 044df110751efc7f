"""Hydra: trainer, monitor, stopper and model from one YAML (examples/hydra.yaml).

pip install hydra-core
python examples/hydra_app.py trainer.max_epochs=3
"""

from __future__ import annotations

import hydra
from digits import digits_loaders
from omegaconf import DictConfig


@hydra.main(config_path=".", config_name="hydra", version_base="1.3")
def main(config: DictConfig) -> None:
    trainer = hydra.utils.instantiate(config.trainer, _convert_="all")
    trainer.fit(hydra.utils.instantiate(config.model), *digits_loaders())
    monitor = trainer.callbacks[0]
    print({name: round(value, 3) for name, value in monitor.history.records[-1].values.items()})


if __name__ == "__main__":
    main()
