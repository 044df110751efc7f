"""``python -m lightning_featgeo.cuda_ext [info | build [--cuda | --no-cuda]]``."""

from __future__ import annotations

import argparse
import sys

from lightning_featgeo.cuda_ext import backend_info, build


def main() -> int:
    """Say which kernels run, or build them here."""
    parser = argparse.ArgumentParser(prog="python -m lightning_featgeo.cuda_ext", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("info", help="which kernels run, and why (the default)")
    building = commands.add_parser("build", help="compile the kernels for the torch of this environment")
    building.add_argument("--cuda", action=argparse.BooleanOptionalAction, help="default: where nvcc is found")
    asked = parser.parse_args()
    if asked.command != "build":
        for key, value in backend_info().items():
            print(f"{key:>10}: {value}")
        return 0
    for kind in build.LIBRARIES:
        if kind == "cuda" and asked.cuda is False:
            continue
        try:
            print(f"built {build.build(kind, build.default_folder())}")
        except build.BuildError as error:
            print(f"{kind}: {error}", file=sys.stderr)
            if kind == "cpu" or asked.cuda:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
