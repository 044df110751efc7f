"""Runs the uses of a library and writes what came of each: ``python -m tests.compat [--table] [module[:name]] …``."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "modules", nargs="*", help="of tests/compat/uses, each with :name of a single use; default: all"
    )
    parser.add_argument("--dry", action="store_true", help="print what came out, write nothing")
    arguments = parser.parse_args()
    from tests.compat import uses

    names = arguments.modules or sorted(m.name for m in pkgutil.iter_modules(uses.__path__))
    if len(names) > 1:  # each in a process of its own: libraries patch each other
        command = [sys.executable, "-m", "tests.compat", *(["--dry"] if arguments.dry else [])]
        raise SystemExit(max(subprocess.run([*command, name]).returncode for name in names))
    module, _, only = names[0].partition(":")
    if module != "stable_pretraining_":  # where it is installed, it adds ten callbacks to everybody's Trainer
        from tests.compat.kit import without_factories

        without_factories()
    try:
        importlib.import_module(f"tests.compat.uses.{module}")
    except ModuleNotFoundError as error:
        print(f"{module}: {error}; not run here")
        return
    raise SystemExit(_run(module, only, arguments.dry))


def _run(module: str, only: str, dry: bool) -> int:
    from tests.compat.kit import GOOD, USES, tried

    found = []
    for use in USES:
        if only and only not in use.name:
            continue
        begin = time.perf_counter()
        outcome = tried(use)
        found.append(outcome)
        print(
            f"{use.package:24}{use.name:36}{outcome.verdict:14}{time.perf_counter() - begin:6.1f} s  {outcome.watched}"
        )
        if only or outcome.verdict not in ("as is",):
            print("    " + outcome.said.replace("\n", "\n    "))
        if only:
            print(f"    {outcome.compared}")
        sys.stdout.flush()
    if not dry and not only:
        RESULTS.mkdir(exist_ok=True)
        facts = {
            name: _version(name) for name in {use.package for use in USES} | {"torch", "lightning", "torchmetrics"}
        }
        text = json.dumps({"versions": dict(sorted(facts.items())), "uses": [o.as_dict() for o in found]}, indent=1)
        (RESULTS / f"{module}.json").write_text(text + "\n", encoding="utf-8")
    return int(any(outcome.verdict not in GOOD for outcome in found))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


if __name__ == "__main__":
    main()
