"""Writes docs/compatibility.md from the committed results: ``python -m tests.compat.table``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.compat.kit import AS_IS, FAILED, NO_CLASSES, ONE_ARGUMENT, REFUSED, WRONG

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
HEAD = """\
# In other people's models and trainers

Each line below is a way of training that a library's own pages show, run on small generated data with
`FeatureGeometryMonitor()` added: no argument, no change of the model. Beside it runs a keeper, written before the
monitor was, that knows which module's input (or output) is the right one, keeps those rows itself and computes
effective rank, `feature_std`, the number of rows and, where there are classes, `nc1` from them in float64. "As is"
means: all of them agree to a thousandth.

| verdict | means |
|---|---|
| as is | right without an argument |
| one argument | refused, or gaps, with a line to paste; with that line, right |
| refused | nothing was logged but the reason |
| no class curves | the right rows, but labels that are there are not used |
| wrong | numbers of other rows |
| failed | an error, or a line that doesn't work |

`make compat` runs all of them, in two environments of their own (some 10 GB).
"""


def main() -> None:
    """Write the page."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    uses = [use for result in results.values() for use in result["uses"]]
    counts = Counter(use["verdict"] for use in uses)
    parts = [HEAD, _counts(counts, len({use["package"] for use in uses}))]
    parts += [_library(result) for result in results.values()]
    PAGE.write_text("\n".join(parts), encoding="utf-8")
    print(
        ", ".join(
            f"{verdict} {counts[verdict]}" for verdict in (AS_IS, ONE_ARGUMENT, REFUSED, NO_CLASSES, WRONG, FAILED)
        )
    )


def _counts(counts: Counter[str], libraries: int) -> str:
    total = counts.total()
    cells = [f"{counts[v]} {v}" for v in (AS_IS, ONE_ARGUMENT, REFUSED, NO_CLASSES, WRONG, FAILED)]
    return (
        f"**{total} uses of {libraries} libraries: {', '.join(cells)}** ({100 * counts[AS_IS] / total:.0f} % as is).\n"
    )


def _library(result: dict[str, Any]) -> str:
    names = list(dict.fromkeys(use["package"] for use in result["uses"]))
    versions = result["versions"]
    title = ", ".join(f"{name} {versions.get(name, '')}".strip() for name in names)
    beside = ", ".join(f"{n} {versions[n]}" for n in ("torch", "lightning", "torchmetrics") if n not in names)
    lines = [f"## {title}", "", f"Beside {beside}.", "", "| use | verdict | watched | |", "|---|---|---|---|"]
    for use in result["uses"]:
        library = f"{use['package']}: " if len(names) > 1 else ""
        said = use["why"] or ("" if use["verdict"] in (AS_IS, ONE_ARGUMENT) else use["said"].split("\n")[0][:160])
        verdict = use["verdict"] + (f": `{use['argument']}`" if use["argument"] else "")
        cells = [library + use["name"], verdict, use["watched"].split(" rows ")[0], said]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
