"""OpenMax. Bendale and Boult, Towards Open Set Deep Networks, CVPR 2016, arXiv 1511.06233."""

import torch
from torch import Tensor, nn

from training.postprocessors.base import Outputs, Postprocessor

UNSEEN = -1e3


class Openmax(Postprocessor):
    """Log odds of the class "unknown", which takes logits from the `alpha` most likely classes.

    From each it takes a share, by rank, of the probability that the logits lie further from the class's mean than those of
    training pictures that are rightly taken for it: an extreme value distribution of their `tail` largest distances. libmr adds
    10,000 to distances before it fits a Weibull distribution to them, which leaves Gumbel's of the distances themselves; so
    that is what is fitted. A class with fewer than two different distances counts as never seen.
    """

    key = "openmax"
    means: Tensor
    locations: Tensor
    spreads: Tensor
    shares: Tensor

    def __init__(self, tail: int = 20, alpha: int = 3) -> None:
        super().__init__()
        self.tail = tail
        self.alpha = alpha

    def fit(self, train: Outputs, validation: Outputs, head: nn.Linear) -> None:
        from scipy.stats import gumbel_l  # 60 MB that no other score needs

        classes = head.out_features
        means, locations, spreads = torch.zeros(classes, classes), torch.full((classes,), UNSEEN), torch.ones(classes)
        right = train.logits.argmax(dim=1) == train.labels
        for label in range(classes):
            logits = train.logits[right & (train.labels == label)].double()
            mean = logits.mean(dim=0)
            tail = (logits - mean).norm(dim=1).sort().values[-self.tail :]
            if len(tail) > 0 and tail[-1] > tail[0]:
                means[label] = mean
                # The fit is by iteration, which wants numbers of the order of one.
                location, spread = gumbel_l.fit(((tail - tail[0]) / (tail[-1] - tail[0])).numpy())
                locations[label] = tail[0] + (tail[-1] - tail[0]) * location
                spreads[label] = (tail[-1] - tail[0]) * spread
        self.register_buffer("means", means)
        self.register_buffer("locations", locations)
        self.register_buffer("spreads", spreads)
        revised = min(self.alpha, classes)
        self.register_buffer("shares", torch.arange(revised, 0, -1) / revised)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        largest, classes = logits.topk(len(self.shares), dim=1)
        distances = (logits[:, None, :] - self.means[classes]).norm(dim=2)
        further = 1 - (-((distances - self.locations[classes]) / self.spreads[classes]).exp()).exp()
        taken = largest * further * self.shares
        return taken.sum(dim=1) - logits.scatter(1, classes, largest - taken).logsumexp(dim=1)
