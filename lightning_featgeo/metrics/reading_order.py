"""In which order signals are shown, under which headings, and which of them to look at for which question."""

from __future__ import annotations

from lightning_featgeo.metrics.catalog import CATALOG

HEADINGS: dict[str, tuple[str, ...]] = {  # heading -> groups of the catalogue
    "Collapse: spread and spectrum": ("spectrum", "views"),
    "Intrinsic dimension": ("dimension",),
    "Density and neighbours": ("density",),
    "Class structure": ("neural_collapse", "long_tail"),
    "Retrieval and linear read-outs": ("retrieval", "probes"),
    "Regression": ("regression",),
    "Units": ("units",),
    "Codes and experts": ("codes",),
    "Tokens by position": ("positions",),
    "Against a reference": ("fidelity", "ood"),
    "Diffusion and clusters": ("diffusion", "clusters"),
    "What the head says": ("head",),
    "Scale": ("scale",),
    "Data": ("data",),
    "Groups": ("groups",),
    "Mixtures": ("mixed",),
    "Between layers": ("layers",),
    "Over time": ("over_time", "distribution", "unit_histograms"),
    "Against an anchor": ("anchor",),
}
OTHERS = "Others"
_BEFORE = "the window before"
_AGAINST = {"_first": "the first window", "_best": "the best window before", "_anchor": "the anchor"}

QUESTIONS: dict[str, tuple[str, ...]] = {  # at most five each: where to begin
    "Do all samples get the same features?": (
        "feature_std", "uniformity", "mean_resultant", "knn_log_density", "alignment",
    ),
    "Are only a few directions used?": (
        "effective_rank", "rankme", "top_eigenvalue_share", "pcs_99", "participation_ratio_corrected",
    ),
    "How many dimensions do the features have?": ("id_two_nn", "id_mle", "id_gride_4", "id_gride_8", "id_ratio"),
    "Are the classes apart?": ("knn_accuracy", "cdnv", "nc1", "nearest_mean_accuracy", "linear_probe_accuracy"),
    "Is it neural collapse (on training data)?": ("nc1", "nc2_equinorm", "nc2_equiangle", "nc3", "nc4"),
    "Do rare classes merge?": (
        "tail_min_angle", "nc_count_slope", "nc3_orthogonal", "nc2_equiangle_orthogonal", "class_volume_tail_gap",
    ),
    "Are some labels wrong, or is it memorising?": ("label_disagreement", "knn_accuracy", "cdnv", "nc1", "id_two_nn"),
    "Do two views of a sample agree, and nothing else?": (
        "alignment", "uniformity", "lidar", "pair_recall_at_1", "pair_overlap",
    ),
    "Has it stopped changing?": ("cka_drift", "procrustes_drift", "neighbor_churn", "class_drift", "unit_match"),
    "Can I keep my index?": (
        "compatibility_first", "compatible_pairs_first", "anchor_drift_first", "recall_at_1", "map_at_k",
    ),
    "Does it agree with another model?": (
        "cka_drift_anchor", "neighbor_overlap_anchor", "procrustes_drift_anchor", "compatibility_anchor",
        "compatible_pairs_anchor",
    ),
    "Is retrieval getting better?": ("recall_at_1", "map_at_k", "group_recall_at_1", "verification_auroc", "hubness"),
    "Is this set like the reference?": (
        "frechet_distance", "kernel_mmd", "fidelity_coverage", "fidelity_density", "knn_ood_score",
    ),
    "Does this set lie outside the reference?": (
        "mahalanobis_auroc", "knn_ood_auroc", "mahalanobis", "chi2_fraction", "knn_ood_score",
    ),
    "Do units die, or does one take over?": (
        "dead_fraction", "firing_rate", "outlier_dims", "numerical_rank", "top_eigenvalue_share",
    ),
    "Are all codes, prototypes or experts in use?": (
        "code_perplexity", "unused_codes", "largest_code_share", "routing_entropy",
    ),
    "Is a regressor compressed too far?": ("nrc1", "id_ratio", "linear_probe_r2", "effective_rank", "feature_std"),
    "Does the batch, device or domain show?": (
        "robustness_index", "group_variance_share", "macro_std", "knn_accuracy", "frechet_distance",
    ),
    "Do two towers share one space?": ("modality_gap", "alignment", "pair_recall_at_1", "pair_auroc", "uniformity"),
    "At which depth does it change?": ("layer_cka", "layer_readout", "layer_overlap", "effective_rank", "knn_accuracy"),
    "Can it be quantised?": ("outlier_max", "unit_kurtosis", "outlier_dims", "unit_redundancy", "feature_norm_cv"),
    "Does the head know where it stands?": (
        "energy_score", "prediction_entropy", "margin_density", "energy_auroc", "nc4",
    ),
    "Does it leak training rows?": ("authenticity", "fidelity_precision", "fidelity_density", "knn_ood_score"),
}  # fmt: skip


def heading(signal: str) -> str:
    """Under which heading a signal is shown."""
    row = CATALOG.get(signal)
    for title, groups in HEADINGS.items():
        if row is not None and set(groups) & set(row.groups):
            return title
    return OTHERS


def compared_with(signal: str) -> tuple[str, str]:
    """What a signal measures, and against what: ("cka_drift", "the first window") for cka_drift_first.

    Signals that measure the same against something else are read in one chart. ("nc1", "") for all others.
    """
    for tail, what in _AGAINST.items():
        if signal.endswith(tail) and signal in CATALOG and signal.removesuffix(tail) in CATALOG:
            return signal.removesuffix(tail), what
    return signal, _BEFORE if f"{signal}_first" in CATALOG else ""
