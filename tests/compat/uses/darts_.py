"""Darts: torch forecasting models, the callbacks in ``pl_trainer_kwargs``, fitted with a validation series."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.models import BlockRNNModel, NBEATSModel, RNNModel, TCNModel, TFTModel, TransformerModel
from darts.utils.likelihood_models.torch import GaussianLikelihood
from torch import Tensor

from tests.compat.keeper import Keeper
from tests.compat.kit import use


def series(n: int = 160) -> tuple[TimeSeries, TimeSeries]:
    """A season with noise, its first part and its last."""
    random = np.random.default_rng(0)
    values = np.sin(np.arange(n) * 2 * np.pi / 12) + 0.3 * random.normal(size=n)
    whole = TimeSeries.from_values(values.astype(np.float32))
    return whole[: n - 60], whole[n - 60 :]


def fitted(watch: Any, keeper: Keeper, make: Any, **arguments: Any) -> tuple[Keeper, Any]:
    """Fits a model of chunks of 12 that forecasts 6, and forecasts with it."""
    monitor = watch()
    train, val = series()
    with tempfile.TemporaryDirectory() as folder:
        model = make(
            input_chunk_length=12, n_epochs=2, batch_size=16, random_state=0, work_dir=folder,
            pl_trainer_kwargs={
                "accelerator": "cpu", "callbacks": [monitor, keeper], "enable_progress_bar": False,
                "enable_model_summary": False,
            },
            **arguments,
        )  # fmt: skip
        model.fit(train, val_series=val, verbose=False)
        model.predict(n=6, series=train, verbose=False)
    return keeper, monitor


def over_time(calls: list[Any], _: Any) -> Tensor:
    """The mean over the steps of the only call."""
    assert len(calls) == 1
    return calls[0].mean(1)


@use(
    "darts", "NBEATSModel", then={"head": "stacks.2.blocks.0.forecast_g"}, why="three stacks, each a head: the last one"
)
def nbeats(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.stacks[-1].blocks[-1].forecast_g, lambda calls, _: calls[0].flatten(1))
    return fitted(watch, keeper, NBEATSModel, output_chunk_length=6, num_stacks=3, num_layers=2, layer_widths=16)


@use("darts", "TCNModel", then={"head": "res_blocks.1.conv2"}, why="one row a chunk: the mean over padded steps")
def tcn(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.res_blocks[-1].conv2, lambda calls, _: calls[0].mean(2))
    return fitted(watch, keeper, TCNModel, output_chunk_length=6, num_filters=8, num_layers=2)


@use("darts", "TransformerModel", then={"pool": "t b d -> b d"})
def transformer(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.decoder, lambda calls, _: calls[-1].mean(0))  # the last call has all steps
    return fitted(
        watch, keeper, TransformerModel, output_chunk_length=6, d_model=16, nhead=2, num_encoder_layers=1,
        num_decoder_layers=1, dim_feedforward=16,
    )  # fmt: skip


@use("darts", "RNNModel LSTM, Gaussian likelihood")
def rnn(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.V, over_time)
    return fitted(
        watch, keeper, RNNModel, model="LSTM", training_length=18, hidden_dim=16, likelihood=GaussianLikelihood()
    )


@use("darts", "BlockRNNModel GRU")
def block_rnn(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.fc[-1], over_time)
    return fitted(watch, keeper, BlockRNNModel, output_chunk_length=6, model="GRU", hidden_dim=16, hidden_fc_sizes=[8])


@use("darts", "TFTModel")
def tft(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.output_layer, over_time)
    return fitted(
        watch, keeper, TFTModel, output_chunk_length=6, hidden_size=8, lstm_layers=1, num_attention_heads=2,
        add_relative_index=True,
    )  # fmt: skip
