"""Rows that know where they come from: features with their sample, view and label, and which of them count."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightning_featgeo.types import Bool, Float, Int64, Tensor

UNLABELLED = -1


@dataclass(frozen=True)
class Rows:
    """One batch of feature rows.

    ``sample``: index of the sample (or sequence) each row comes from; rows of one sample are never neighbours.
    ``view``: which forward call or augmentation it is; single-view signals read view 0.
    ``position``: tells rows of the same sample and view apart (tokens).
    ``label``: class index, or -1. ``group``: site, scanner or speaker, or -1. ``keep``: False for padding.
    ``target``: regression targets, (n, 0) where there are none, NaN where a row has none.
    """

    features: Float[Tensor, "n d"]
    sample: Int64[Tensor, " n"]
    view: Int64[Tensor, " n"]
    position: Int64[Tensor, " n"]
    label: Int64[Tensor, " n"]
    keep: Bool[Tensor, " n"]
    group: Int64[Tensor, " n"]
    target: Float[Tensor, "n t"]

    def __len__(self) -> int:
        return int(self.features.shape[0])

    def to(self, device: torch.device) -> Rows:
        """The rows on another device."""
        return Rows(**{name: getattr(self, name).to(device) for name in self.__dataclass_fields__})


def build_rows(
    features: Tensor,
    labels: Tensor | None = None,
    sample_index: Tensor | None = None,
    view: int | Tensor | None = None,
    position: Tensor | None = None,
    keep: Tensor | None = None,
    first_sample: int = 0,
    targets: Tensor | None = None,
    groups: Tensor | None = None,
) -> Rows:
    """Check the parts of a batch and put them together.

    Args:
        features: (n, d), any real dtype. Half types and integers become float32, float64 stays.
        labels: (n,) class indices; negative means unlabelled (``ignore_index``). None: no row has a label.
        sample_index: (n,) where each row comes from. None: rows are distinct samples, numbered from
            ``first_sample``.
        view: which view, one for all rows or one a row. None: view 0.
        position: (n,) place within the sample. None: the rank among the batch's rows of that sample and view.
        keep: (n,) False for padding. None: every row counts.
        first_sample: number of the first row where ``sample_index`` is None.
        targets: (n,) or (n, t) real regression targets; NaN where a row has none. None: (n, 0).
        groups: (n,) what should not matter (site, scanner, speaker); negative means unknown. None: unknown.

    Raises:
        ValueError: if a shape or type does not fit; the message says which and what was expected.
    """
    if features.ndim != 2:
        raise ValueError(
            f"features must be (rows, dimensions), got shape {tuple(features.shape)}; pool or flatten them first"
        )
    if features.is_complex():
        raise ValueError("features are complex; pass their real and imaginary parts as separate dimensions")
    n, device = features.shape[0], features.device
    if features.dtype not in (torch.float32, torch.float64):
        features = features.to(torch.float32)

    def column(name: str, given: Tensor | int | None, default: int) -> Tensor:
        if given is None or isinstance(given, int):
            return torch.full((n,), default if given is None else given, dtype=torch.int64, device=device)
        if given.shape != (n,) or given.is_floating_point() or given.is_complex():
            raise ValueError(f"{name} must be {n} integers, one a row, got shape {tuple(given.shape)} of {given.dtype}")
        return given.to(device=device, dtype=torch.int64)

    views = column("view", view, 0)
    if sample_index is None:
        sample = torch.arange(first_sample, first_sample + n, device=device)
        places = column("position", position, 0)
    else:
        sample = column("sample_index", sample_index, 0)
        places = _occurrence(sample, views) if position is None else column("position", position, 0)
    if keep is not None and (keep.shape != (n,) or keep.dtype != torch.bool):
        raise ValueError(f"keep must be {n} booleans, got shape {tuple(keep.shape)} of {keep.dtype}")
    if targets is not None and (targets.ndim not in (1, 2) or targets.shape[0] != n or targets.is_complex()):
        raise ValueError(f"targets must be {n} real numbers or vectors, one a row, got shape {tuple(targets.shape)}")
    target = features.new_empty(n, 0) if targets is None else targets.detach().to(device)
    target = target[:, None] if target.ndim == 1 else target
    return Rows(
        features=features.detach(),
        sample=sample,
        view=views,
        position=places,
        label=column("labels", labels, UNLABELLED).clamp(min=UNLABELLED),
        keep=torch.ones(n, dtype=torch.bool, device=device) if keep is None else keep.to(device),
        group=column("groups", groups, UNLABELLED).clamp(min=UNLABELLED),
        target=target if target.dtype == torch.float64 else target.to(torch.float32),
    )


def _occurrence(sample: Tensor, view: Tensor) -> Tensor:
    """How many earlier rows of the batch share sample and view: tells tokens of one sequence apart."""
    n = sample.numel()
    if n == 0:
        return torch.zeros_like(sample)
    by_view = torch.sort(view, stable=True).indices
    order = by_view[torch.sort(sample[by_view], stable=True).indices]
    step = torch.arange(n, device=sample.device)
    changed = torch.ones(n, dtype=torch.bool, device=sample.device)
    changed[1:] = (sample[order][1:] != sample[order][:-1]) | (view[order][1:] != view[order][:-1])
    start = torch.where(changed, step, 0).cummax(dim=0).values
    result = torch.empty_like(sample)
    result[order] = step - start
    return result


def can_choose(features: Tensor) -> Tensor:
    """(n,) whether a row's largest entry is finite: routers and heads bar entries by −∞."""
    largest = features.amax(dim=1)  # NaN where one is
    return largest.isfinite()


def finite_rows(features: Tensor) -> Tensor:
    """(n,) whether a row holds no NaN and no infinity."""
    if features.device.type == "cpu":  # nothing waits; a sum is twenty times as fast, and finite only if every term is
        sums = features.sum(dim=1)
        if bool(sums.isfinite().all()):
            return torch.ones(len(features), dtype=torch.bool, device=features.device)
    return features.isfinite().all(dim=1)
