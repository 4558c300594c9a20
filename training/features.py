"""One pass of a network over a set of pictures, kept on disk: every score is then a matter of seconds."""

import hashlib
from contextlib import suppress
from pathlib import Path

import torch
from tqdm import tqdm

from service.bundle.preprocess import InputSpec
from training import checkpoint
from training.checkpoint import Trained
from training.config import TrainingError
from training.data import load
from training.devices import own_device
from training.networks import Classifier
from training.postprocessors import Outputs
from training.sources import Source

BATCH = 128
# Pictures by which a set is known again.
SAMPLE = 100


@torch.no_grad()
def extract(network: Classifier, source: Source, spec: InputSpec, what: str, skip_unreadable: bool = False) -> Outputs:
    """Features (N, D), logits (N, C) and labels (N,) of a set, in float32 on the CPU, without augmentation."""
    device = own_device()
    network = network.eval().to(device)
    pictures = load(source, spec, what, skip_unreadable)
    pictures.move(device)
    # Filled in place: putting batches together at the end would take the memory of all of them twice.
    features, logits = torch.empty(0), torch.empty(0)
    order = torch.arange(len(pictures)).split(BATCH)
    with tqdm(total=len(pictures), desc=what, unit="image", leave=False, disable=None) as bar:
        for rows, (images, _) in zip(order, pictures.batches(order), strict=True):
            some_features, some_logits = network(images)
            if len(features) == 0:
                features, logits = (torch.empty(len(pictures), some.shape[1]) for some in (some_features, some_logits))
            features[rows], logits[rows] = some_features.float().cpu(), some_logits.float().cpu()
            bar.update(len(images))
    network.cpu()
    return Outputs(features, logits, pictures.labels.cpu().clone())


class FeatureCache:
    """Outputs of one run's best network, per set, in `<run>/features`. New weights or another set do not meet old files: labels and
    names are compared, and of about a hundred pictures the pixels as the network sees them.
    """

    def __init__(self, run: Path, trained: Trained) -> None:
        self.folder = run / "features"
        self.trained = trained
        weights = b"".join(tensor.numpy().tobytes() for tensor in trained.network.state_dict().values())
        self.weights = hashlib.sha256(weights).hexdigest()

    def outputs(self, name: str, source: Source) -> Outputs:
        digest = hashlib.sha256(self.weights.encode() + source.labels.tobytes())
        digest.update("\n".join(map(source.name, range(len(source)))).encode())
        for row in range(0, len(source), max(1, len(source) // SAMPLE)):
            with suppress(TrainingError):  # an unreadable one is told where all are read
                digest.update(source.pixels(row, self.trained.recipe.input).tobytes())
        path = self.folder / f"{name.replace(' ', '-')}-{digest.hexdigest()[:16]}.pt"
        if path.exists():
            return Outputs(**checkpoint.read(path))
        outputs = extract(self.trained.network, source, self.trained.recipe.input, name, self.trained.recipe.skip_unreadable)
        checkpoint.save(path, outputs._asdict())
        return outputs
