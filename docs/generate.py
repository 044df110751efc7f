"""Write docs/signals, docs/statistics.md and docs/literature.md from the catalogue: python docs/generate.py"""

import re
from pathlib import Path

from lightning_featgeo.metrics.catalog import CATALOG
from lightning_featgeo.metrics.document import statistics, write

DOCS = Path(__file__).parent
CLAIMS = DOCS.parent / "benchmarks" / "results" / "claims.md"
ELSEWHERE = {  # claims that have a benchmark of their own
    "id_two_nn": "[bias at known dimensions](../benchmarks/results/dimension_bias.md)",
    "linear_probe_accuracy": "[ranks checkpoints as a trained probe does](../benchmarks/results/online_probes.md)",
    "cka_drift": "[over a run](../benchmarks/results/over_time.md)",
    "feature_std": "[tells broken runs from intact ones](../benchmarks/results/validity.md)",
    "effective_rank": "[tells broken runs from intact ones](../benchmarks/results/validity.md)",
    "nc3_orthogonal": "0 at the closed-form optimum (in the tests)",
    "label_disagreement": "[finds wrong labels on digits: AUROC 0.99](loggers.md)",
}


def literature() -> str:
    """What of the literature is here, as Markdown: a row for each source."""
    came_out: dict[str, str] = {}
    for line in CLAIMS.read_text().splitlines()[4:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4:
            for name in re.findall(r"`(\w+)`", cells[0]):
                came_out[name] = f"{cells[1]}: {cells[3]}"
    sources: dict[str, list[str]] = {}
    for name, signal in CATALOG.items():
        sources.setdefault(signal.source, []).append(name)
    lines = []
    for source, names in sorted(sources.items(), key=lambda item: item[0].lower()):
        links = ", ".join(f"[`{name}`](signals/{name}.md)" for name in names)
        oracles = "; ".join(
            dict.fromkeys(CATALOG[name].parity for name in names if not CATALOG[name].parity.startswith("as "))
        )
        told = dict.fromkeys(found for name in names for found in (came_out.get(name), ELSEWHERE.get(name)) if found)
        lines.append(f"| {source} | {links} | {oracles or 'as the first'} | {'; '.join(told) or '–'} |")
    head = (
        "# What of the literature is here\n\nA row for each source: the signals that come from it, what they are "
        "compared with in the tests ([by how much they differ](../benchmarks/results/parity.md)), and where a claim of "
        "the literature was tried here, how it came out ([in figures](../benchmarks/results/claims.md)). A dash: no "
        "claim was tried, the number is exact and what it is worth is yours to find out. [What was left "
        "out](definitions.md#what-was-left-out-and-why). Generated: `python docs/generate.py`.\n\n"
        "| source | signals | compared with | a claim, and how it came out |\n|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    write(DOCS / "signals")
    (DOCS / "statistics.md").write_text(statistics(), encoding="utf-8")
    (DOCS / "literature.md").write_text(literature(), encoding="utf-8")
