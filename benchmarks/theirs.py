"""The scores that pytorch-ood has too, set up on the same features: what tests and `scoring.py` compare with.

Each entry is fitted by pytorch-ood's own code, with four exceptions, where it fits something else than OpenOOD does and gets what
was learned here instead: clipping thresholds (it has one for each feature), the temperature (its search stops early), the bank of
neighbours (it has all rows), and OpenMax's Weibull parameters (it fits them in float32, to three digits).
"""

from collections.abc import Callable
from typing import Any

import torch
from pytorch_ood import detector as po
from torch import Tensor, nn

from training.postprocessors import Outputs, Postprocessor
from training.postprocessors.bank import balanced_rows

Score = Callable[[Tensor, Tensor], Tensor]
Make = Callable[[Any, Outputs, Outputs, nn.Linear], Score]


def maps(features: Tensor) -> Tensor:
    """Pooled features as maps of one pixel, (N, D, 1, 1)."""
    return features[:, :, None, None]


def on_maps(make: Callable[[Any, Callable[[Tensor], Tensor]], Any]) -> Make:
    def build(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
        theirs = make(ours, lambda x: head(x.flatten(1)))
        return lambda features, logits: theirs.predict_feature_maps(maps(features))

    return build


def on_features(make: Callable[[Any, nn.Linear], Any], labelled: bool = True) -> Make:
    def build(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
        theirs = make(ours, head)
        theirs.fit_features(train.features, *([train.labels] if labelled else []))
        return lambda features, logits: theirs.predict_features(features)

    return build


def on_logits(make: Callable[[Any], Any]) -> Make:
    def build(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
        theirs = make(ours)
        return lambda features, logits: theirs.predict_logits(logits)

    return build


def on_bank(make: Callable[[Any, nn.Linear], Any]) -> Make:
    def build(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
        theirs, rows = make(ours, head), balanced_rows(train.labels, ours.bank)
        theirs.fit_features(train.features[rows], train.labels[rows])
        return lambda features, logits: theirs.predict_features(features)

    return build


def vra(ours: Any, head: Callable[[Tensor], Tensor]) -> Any:
    theirs = po.VRA(None, head)
    theirs._lower_threshold, theirs._upper_threshold = ours.lower, ours.upper
    return theirs


def tempscale(ours: Any) -> Any:
    theirs = po.TemperatureScaling(None)
    theirs.t, theirs._is_fitted = ours.temperature, True
    return theirs


def klm(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
    theirs = po.KLMatching(None).fit_logits(validation.logits)
    return lambda features, logits: theirs.predict_logits(logits)


def gradnorm(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
    theirs = po.GradNorm(head, param_filter=lambda name: name == "weight")
    return lambda features, logits: theirs.predict(features)


def openmax(ours: Any, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
    right = train.logits.argmax(dim=1) == train.labels
    theirs = po.OpenMax(None, tailsize=ours.tail, alpha=ours.alpha)
    theirs.fit_logits(train.logits[right], train.labels[right])
    for label, weibull in theirs._openmax.distributions.items():
        # Gumbel's distribution is the limit of Weibull's far from zero.
        weibull.translation, weibull.min_val = 1e8, float(weibull.min_val)
        location, spread = ours.locations[label].item(), ours.spreads[label].item()
        weibull.c, weibull.scale = weibull.translation / spread, weibull.translation + location - weibull.min_val
    return lambda features, logits: theirs.predict_logits(logits)


def vim_dim(ours: Any) -> int:
    return ours.directions.shape[0] - ours.directions.shape[1]


THEIRS: dict[str, Make] = {
    "msp": on_logits(lambda ours: po.MaxSoftmax(None)),
    "mls": on_logits(lambda ours: po.MaxLogit(None)),
    "ebo": on_logits(lambda ours: po.EnergyBased(None, t=ours.temperature)),
    "gen": on_logits(lambda ours: po.GEN(None, gamma=ours.gamma, M=ours.largest)),
    "tempscale": on_logits(tempscale),
    "react": on_maps(lambda ours, head: po.ReAct(None, head, threshold=ours.threshold.item())),
    "scale": on_maps(lambda ours, head: po.SCALE(None, head, percentile=ours.percentile / 100)),
    "ash": on_maps(lambda ours, head: po.ASH(None, head, variant="ash-b", percentile=ours.percentile / 100)),
    "vra": on_maps(vra),
    "fdbd": on_features(lambda ours, head: po.fDBD(None, head), labelled=False),
    "nci": on_features(lambda ours, head: po.NCI(None, head, alpha=ours.alpha), labelled=False),
    "rmds": on_features(lambda ours, head: po.RMD(None)),
    "mds": on_features(lambda ours, head: po.Mahalanobis(None)),
    "she": on_features(lambda ours, head: po.SHE(None, head)),
    "dice": on_features(lambda ours, head: po.DICE(None, head.weight, head.bias, p=ours.percentile / 100)),
    "vim": on_features(lambda ours, head: po.ViM(None, d=vim_dim(ours), w=head.weight, b=head.bias)),
    "knn": on_bank(lambda ours, head: po.KNN(None, k=ours.k)),
    "nnguide": on_bank(lambda ours, head: po.NNGuide(None, head, k=ours.k)),
    "klm": klm,
    "gradnorm": gradnorm,
    "openmax": openmax,
}


@torch.no_grad()
def theirs(key: str, ours: Postprocessor, train: Outputs, validation: Outputs, head: nn.Linear) -> Score:
    """pytorch-ood's form of a score, with the hyper-parameters of ours: features (N, D), logits (N, C) -> (N,), higher = stranger."""
    return THEIRS[key](ours, train, validation, head)
