"""Real processes for tests: a function runs once on each rank of a gloo group, and what it returns comes back; or a
script runs as from the command line. All are forked from one process that has imported torch and Lightning."""

from __future__ import annotations

import atexit
import multiprocessing as mp
import os
import runpy
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PRELOAD = [
    "torch", "torch.distributed", "lightning.pytorch", "lightning_featgeo.callbacks", "sklearn.datasets",
    "tests._helpers.preloaded",
]  # fmt: skip
LIMIT = 1800.0  # seconds: a guard against hanging, not a bound on how long anything takes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Died(RuntimeError):
    """Some ranks did not end as they should; ``outcomes`` has what each of them came to."""

    def __init__(self, outcomes: list[Any]) -> None:
        super().__init__("\n".join(f"rank {rank}: {outcome}" for rank, outcome in enumerate(outcomes)))
        self.outcomes = outcomes


def _context() -> Any:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def on_ranks(size: int, function: Callable[..., Any], *args: Any, limit: float = LIMIT) -> list[Any]:
    """What ``function(*args)`` returned on every rank. It is a module's own function, and so is what it returns.

    In the function, ``RANK`` and the like are set as a launcher would: ``Trainer(strategy="ddp", devices=size)`` and
    ``torch.distributed.init_process_group("gloo")`` find the others.

    Raises:
        Died: if a rank raised, died, or took longer than the limit (then all are killed).
    """
    context = _context()
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


def start_script(script: Path, *arguments: str, printed: Path, environment: dict[str, str] | None = None) -> Any:
    """A process that runs ``python script arguments``; both its streams go to a file."""
    own = dict(os.environ if environment is None else environment)
    worker = _context().Process(target=_run, args=(str(script), arguments, os.getcwd(), own, str(printed)))
    worker.start()
    return worker


def run_script(script: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """What ``python script arguments`` printed to either stream, in this folder and with exactly that environment.

    Raises:
        Died: if it raised, ended with another exit code than 0, or hung.
    """
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        worker = start_script(script, *arguments, printed=printed, environment=environment)
        worker.join(LIMIT)
        hung = worker.is_alive()
        if hung:
            worker.kill()
            worker.join()
        output = printed.read_text(encoding="utf-8", errors="replace") if printed.exists() else ""
    if hung or worker.exitcode != 0:
        raise Died([f"{script.name}: {'hung' if hung else f'exit code {worker.exitcode}'}\n{output[-3000:]}"])
    return output


def _run(script: str, arguments: tuple[str, ...], folder: str, environment: dict[str, str], printed: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    torch.manual_seed(torch.seed())  # what a fork has inherited is no new generator
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    code: Any = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()  # a forked process ends without them, and loggers finish there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))
