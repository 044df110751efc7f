"""The map in CONTRIBUTING.md names every file of the package."""

from pathlib import Path

import pytest

import lightning_featgeo

ROOT = Path(lightning_featgeo.__file__).parent
GUIDE = ROOT.parent / "CONTRIBUTING.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="no checkout around the package")
def test_every_file_has_its_place_on_the_map() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    map_ = text.partition("## Where things are")[2].partition("## Where to add what")[0]
    by_topic = {path.name for path in (ROOT / "metrics" / "functional").glob("*.py")} - {"pairs.py", "segments.py"}
    private = {"__init__.py", "__main__.py", "_version.py"}
    names = {path.name for path in ROOT.rglob("*.py")} - private - by_topic
    assert [name for name in sorted(names) if name not in map_] == []
    folders = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert [name for name in sorted(folders) if f"  {name}/" not in map_] == []
