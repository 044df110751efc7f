"""The phase of a run: what was looked at, announced and trained, and which windows are open.

A wrong setting may end a run only while nothing is lost: before the first training step. Later it is a gap::

    start ── look (a stage's first batch) ── announce (the first rows) ── train (a step is done)
              may refuse a setting ────────────────────────────────────┘   from here on, a gap

    a stage's window:  closed ── open ── catching (inside a step) ── open ── … ── closed
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Phase:
    """Where a run is.

    Attributes:
        trained: whether a training step is done: until then a wrong setting may end the run.
        announced: whether the run has said what it watches.
        knows_rows: whether it has said that rows are known to be their samples'.
        catching: the stage whose step is being run, None between steps.
        open: stages whose windows are being fed.
        moment: training batches so far: weights, or what else training changes, are others at another one.
        looked: loaders (stage and number) whose first batch was looked at.
    """

    trained: bool = False
    announced: bool = False
    knows_rows: bool = False
    catching: str | None = None
    open: set[str] = field(default_factory=set)
    moment: int = 0
    looked: set[tuple[str, int]] = field(default_factory=set)
    _with_rows: set[tuple[str, int]] = field(default_factory=set)

    def awaits_rows(self, loader: tuple[str, int]) -> bool:
        """Whether no rows have arrived from this loader yet."""
        return loader not in self._with_rows

    def rows_arrived(self, loader: tuple[str, int]) -> None:
        """Rows have arrived from this loader."""
        self._with_rows.add(loader)
