"""Why a window has nothing, and what to paste: the words for a layer that did not run."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_featgeo import _compat
from lightning_featgeo.watch.plan import WindowPlan

SHOWN_MODULES = 5  # names in a message


def did_not_run(path: str, plan: WindowPlan, instead: Sequence[str]) -> str:
    """The reason for a layer that was watched and not called; ``instead``: modules that the step called."""
    told = f"no features were caught: {path!r} did not run in {plan.name}"
    instead = [one for one in instead if one != path]
    if instead:
        ran = ", ".join(repr(one) for one in instead[:SHOWN_MODULES])
        stages, other = ('"val"', "validation") if plan.stage == "train" else ('("train", "val")', "the training")
        return (
            f"{told}; {ran} did. Paste FeatureGeometryMonitor(layer={instead[-1]!r}) to watch what runs there, or "
            f"FeatureGeometryMonitor(stages={stages}) to watch {other}"
        )
    compiled = " If the model was compiled and called before fit, compile it anew." if _compat.compiles() else ""
    return (
        f"{told}.{compiled} If this stage uses another part of the model, name a layer that runs in it, or watch the "
        "training: stages=('train', 'val')"
    )
