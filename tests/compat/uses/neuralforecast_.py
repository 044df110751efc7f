"""NeuralForecast: a panel of series, the callbacks among the model's trainer arguments, ``val_size`` in ``fit``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import LSTM, NBEATS, NHITS, TFT, PatchTST
from torch import Tensor, cat, nn

from tests.compat.keeper import Keeper
from tests.compat.kit import use

logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
HORIZON = 6


def panel(n_series: int = 8, n: int = 96) -> pd.DataFrame:
    """Series in the long format."""
    random = np.random.default_rng(0)
    dates = pd.date_range("2020-01-01", periods=n, freq="D")
    frames = [
        pd.DataFrame({
            "unique_id": f"s{i}", "ds": dates,
            "y": (i + 1) * np.sin(np.arange(n) * 2 * np.pi / (6 + i)) + random.normal(size=n),
        })
        for i in range(n_series)
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def fitted(watch: Any, keeper: Keeper, kind: Any, **arguments: Any) -> tuple[Keeper, Any]:
    """Fits a model that looks 12 steps back, and forecasts with it. The library trains copies, of callbacks too."""
    settings: dict[str, Any] = {
        "h": HORIZON, "input_size": 12, "max_steps": 4, "val_check_steps": 2, "batch_size": 4,
        "windows_batch_size": 32, "scaler_type": "standard", "accelerator": "cpu", "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False, "callbacks": [watch(), keeper],
    }  # fmt: skip
    forecast = NeuralForecast(models=[kind(**(settings | arguments))], freq="D")
    frame = panel()
    forecast.fit(df=frame, val_size=12)
    forecast.predict()
    monitor, keeper = forecast.models[0].trainer_kwargs["callbacks"][:2]
    return keeper, monitor


def last(module: nn.Module) -> nn.Module:
    """The last linear layer in it."""
    return [m for m in module.modules() if isinstance(m, nn.Linear)][-1]


def over_time(calls: list[Any], _: Any) -> Tensor:
    """Each window's mean over its steps."""
    return cat(calls).mean(1)


@use("neuralforecast", "NHITS", why="three blocks, each a head: two arguments, views=None and head=")
def nhits(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: last(model.blocks[-1]), lambda calls, _: cat(calls))
    return fitted(watch, keeper, NHITS, mlp_units=3 * [[16, 16]])


@use("neuralforecast", "NBEATS", why="three blocks, each a head: two arguments, views=None and head=")
def nbeats(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: last(model.blocks[-1]), lambda calls, _: cat(calls))
    return fitted(watch, keeper, NBEATS, mlp_units=3 * [[16, 16]])


@use("neuralforecast", "PatchTST", then={"views": None}, why="one row a window")
def patchtst(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.model.head.linear, lambda calls, _: cat(calls).flatten(1))
    return fitted(
        watch, keeper, PatchTST, encoder_layers=1, n_heads=2, hidden_size=16, linear_hidden_size=16, patch_len=4,
        stride=2,
    )  # fmt: skip


@use("neuralforecast", "LSTM", then={"views": None}, why="one row a window")
def lstm(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: last(model.mlp_decoder), over_time)
    return fitted(watch, keeper, LSTM, encoder_hidden_size=16, decoder_hidden_size=8, decoder_layers=2)


@use("neuralforecast", "TFT, quantiles", then={"views": None}, why="one row a window")
def tft(watch: Any) -> tuple[Keeper, Any]:
    keeper = Keeper(lambda model: model.output_adapter, over_time)
    return fitted(watch, keeper, TFT, hidden_size=8, n_head=2, loss=MQLoss(level=[80]))
