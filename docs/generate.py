"""Write docs/signals from the catalogue: python docs/generate.py"""

from pathlib import Path

from lightning_featgeo.metrics.document import write

write(Path(__file__).parent / "signals")
