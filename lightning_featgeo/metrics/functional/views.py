"""Views of one sample: do they agree, and how many directions tell samples apart beyond what augmentation changes?

Wang & Isola (2020), "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere" (arXiv 2005.10242); Thilak et al. (2023), "LiDAR: Sensing Linear Probing Performance in Joint Embedding
SSL Architectures" (arXiv 2312.04000).
"""

from __future__ import annotations

import torch

from lightning_featgeo.errors import Undefined
from lightning_featgeo.metrics.results import Estimate
from lightning_featgeo.types import Float, Tensor

LIDAR_DELTA = 1e-4


def _groups(view_rows: Tensor, least: int) -> Tensor:
    samples, views = view_rows.shape[:2]
    if views < 2 or samples < least:
        raise Undefined(
            f"needs {least} samples with at least 2 views each: most samples have {views} here ({samples} of them)"
        )
    return view_rows.double()


def alignment(view_rows: Float[Tensor, "s q d"]) -> Estimate:
    """Alignment: mean over samples of ‖f−f⁺‖² over pairs of L2-normalised views, in [0, 4]; 0 when views agree.

    A collapsed representation reads 0 too: read it beside ``uniformity``.

    Args:
        view_rows: q views of each sample.

    Returns:
        The mean, its standard error over samples, and the number of samples (those with a zero row are left out).

    Raises:
        Undefined: without a sample that has two views which are not zero.
    """
    rows = _groups(view_rows, 1)
    length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    whole = (length > 0).all(dim=1).squeeze(1)
    n, q = int(whole.sum()), rows.shape[1]
    if n < 1:
        raise Undefined("every sample has a view that is zero: it has no direction")
    unit = rows[whole] / length[whole]
    # mean over pairs of ‖u_i−u_j‖² is 2/(q−1)·Σ‖u_i−ū‖²: differences are taken before they are squared
    apart = (unit - unit.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)) * 2 / (q - 1)
    return Estimate(apart.mean(), apart.std() / n**0.5 if n > 1 else None, n)


def lidar(view_rows: Float[Tensor, "s q d"]) -> Estimate:
    """LiDAR: exp(−Σ p ln p), p the shares of the eigenvalues of S_w^−½ S_b S_w^−½; between 1 and min(s−1, d).

    S_b is the covariance of the samples' means (s−1), S_w that of views about their sample's mean (s(q−1)), plus
    1e-4 on its diagonal, which ties the number to the features' scale. No ε is added to the shares.

    Args:
        view_rows: q views of each of s samples.

    Returns:
        The rank, no standard error, and s.

    Raises:
        Undefined: with fewer than two samples of two views, or if all samples have the same mean.
    """
    rows = _groups(view_rows, 2)
    s, q, d = rows.shape
    means = rows.mean(dim=1)
    around = (rows - means[:, None]).flatten(0, 1)
    eye = torch.eye(d, dtype=rows.dtype, device=rows.device)
    within = around.T @ around / (s * (q - 1)) + LIDAR_DELTA * eye
    between = (means - means.mean(dim=0)) / (s - 1) ** 0.5
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), between.T, upper=False)
    power = torch.linalg.svdvals(whitened).square()
    # the means are centred, so one of s directions is none; what is left of it is round-off
    power = power[: min(s - 1, d)]
    total = power.sum()
    if not total > 0:
        raise Undefined("all samples have the same mean over their views")
    p = power / total
    return Estimate(torch.exp(-torch.special.xlogy(p, p).sum()), None, s)


def modality_gap(view_rows: Float[Tensor, "s q d"]) -> Float[Tensor, ""]:
    """Distance between the means of L2-normalised first and second views, in [0, 2]: of the two towers, say.

    Source: Liang et al. (2022), "Mind the Gap" (arXiv 2203.02053). About 0 where both views come from one encoder; what
    two towers keep apart, ``alignment`` can't bring together.

    Raises:
        Undefined: without a sample that has two views which are not zero.
    """
    rows = _groups(view_rows, 1)[:, :2]
    length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    whole = (length > 0).all(dim=1).squeeze(1)
    if not bool(whole.any()):
        raise Undefined("every sample has a view that is zero: it has no direction")
    means = (rows[whole] / length[whole]).mean(dim=0)
    return torch.linalg.vector_norm(means[0] - means[1])
