"""What a step costs once a run is in its stride, counted and not timed: batches read in full, and calls of our code."""

import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning_featgeo
from lightning_featgeo.rows.assembler import RowAssembler
from tests._helpers.models import Classifier, strict, trainer

BEGIN, END = 70, 130  # steps that are looked at: between two losses of which one in 64 is looked at anew
OURS = str(Path(lightning_featgeo.__file__).parent)
MOST_CALLS = 320  # of our functions in a step: 239 on Python 3.11; more where types are checked


class Count(pl.Callback):
    """Counts calls of our functions by step, all hooks of the step included."""

    def __init__(self) -> None:
        self.calls = Counter[str]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == BEGIN:
            sys.setprofile(self.note)
        elif batch_idx == END:
            sys.setprofile(None)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            self.calls[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1


def labelled(batches: int) -> DataLoader:
    g = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(batches * 16, 64, generator=g), torch.randint(0, 10, (batches * 16,), generator=g))
    return DataLoader(data, 16, shuffle=True)


def test_a_step_in_its_stride_makes_few_calls() -> None:
    count = Count()
    before = sys.getprofile()
    torch.manual_seed(0)
    try:
        trainer(count, strict(stages="train"), max_epochs=1).fit(Classifier(), labelled(END + 2))
    finally:
        sys.setprofile(before)
    assert 0 < sum(count.calls.values()) / (END - BEGIN) <= MOST_CALLS, count.calls.most_common(20)


@pytest.mark.parametrize("epochs", [1, 3])
def test_only_the_first_batches_of_an_epoch_are_read_in_full(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = [0], RowAssembler._in_full

    def counted(self: RowAssembler, *args: Any) -> Any:
        read[0] += 1
        return original(self, *args)

    monkeypatch.setattr(RowAssembler, "_in_full", counted)
    torch.manual_seed(0)
    trainer(strict(stages="train"), max_epochs=epochs).fit(Classifier(), labelled(120))
    assert 3 <= read[0] <= 3 + 8 * epochs
