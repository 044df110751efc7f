"""Articles of what changes as a whole from window to window: rows in the plane, layers against each other, spectra."""

from __future__ import annotations

from typing import Any

from lightning_featgeo.report.parts import figure, text

LAID_OUT = (
    "Each dot is the same sample in every window: the first two principal components of these rows, turned so that "
    "dots stay near where they were. Dots that lie apart are apart; dots that lie together may be apart in another "
    "direction."
)


def layout(index: int, each: dict[str, Any], name: str, several: bool) -> str:
    """The same rows in the plane, with a slider over windows."""
    frames = each["frames"]
    count = max(len(frame["points"]) for frame in frames) // 2
    title = f"{count} rows in the plane" + (f", {name}" if several else "")
    told = f"{len(frames)} of {each['of']} windows, epoch {frames[0]['epoch']:g} to {frames[-1]['epoch']:g}."
    colours = "" if each["coloured"] or not each["classes"] else " More classes than colours can tell apart."
    drawn = figure(f"class='chart square' data-kind='layout' data-panel='{index}'", f"{title}: {told} {LAID_OUT}")
    return (
        f"<article class='panel' data-of='{each['run']}'><p class='kicker'>Rows over time</p><h3>{text(title)}</h3>"
        f"{drawn}{_slider('layout', index, len(frames))}<p class='slider'><label>"
        f"<input type='checkbox' data-scale='{index}' checked> one scale for all windows"
        f"</label></p><p class='lines'>{text(told)} {text(LAID_OUT)}{colours}</p></article>"
    )


ALIKE = (
    "Linear CKA of each two layers: 1 where both hold the same geometry, up to a rotation and a scale; 0 where nothing "
    "of the one is a linear map of the other."
)


def matrix(index: int, each: dict[str, Any], name: str, several: bool) -> str:
    """How alike the layers are, with a slider over windows."""
    frames, names = each["frames"], each["names"]
    title = f"{len(names)} layers against each other" + (f", {name}" if several else "")
    told = f"{len(frames)} of {each['of']} windows, epoch {frames[0]['epoch']:g} to {frames[-1]['epoch']:g}."
    drawn = figure(f"class='chart square' data-kind='matrix' data-panel='{index}'", f"{title}: {told} {ALIKE}")
    return (
        f"<article class='panel' data-of='{each['run']}'><p class='kicker'>Between layers, over time</p>"
        f"<h3>{text(title)}</h3>{drawn}{_slider('matrix', index, len(frames))}"
        f"<p class='lines'>{text(told)} {text(ALIKE)}</p></article>"
    )


def _slider(kind: str, index: int, frames: int) -> str:
    key = f"{kind}-{index}"
    return (
        f"<p class='slider'><input type='range' min='0' max='{frames - 1}' value='{frames - 1}' data-frames='{key}' "
        f"aria-label='Window of the {kind}'><output data-frame='{key}'></output></p>"
    )


def spectrum(index: int, each: dict[str, Any], name: str, several: bool) -> str:
    """A chart of spectra over time."""
    first, last, count = each["lines"][0], each["lines"][-1], len(each["lines"])
    told = f"{count} of {each['of']} windows, epoch {first['epoch']} to {last['epoch']}"
    title = "eigenvalues of the centred covariance" + (f", {name}" if several else "")
    drawn = figure(f"class='chart tall' data-kind='spectrum' data-panel='{index}'", f"{title}: {told}.")
    return (
        f"<article class='panel' data-of='{each['run']}'><p class='kicker'>Spectrum over time</p>"
        f"<h3>{text(title)} <small>dark: early</small></h3>"
        f"{drawn}"
        f"<p class='lines'>{text(told)}. Parallel lines: the same shape. A tail that falls: directions are lost.</p>"
        "</article>"
    )
