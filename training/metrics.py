"""Numbers in, numbers out: accuracy, calibration error, and how well a score separates ID from OOD.

OOD is the positive class and scores are higher = stranger, as in OpenOOD v1.5 (arXiv 2306.09301), whose FPR@95 is
`fpr95_ood_caught` here; older papers mean `fpr95_id_kept`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from service.bundle.evaluation import Separation

Array = NDArray[Any]


def accuracy(probabilities: Array, labels: Array) -> float:
    """Share of rows (N, C) whose largest entry is the label's (N,)."""
    return float((probabilities.argmax(axis=1) == labels).mean())


class Reliability(NamedTuple):
    """Per bin of the largest probability: how many pictures, their mean confidence and accuracy; NaN where there are none."""

    counts: Array
    confidence: Array
    accuracy: Array


def reliability(probabilities: Array, labels: Array, bins: int = 15) -> Reliability:
    """Confidence against accuracy over equal-width bins. probabilities (N, C), labels (N,) -> three arrays (bins,)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # Bins are open on the left, (i / bins, (i + 1) / bins].
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        sums = (np.bincount(which, weights=values.astype(np.float64), minlength=bins) / counts for values in (confidence, right))
        return Reliability(counts, *sums)


def expected_calibration_error(probabilities: Array, labels: Array, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the largest probability, weighted by count.

    probabilities (N, C), labels (N,). Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
    """
    counts, confidence, right = reliability(probabilities, labels, bins)
    return float(np.nansum(counts * np.abs(right - confidence)) / len(labels))


def selective_risk(scores: Array, wrong: Array) -> Array:
    """Share of wrong answers among the k least strange pictures, for k = 1 ... N. scores (N,), wrong (N,) -> (N,).

    Pictures with equal scores come in no order: between the ends of such a group errors are counted in proportion.
    """
    order = np.argsort(scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.inf) != 0) + 1
    kept = np.arange(1, len(scores) + 1)
    errors = np.interp(kept, np.concatenate([[0], last]), np.concatenate([[0.0], np.cumsum(wrong[order])[last - 1]]))
    risk: Array = errors / kept
    return risk


def aurc(scores: Array, wrong: Array) -> float:
    """Area under the risk-coverage curve: the mean selective risk. Geifman et al., ICLR 2019, arXiv 1805.08206."""
    return float(selective_risk(scores, wrong).mean())


def spectrum(features: Array) -> Array:
    """Singular values of the covariance of features (N, D), descending, the largest as one: (D,)."""
    values: Array = np.linalg.svd(np.cov(features.astype(np.float64), rowvar=False), compute_uv=False, hermitian=True)
    return values / values[0]


def effective_rank(values: Array) -> float:
    """Exponential of the entropy of a spectrum: how many directions it uses. Roy and Vetterli, EUSIPCO 2007."""
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def separation(id_scores: Array, ood_scores: Array) -> Separation:
    """All separation metrics of one score on one OOD set. Areas are trapezoids, also under precision-recall, as in OpenOOD."""
    scores = np.concatenate([id_scores, ood_scores])
    is_ood = np.concatenate([np.zeros(len(id_scores)), np.ones(len(ood_scores))])
    false, caught, _ = roc_curve(is_ood, scores)
    precision_out, recall_out, _ = precision_recall_curve(is_ood, scores)
    precision_in, recall_in, _ = precision_recall_curve(1 - is_ood, -scores)
    return Separation(
        auroc=area(false, caught),
        aupr_in=area(recall_in, precision_in),
        aupr_out=area(recall_out, precision_out),
        fpr95_id_kept=fpr95(1 - is_ood, -scores),
        fpr95_ood_caught=fpr95(is_ood, scores),
    )


def area(x: Array, y: Array) -> float:
    """Trapezoid area of a curve in the unit square; sums of many slices can round to just above one."""
    return min(1.0, float(auc(x, y)))


def fpr95(positive: Array, scores: Array) -> float:
    """False-positive rate at the first threshold, from the strictest, with a true-positive rate of at least 95 %."""
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    return float(false[np.argmax(true >= 0.95)])


def mean_separation(sets: Iterable[Separation]) -> Separation | None:
    """The unweighted mean over sets, or None of none."""
    rows = [entry.model_dump() for entry in sets]
    if not rows:
        return None
    return Separation(**{key: float(np.mean([row[key] for row in rows])) for key in rows[0]})
