"""The README's Python snippets run as they stand, in order; its two commands are those of the Makefile."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

from lightning_featgeo.metrics import CATALOG

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_snippets_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SNIPPETS) >= 3
    names: dict[str, object] = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), names)
    assert "effective_rank" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "count"),
    [("compiled.md", 1), ("report.md", 2), ("loggers.md", 1), ("comparing.md", 1), ("own_signals.md", 2)],
)
def test_snippets_of_a_page_run(page: str, count: int) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.S)
    assert len(snippets) == count
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), names)
    CATALOG.pop("norm_spread", None)  # the page's own signal


def test_commands_files_and_signals_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert re.search(rf"^{command}:", makefile, flags=re.M)
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    table = README.split("| curve |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", table))
    assert named <= set(CATALOG)
    told = named | {f"{name}_{which}" for name in named for which in ("first", "best", "anchor")}
    missing = {s for s in CATALOG if s not in told and not s.startswith("knn_log_density_q")}
    assert missing == {"n_samples"}


def test_the_first_notebook_reads_well_in_a_kernel_of_its_own(tmp_path: Path) -> None:  # `make docs` runs them all
    """Executed as Jupyter does: its reader sees the announcement, plots, tables and a gap, and no warning of ours."""
    text = (ROOT / "docs" / "notebooks" / "first_run.md").read_text().replace("max_epochs=12", "max_epochs=3")
    cells = re.findall(r"```\{code-cell\} python3\n(?::tags: [^\n]*\n\n)?(.*?)```", text, flags=re.S)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    seen = [
        {
            kind: str(shown)
            for each in cell.outputs
            for kind, shown in each.get("data", {each.output_type: each.get("text")}).items()
        }
        for cell in notebook.cells
    ]
    said = "".join(each.get("text", "") for cell in notebook.cells for each in cell.outputs)
    assert "featgeo: watching the input of 'head'" in said
    assert "FeatureGeometryWarning" not in said
    assert [i for i, each in enumerate(seen) if "image/png" in each] == [3, 4]
    table, frame, gap = (seen[i] for i in (5, 6, 7))
    assert "<p>3 windows</p>" in table["text/html"]
    assert "effective_rank" in frame["text/html"]
    assert "needs 2 classes" in gap["text/plain"]
    assert "GapKind" in gap["text/plain"]


def test_every_page_is_in_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.md")]:
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or re.search(rf"^{re.escape(name)}$", index, flags=re.M), name
