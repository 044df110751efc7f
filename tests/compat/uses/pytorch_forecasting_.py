"""PyTorch Forecasting: models made by ``from_dataset`` of a ``TimeSeriesDataSet``, as in the tutorials."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pytorch_forecasting import (
    DeepAR,
    GroupNormalizer,
    NaNLabelEncoder,
    NBeats,
    NHiTS,
    RecurrentNetwork,
    TemporalFusionTransformer,
    TimeSeriesDataSet,
)
from pytorch_forecasting.metrics import MAE, NormalDistributionLoss, QuantileLoss
from torch import Tensor, cat, nn

from tests.compat.keeper import Keeper
from tests.compat.kit import trainer, use

ENCODER, DECODER = 12, 6


def panel(n_series: int = 12, n: int = 36) -> pd.DataFrame:
    """Series with a category and a price, as the tutorials' demand."""
    random = np.random.default_rng(0)
    frames = [
        pd.DataFrame({
            "series": str(i), "time_idx": np.arange(n), "kind": np.array(["a", "b", "c"])[i % 3],
            "price": random.normal(size=n),
            "value": 5 + (i % 3 + 1) * np.sin(np.arange(n) * 2 * np.pi / 12) + 0.3 * random.normal(size=n),
        })
        for i in range(n_series)
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def datasets(covariates: bool = True, predict: bool = True, **arguments: Any) -> tuple[Any, Any]:
    """Up to a cutoff for training; the last forecast of each series, or all that begin later, for validation."""
    frame = panel()
    cutoff = frame["time_idx"].max() - DECODER - (0 if predict else 4)
    settings: dict[str, Any] = {
        "time_idx": "time_idx", "target": "value", "group_ids": ["series"],
        "max_encoder_length": ENCODER, "min_encoder_length": ENCODER,
        "max_prediction_length": DECODER, "min_prediction_length": DECODER,
    }  # fmt: skip
    if covariates:
        settings |= {
            "static_categoricals": ["kind"],
            "time_varying_known_reals": ["time_idx", "price"],
            "time_varying_unknown_reals": ["value"],
            "target_normalizer": GroupNormalizer(groups=["series"]),
            "add_relative_time_idx": True,
        }
    else:
        settings |= {
            "categorical_encoders": {"series": NaNLabelEncoder().fit(frame["series"])},
            "time_varying_unknown_reals": ["value"],
        }
    training = TimeSeriesDataSet(frame[frame["time_idx"] <= cutoff], **(settings | arguments))
    if predict:
        return training, TimeSeriesDataSet.from_dataset(training, frame, predict=True, stop_randomization=True)
    return training, TimeSeriesDataSet.from_dataset(training, frame, min_prediction_idx=int(cutoff) + 1)


def fitted(watch: Any, keeper: Keeper, data: tuple[Any, Any], make: Any) -> tuple[Keeper, Any]:
    """Fits what ``make`` makes of the training data, and predicts with it."""
    training, validation = data
    monitor = watch()
    first = training.to_dataloader(train=True, batch_size=32, num_workers=0)
    others = validation.to_dataloader(train=False, batch_size=32, num_workers=0)
    model = make(training)
    trainer([monitor, keeper], gradient_clip_val=0.1, limit_train_batches=4).fit(model, first, others)
    model.predict(others, trainer_kwargs={"accelerator": "cpu", "logger": False, "enable_progress_bar": False})
    return keeper, monitor


def over_time(calls: list[Any], _: Any) -> Tensor:
    """The mean over the steps of the only call."""
    assert len(calls) == 1
    return calls[0].mean(1)


def last(module: nn.Module) -> nn.Module:
    """The last linear layer in it."""
    return [m for m in module.modules() if isinstance(m, nn.Linear)][-1]


@use("pytorch-forecasting", "TemporalFusionTransformer")
def tft(watch: Any) -> tuple[Keeper, Any]:
    def make(training: Any) -> Any:
        return TemporalFusionTransformer.from_dataset(
            training, learning_rate=0.03, hidden_size=8, attention_head_size=1, dropout=0.1, hidden_continuous_size=4,
            loss=QuantileLoss(), optimizer="adam", log_interval=-1,
        )  # fmt: skip

    return fitted(watch, Keeper(lambda model: model.output_layer, over_time), datasets(), make)


@use("pytorch-forecasting", "DeepAR", then={"head": "distribution_projector"})
def deepar(watch: Any) -> tuple[Keeper, Any]:
    def make(training: Any) -> Any:
        return DeepAR.from_dataset(
            training, learning_rate=0.1, hidden_size=8, rnn_layers=2, loss=NormalDistributionLoss(),
            optimizer="adam", log_interval=-1,
        )  # fmt: skip

    keeper = Keeper(lambda model: model.distribution_projector, over_time)
    return fitted(watch, keeper, datasets(predict=False, add_relative_time_idx=False), make)


@use(
    "pytorch-forecasting", "RecurrentNetwork", then={"head": "output_projector"},
    why="decodes step by step in validation: the mean over the steps",
)  # fmt: skip
def recurrent(watch: Any) -> tuple[Keeper, Any]:
    def make(training: Any) -> Any:
        return RecurrentNetwork.from_dataset(training, hidden_size=8, loss=MAE(), optimizer="adam", log_interval=-1)

    keeper = Keeper(lambda model: model.output_projector, lambda calls, _: cat(calls, 1).mean(1))
    return fitted(watch, keeper, datasets(add_relative_time_idx=False), make)


@use(
    "pytorch-forecasting", "NBeats", then={"head": "net_blocks.5.theta_f_fc"}, why="a head in each block: the last one"
)
def nbeats(watch: Any) -> tuple[Keeper, Any]:
    def make(training: Any) -> Any:
        return NBeats.from_dataset(
            training, learning_rate=3e-2, widths=[8, 16], backcast_loss_ratio=0.1, optimizer="adam", log_interval=-1
        )

    keeper = Keeper(lambda model: last(model.net_blocks[-1]))
    return fitted(watch, keeper, datasets(covariates=False, predict=False), make)


@use(
    "pytorch-forecasting",
    "NHiTS",
    then={"head": "model.blocks.2.layers.layers.4"},
    why="a head in each block: the last one",
)
def nhits(watch: Any) -> tuple[Keeper, Any]:
    def make(training: Any) -> Any:
        return NHiTS.from_dataset(
            training, learning_rate=1e-2, hidden_size=16, backcast_loss_ratio=0.0, loss=QuantileLoss(),
            optimizer="adam", log_interval=-1,
        )  # fmt: skip

    return fitted(
        watch, Keeper(lambda model: last(model.model.blocks[-1].layers)), datasets(add_relative_time_idx=False), make
    )
