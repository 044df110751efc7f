"""Real processes for tests: a function runs once on each rank of a gloo group, and what it returns comes back."""

from __future__ import annotations

import multiprocessing as mp
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PRELOAD = ["torch", "torch.distributed", "lightning.pytorch", "lightning_featgeo", "sklearn.datasets"]
_LIMIT = 240.0  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Died(RuntimeError):
    """Some ranks did not end as they should; ``outcomes`` has what each of them came to."""

    def __init__(self, outcomes: list[Any]) -> None:
        super().__init__("\n".join(f"rank {rank}: {outcome}" for rank, outcome in enumerate(outcomes)))
        self.outcomes = outcomes


def on_ranks(size: int, function: Callable[..., Any], *args: Any, limit: float = _LIMIT) -> list[Any]:
    """What ``function(*args)`` returned on every rank. It is a module's own function, and so is what it returns.

    In the function, ``RANK`` and the like are set as a launcher would: ``Trainer(strategy="ddp", devices=size)`` and
    ``torch.distributed.init_process_group("gloo")`` find the others.

    Raises:
        Died: if a rank raised, died, or took longer than the limit (then all are killed).
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=_work, args=(rank, size, port, folder, sys.path[:], function, args), daemon=True)
            for rank in range(size)
        ]
        for worker in workers:
            worker.start()
        end = time.monotonic() + limit
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))
        late = [worker.is_alive() for worker in workers]
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
        outcomes: list[Any] = []
        for rank, worker in enumerate(workers):
            file = Path(folder) / f"{rank}.pt"
            if late[rank]:
                outcomes.append(f"still running after {limit:.0f} s")
            elif not file.exists():
                outcomes.append(f"died with exit code {worker.exitcode}")
            else:
                outcomes.append(torch.load(file, weights_only=False))
    if any(isinstance(outcome, str) for outcome in outcomes):
        raise Died(outcomes)
    return [outcome[0] for outcome in outcomes]


def _work(
    rank: int, size: int, port: int, folder: str, path: list[str], function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    sys.path[:] = path
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        WANDB_MODE="offline",
        HF_HUB_OFFLINE="1",
    )
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        outcome: Any = (function(*args),)
    except BaseException:
        outcome = traceback.format_exc()
    torch.save(outcome, Path(folder) / f"{rank}.part")
    (Path(folder) / f"{rank}.part").rename(Path(folder) / f"{rank}.pt")
    if torch.distributed.is_initialized():
        os._exit(0)  # a group whose peers may be gone is not taken down politely
