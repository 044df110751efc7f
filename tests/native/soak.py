"""Hours in minutes, what ``make soak`` runs: kills, a full disk, two writers in one folder, and many windows in a row.

Each part returns what it counted and raises ``AssertionError`` where a promise was broken. The tests run short forms.
"""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_featgeo import FeatureGeometryMonitor, GeometryAlarm, History
from lightning_featgeo.alarms import Alarm
from lightning_featgeo.history.record import Record
from tests._helpers.models import Classifier, loaders, trainer
from tests._helpers.processes import start_script

RUN = Path(__file__).with_name("soak_run.py")


def _started(folder: Path, epochs: int, version: str) -> Any:
    """A run that has begun, as a process."""
    printed = folder / f"{uuid.uuid4()}.txt"
    process = start_script(RUN, str(folder), str(epochs), version, printed=printed)
    while process.is_alive() and not (printed.exists() and "ready" in printed.read_text()):
        time.sleep(0.02)
    return process


def _whole(path: Path, may_be_cut: bool) -> int:
    """Windows of a history that must be readable: all lines, or all but the last one."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        history = History.load(path)
    damaged = [str(each.message) for each in said]
    assert len(damaged) <= may_be_cut, f"{path}: {damaged}"
    numbers = [record.window for record in history.records]
    assert numbers == sorted(set(numbers)), f"{path}: windows {numbers}"
    return len(numbers)


def kills(count: int) -> str:
    """Runs killed at a random moment: every line but the last one is whole, and no temporary file stays."""
    windows, draw = 0, random.Random(0)
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            process = _started(Path(folder), 10_000, "0")
            time.sleep(draw.uniform(0.05, 3.0))
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL, "it had ended before"
            for path in Path(folder).rglob("*.jsonl"):
                windows += _whole(path, may_be_cut=True)
            left = [
                path.name for path in Path(folder).rglob("*") if path.name.startswith(".") or path.suffix == ".part"
            ]
            assert not left, f"kill {number} left {left}"
    return f"{count} kills: every history whole, {windows} windows"


def two_writers(epochs: int) -> str:
    """Two runs that log into one folder at the same time: two histories, each whole."""
    with tempfile.TemporaryDirectory() as folder:
        both = [_started(Path(folder), epochs, "same") for _ in range(2)]
        for process in both:
            process.join()
            assert process.exitcode == 0
        counts = [_whole(path, may_be_cut=False) for path in sorted(Path(folder).rglob("*.jsonl"))]
    assert counts == [epochs, epochs], counts
    return f"two writers: {counts} windows"


@contextmanager
def small_disk(size: str) -> Iterator[Path | None]:
    """A file system of this size, where one may be mounted; else None."""
    with tempfile.TemporaryDirectory() as folder:
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        )
        if mount.returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=False)


def fill(filler: Path) -> None:
    """A file that takes what is left of its disk."""
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def full_disk(windows: int) -> str:
    """A disk that is full for a third of the run: nothing is raised, and all windows are in the file at the end."""
    with small_disk("256k") as disk:
        if disk is None:
            return "full disk: no file system may be mounted here, not tried"
        history, filler = History(disk / "history.jsonl"), disk / "filler"
        history.describe({})
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for window in range(windows):
                if window == windows // 3:
                    fill(filler)
                if window == 2 * windows // 3:
                    filler.unlink()
                values = {"feature_std": 0.5, "effective_rank": float(window)}
                history.append(Record(window, "val", None, float(window), window, values))
            history.end("ended as planned")
        found = _whole(history.path or disk, may_be_cut=False)
        assert found == windows, f"{found} of {windows} windows"
        assert [str(each.message) for each in said if "history can't be written" in str(each.message)], (
            "it said nothing"
        )
        return f"full disk: {found} of {windows} windows in the file, {len(said)} warning(s)"


def many_windows(windows: int, most_mib: float = 48.0) -> str:
    """One run of many windows with an alarm: memory stays, and a window costs at the end what it cost at first."""
    seen: list[tuple[float, float]] = []

    class Clock(GeometryAlarm):
        def observe(self, *args: Any, **kwargs: Any) -> list[Alarm]:
            found = super().observe(*args, **kwargs)
            seen.append((time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
            return found

    monitor = FeatureGeometryMonitor(signals=["feature_std", "effective_rank", "id_two_nn"])
    trainer(monitor, Clock("collapse", action=lambda _: None), max_epochs=windows).fit(Classifier(), *loaders())
    early, late = seen[len(seen) // 5], seen[-1]
    grown = late[1] - early[1]
    assert grown < most_mib, f"{grown:.0f} MiB more after {windows} windows"
    part = len(seen) // 5
    first, last = (seen[at + part - 1][0] - seen[at][0] for at in (part, len(seen) - part))
    return f"{windows} windows: {grown:+.1f} MiB, a fifth of them takes {last / first:.2f} of what an early fifth took"


def main() -> None:
    for part, size in ((kills, 40), (two_writers, 60), (full_disk, 240), (many_windows, 500)):
        start = time.perf_counter()
        print(part(size), f"({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
