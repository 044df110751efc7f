"""A Weights & Biases workspace with the geometry panels in order: collapse first, then dimension, density and classes.

    pip install 'lightning-featgeo[loggers]'
    python examples/wandb_workspace.py --entity me --project featgeo-digits          # shows what it would make
    python examples/wandb_workspace.py --entity me --project featgeo-digits --save   # makes it (needs `wandb login`)

W&B sorts its panels by name. This script uses W&B's library, wandb-workspaces, to put them in reading order, each over
the fractional epoch, with row counts and cost below.
"""

from __future__ import annotations

import argparse

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from lightning_featgeo.metrics.catalog import CATALOG, PRESETS, resolve
from lightning_featgeo.report.curves import GROUPS, heading

EPOCH = "featgeo/epoch"


def workspace(entity: str, project: str, stages: list[str], signals: tuple[str, ...]) -> ws.Workspace:
    sections = []
    order = [*GROUPS, "Others"]
    ordered = sorted(signals, key=lambda name: order.index(heading(name)))
    for stage in stages:
        panels = [
            wr.LinePlot(
                title=name + {"higher": " ↑", "lower": " ↓"}.get(CATALOG[name].direction, ""),
                x=EPOCH,
                y=[f"featgeo/{stage}/{name}"],
                title_y=CATALOG[name].unit,
            )
            for name in ordered
        ]
        panels.append(wr.LinePlot(title="alarm (1: standing)", x=EPOCH, y=[f"featgeo/{stage}/alarm"], range_y=(0, 1)))
        sections.append(ws.Section(name=f"Geometry, {stage}", panels=panels, is_open=True))
        curves = [f"featgeo_curves/{stage}/{name}" for name in ("class_cosines", "layout_picture", "log_density")]
        tables = [
            f"featgeo_tables/{stage}/{name}_{when}"
            for name in ("classes", "lowest_density")
            for when in ("best", "last")
        ]
        looks = [wr.MediaBrowser(title=key.rpartition("/")[2], media_keys=[key]) for key in (*curves, *tables)]
        sections.append(ws.Section(name=f"Pictures and tables, {stage}", panels=looks))
        cost = [
            wr.LinePlot(title=name, x=EPOCH, y=[f"featgeo_monitor/{stage}/{name}"])
            for name in ("n_samples", "gaps", "seconds", "share")
        ]
        sections.append(ws.Section(name=f"Rows, gaps and cost, {stage}", panels=cost, is_open=False))
    return ws.Workspace(name="Feature geometry", entity=entity, project=project, sections=sections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--stages", nargs="+", default=["val"])
    parser.add_argument("--signals", nargs="+", default=["classifier"], help=f"names or presets: {', '.join(PRESETS)}")
    parser.add_argument("--save", action="store_true", help="make it online; otherwise it is only shown")
    args = parser.parse_args()
    made = workspace(args.entity, args.project, args.stages, resolve(args.signals))
    for section in made.sections:
        print(section.name)
        for panel in section.panels:
            print(f"  {panel.title}: {', '.join(getattr(panel, 'y', None) or panel.media_keys)}")
    if args.save:
        print(made.save().url)


if __name__ == "__main__":
    main()
