"""Two evaluations of the same recipe with different losses, as one Markdown table.

python benchmarks/side_by_side.py benchmarks/results/cifar10-airbench-ce.json models/cifar10-airbench/1/evaluation.json
"""

import argparse
from pathlib import Path

from service.bundle.evaluation import Evaluation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("baseline", type=Path)
parser.add_argument("ours", type=Path)
arguments = parser.parse_args()
pair = [Evaluation.model_validate_json(path.read_bytes()) for path in (arguments.baseline, arguments.ours)]


def arrow(values: list[float]) -> str:
    return " → ".join(f"{100 * value:.2f}" for value in values)


names = [name for name, about in pair[0].ood_sets.items() if about.images]
print(f"Accuracy {arrow([entry.accuracy for entry in pair])}, ECE of what is served {arrow([entry.ece for entry in pair])}, ", end="")
print(f"ECE of softmax(f) {arrow([entry.ece_raw for entry in pair])} (%, {pair[0].id_images} test pictures).\n")
print("| AUROC, % | near | far* | " + " | ".join(f"{name} ({pair[0].ood_sets[name].group})" for name in names) + " |")
print("|---|" + "---|" * (len(names) + 2))
for key in pair[1].postprocessors:
    entries = [evaluation.postprocessors[key] for evaluation in pair]
    cells = [arrow([getattr(entry, group).auroc for entry in entries]) for group in ("near", "far")]
    cells += [arrow([entry.sets[name].auroc for entry in entries]) for name in names]
    print(f"| `{key}` | " + " | ".join(cells) + " |")
