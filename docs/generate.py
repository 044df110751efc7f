"""Write docs/signals and docs/statistics.md from the catalogue: python docs/generate.py"""

from pathlib import Path

from lightning_featgeo.metrics.document import statistics, write

write(Path(__file__).parent / "signals")
(Path(__file__).parent / "statistics.md").write_text(statistics(), encoding="utf-8")
