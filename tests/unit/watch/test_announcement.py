"""What is printed: sizes in words, and above a progress bar that is being drawn."""

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

from lightning_featgeo.watch.announcement import mebibytes, say


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (132_752_384, "127 MiB"),
        (3 * 2**30 // 2, "1.5 GiB"),
        (5000 * 2**30, "5,000 GiB"),
    ],
)
def test_bytes_in_words(count: int, words: str) -> None:
    assert mebibytes(count) == words


def test_a_block_stands_above_the_bar_of_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    with tqdm(total=3, file=sys.stderr, desc="epoch", ncols=40) as bar:
        bar.update(1)
        say("featgeo: watching\n  classes  10")
        bar.update(1)
    lines = [line.rstrip() for line in capsys.readouterr().err.replace("\r", "\n").splitlines()]
    assert "featgeo: watching" in lines  # alone in its line: no rest of the bar before or behind it
    assert "  classes  10" in lines


def test_a_block_stands_above_the_bar_of_rich() -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=60)
    with Progress(console=console) as progress:
        task = progress.add_task("epoch", total=3)
        progress.advance(task)
        progress.refresh()
        say("featgeo: watching")
        progress.refresh()
    text = drawn.getvalue()
    (line,) = [line for line in text.splitlines() if "featgeo: watching" in line]
    assert "epoch" not in line


def test_without_tqdm_it_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "tqdm")
    say("x")
    assert capsys.readouterr().err == "x\n"
