"""The README's Python snippets run as they stand, in order; its two commands are those of the Makefile."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SNIPPETS) >= 3
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), names)
    assert "effective_rank" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["compiled.md", "report.md", "loggers.md", "comparing.md"])
def test_snippets_of_a_page_run(page: str) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.S)
    assert len(snippets) == 1
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), {})


def test_commands_files_and_signals_exist() -> None:
    from lightning_featgeo.metrics import CATALOG

    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert re.search(rf"^{command}:", makefile, flags=re.M)
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    table = README.split("| curve |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", table))
    assert named <= set(CATALOG)
    missing = {s for s in CATALOG if s not in named and not s.startswith("knn_log_density_q")}
    assert missing == {"n_samples"}
