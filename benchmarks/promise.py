"""Is the promise kept? Posts a labelled ID test set to a running server and counts rejects at several alphas.

    oodgate serve &
    python benchmarks/promise.py --pictures 'data/cifar10/test.parquet#openood_cifar10=test'

Prints accuracy and, for each alpha, the share rejected beside the band in which it must lie with 95 % probability: given
n calibration images and rank k, the rejects among m pictures are beta-binomial(m, k, n + 1 - k).
"""

import argparse
import json
from pathlib import Path

import httpx
from scipy.stats import betabinom
from tqdm import tqdm

from training.sources import open_source

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--pictures", required=True)
parser.add_argument("--postprocessor", help="default: the server's")
parser.add_argument("--alphas", type=float, nargs="+", default=[0.01, 0.05, 0.1])
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()

source = open_source(arguments.pictures, "train")
assert source is not None
client = httpx.Client(base_url=arguments.url, timeout=60)
model = client.get("/models").raise_for_status().json()["models"][0]["name"]
about = client.get(f"/models/{model}").raise_for_status().json()
n = about["manifest"]["calibration"]["n"]
result = {"model": model, "version": about["version"], "images": len(source), "alphas": {}}
BATCH = 32
for alpha in arguments.alphas:
    rejected = right = 0
    query = {"alpha": alpha, "top_k": 1} | ({"postprocessor": arguments.postprocessor} if arguments.postprocessor else {})
    for start in tqdm(range(0, len(source), BATCH), f"alpha {alpha:g}", leave=False, disable=None):
        rows = range(start, min(start + BATCH, len(source)))
        files = [("file", (str(row), source.read(row))) for row in rows]
        answer = client.post("/predict", files=files, params=query).raise_for_status().json()
        for row, prediction in zip(rows, answer["predictions"], strict=True):
            rejected += prediction["ood"]["rejected"]
            right += prediction["label"] == source.classes[source.labels[row]]
    point = next(entry for entry in about["operating_points"][answer["postprocessor"]] if entry["alpha"] == alpha)
    k = round(point["expected_false_reject_ratio"] * (n + 1))
    low, high = (int(edge) / len(source) for edge in betabinom.ppf([0.025, 0.975], len(source), k, n + 1 - k))
    share = rejected / len(source)
    result["alphas"][f"{alpha:g}"] = {"rejected_ratio": round(share, 5), "band": [round(low, 5), round(high, 5)], "k": k}
    result |= {"accuracy": round(right / len(source), 4), "postprocessor": answer["postprocessor"], "guarantee": answer["guarantee"]}
    print(f"alpha {alpha:5.1%}: {share:.2%} rejected, band {low:.2%} to {high:.2%}: {'inside' if low <= share <= high else 'OUTSIDE'}")
print(f"accuracy over {len(source)} pictures: {result['accuracy']:.2%}; the bundle says {about['evaluation']['accuracy']:.2%}")
if arguments.json:
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
