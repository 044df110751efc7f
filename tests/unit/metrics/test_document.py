"""The catalogue's pages: complete for every row, and up to date in the repository."""

import runpy
from pathlib import Path

import pytest

from lightning_featgeo.metrics import CATALOG
from lightning_featgeo.metrics.document import cost, formula, index, page, statistics, undefined, write

DOCS = Path(__file__).parents[3] / "docs" / "signals"


@pytest.mark.parametrize("name", CATALOG)
def test_every_row_is_complete(name: str) -> None:
    row = CATALOG[name]
    for part in (row.source, row.value_range, row.unit, row.bias, row.parity, formula(row), cost(row), undefined(row)):
        assert len(part) > 0
    assert row.groups
    assert row.direction in ("higher", "lower", "none")
    assert "Rais" not in formula(row)
    assert len(page(row).split("**")) >= 22  # eleven titled paragraphs


def test_the_pages_in_the_repository_are_those_of_this_catalogue(tmp_path: Path) -> None:
    write(tmp_path)
    fresh = {path.name: path.read_text() for path in tmp_path.glob("*.md")}
    kept = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    assert fresh == kept, "run: python docs/generate.py"
    assert len(fresh) == len(CATALOG) + 1
    assert all(f"({name}.md)" in index() for name in CATALOG)
    assert (DOCS.parent / "statistics.md").read_text() == statistics(), "run: python docs/generate.py"
    literature = runpy.run_path(str(DOCS.parent / "generate.py"))["literature"]()
    assert (DOCS.parent / "literature.md").read_text() == literature, "run: python docs/generate.py"
    assert all(f"](signals/{name}.md)" in literature for name in CATALOG)
