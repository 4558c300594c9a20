"""The registry of post-processors. A new score is one file, one line here and one row in the README."""

from training.postprocessors.base import Outputs, Postprocessor
from training.postprocessors.ebo import Ebo
from training.postprocessors.fdbd import Fdbd
from training.postprocessors.gen import Gen
from training.postprocessors.knn import Knn
from training.postprocessors.mls import Mls
from training.postprocessors.msp import Msp
from training.postprocessors.msp_knn import MspKnn
from training.postprocessors.react import React
from training.postprocessors.rmds import Rmds
from training.postprocessors.scale import Scale

REGISTRY: dict[str, type[Postprocessor]] = {kind.key: kind for kind in (Msp, Mls, Ebo, Gen, React, Scale, Fdbd, Knn, Rmds, MspKnn)}

__all__ = ["REGISTRY", "Outputs", "Postprocessor"]
