"""The registry of post-processors. A new score is one file, one line here and one row in the README."""

from training.postprocessors.ash import Ash
from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.boundary import Boundary
from training.postprocessors.dice import Dice
from training.postprocessors.ebo import Ebo
from training.postprocessors.ebo_scaled import EboScaled
from training.postprocessors.fdbd import Fdbd
from training.postprocessors.gen import Gen
from training.postprocessors.gradients import GradientScore, Iodin, Odin
from training.postprocessors.gradnorm import Gradnorm
from training.postprocessors.klm import Klm
from training.postprocessors.knn import Knn
from training.postprocessors.mds import Mds
from training.postprocessors.mls import Mls
from training.postprocessors.msp import Msp
from training.postprocessors.msp_knn import MspKnn
from training.postprocessors.nci import Nci
from training.postprocessors.neco import Neco
from training.postprocessors.nnguide import Nnguide
from training.postprocessors.openmax import Openmax
from training.postprocessors.react import React
from training.postprocessors.relation import Relation
from training.postprocessors.residual import Residual
from training.postprocessors.rmds import Rmds
from training.postprocessors.scale import Scale
from training.postprocessors.she import She
from training.postprocessors.tempscale import Tempscale
from training.postprocessors.vim import Vim
from training.postprocessors.vra import Vra
from training.postprocessors.weiper import Weiper

REGISTRY: dict[str, type[Postprocessor]] = {
    kind.key: kind
    for kind in (
        *(Msp, Mls, Ebo, Gen, React, Scale, Fdbd, Knn, Rmds, MspKnn),
        *(Tempscale, EboScaled, Boundary, Klm, Gradnorm, Openmax, Vra, Ash, Dice),
        *(Nci, Neco, She, Mds, Residual, Vim, Nnguide, Relation, Weiper),
    )
}
# What a bundle holds unless others are asked for, in the order of its columns.
EXPORTED = ("msp", "mls", "ebo", "gen", "react", "scale", "fdbd", "knn", "rmds", "msp_knn")
EVALUATED_ONLY: dict[str, type[GradientScore]] = {kind.key: kind for kind in (Odin, Iodin)}

__all__ = ["EVALUATED_ONLY", "EXPORTED", "REGISTRY", "GradientScore", "Outputs", "Postprocessor"]
