"""The blocks of README.md that are written by a program: `python -m tests.readme` writes them anew.

A block lies between `<!-- name -->` and `<!-- /name -->`. `test_docs` fails while one differs from what is written here.
"""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.page import essentials
from benchmarks.reproduction import Reproduction
from service.bundle.decision import marginal_rank, pac_rank
from service.bundle.evaluation import Evaluation
from service.errors import HEAD_TOO_LARGE, INTERNAL, MALFORMED_REQUEST, ROUTING, TABLE
from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BUNDLE = ROOT / "models" / "cifar10-airbench" / "1"


def table(headings: str, rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {headings} |", "|---" * (headings.count("|") + 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows])


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append((f"`{name}`", default, field.description or ""))
    return table("setting | default | how to choose it", rows)


def errors() -> str:
    kinds = {kind.name: kind for kind in (*TABLE.values(), *ROUTING.values(), MALFORMED_REQUEST, HEAD_TOO_LARGE, INTERNAL)}
    rows = [(str(kind.status), f"`{kind.name}`", kind.title) for kind in kinds.values()]
    return table("status | name | when", sorted(rows))


def metrics() -> str:
    # A gauge has one name; a counter's family lacks the _total that its series has.
    found = []
    for family in Metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        found.append((f"`{name}`", family.type, family.documentation))
    return table("series | type | what", found)


def results() -> str:
    """Baseline against ours, as `benchmarks/side_by_side.py` prints it."""
    command = [sys.executable, "benchmarks/side_by_side.py", str(RESULTS / "cifar10-airbench-ce.json"), str(BUNDLE / "evaluation.json")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def calibration() -> str:
    """What share of good pictures each guarantee rejects on average."""
    ranks = [(n, pac_rank(n, 0.05, 0.05), marginal_rank(n, 0.05)) for n in (60, 90, 300, 1000, 5000)]
    rows = [(f"{n:,}", f"{pac / (n + 1):.1%} (k = {pac})", f"{marginal / (n + 1):.1%} (k = {marginal})") for n, pac, marginal in ranks]
    return table("calibration pictures n | good pictures rejected on average, `pac` | `marginal`", rows)


def promise() -> str:
    """What `benchmarks/promise.py` measured over HTTP."""
    measured = json.loads((RESULTS / "promise.json").read_text())
    rows = [
        (f"{float(alpha):.0%}", f"{entry['rejected_ratio']:.2%}", f"{entry['band'][0]:.2%} to {entry['band'][1]:.2%}")
        for alpha, entry in measured["alphas"].items()
    ]
    return table("alpha | good pictures rejected | 95 % band of the promise", rows)


def gate() -> str:
    """What `benchmarks/gate.py` measured."""
    measured = json.loads((RESULTS / "gate.json").read_text())
    rows = [(batch, f"{entry['plain_ms']:.2f}", f"{entry['gated_ms']:.2f}", f"{entry['ratio']:.3f}") for batch, entry in measured["batches"].items()]
    return table("batch | logits alone, ms | with ten scores, ms | ratio", rows)


def scoring() -> str:
    """What `benchmarks/scoring.py` measured."""
    measured = json.loads((RESULTS / "scoring.json").read_text())
    shared, every = measured["shared"], measured["all"]
    rows = [
        (f"the {shared['count']} scores that pytorch-ood has, there", f"{shared['theirs_s']:.1f}", ""),
        ("the same here", f"{shared['ours_s']:.1f}, {shared['ratio']:.1f} times faster", ""),
        (f"all {every['count']} here", f"{every['ours_s']:.1f}", f"{measured['memory']['peak_mb']:.0f}"),
    ]
    return table(f"100,000 x 512 features, {measured['threads']} threads | CPU seconds | peak memory, MB", rows)


def training() -> str:
    """What `benchmarks/training_speed.py` measured."""
    file = RESULTS / "training.json"
    if not file.exists():
        return "Not measured yet."
    found = json.loads(file.read_text())
    network = f"width {found['width']}, batch {found['batch_size']}, {found['precision']}"
    speeds = [f"{found[f'{name}_images_per_second']}" for name in ("plain", "ours")]
    return table("machine | ours | plain loop, images/s | ours, images/s | ratio", [(found["hardware"], network, *speeds, f"{found['ratio']:.2f}")])


def reproduction() -> str:
    """What `benchmarks/reproduce.py` found, in short."""
    if not (file := RESULTS / "cifar10.json").exists():
        return "Not run yet."
    return essentials(Reproduction.model_validate_json(file.read_bytes()))


def fitting() -> str:
    """What `benchmarks/fitting.py` measured."""
    fits = json.loads((RESULTS / "fitting.json").read_text())["fits"]
    rows = []
    for classes, logits in (("10", "4"), ("1000", "400")):
        peaks = {key: found[classes]["peak_mb"] for key, found in fits.items() if classes in found}
        ranked = sorted(peaks, key=lambda key: -peaks[key])
        median = statistics.median(peaks.values())
        rows.append((f"{classes}, logits of {logits} MB", str(len(peaks)), f"{median:.0f}", f"{peaks[ranked[0]]} (`{ranked[0]}`)"))
    return table("classes | fits | median peak, MB | largest peak, MB", rows)


def search() -> str:
    """What `evaluate --search` chose, and what that changed."""
    before, after = (Evaluation.model_validate_json((RESULTS / file).read_bytes()) for file in ("defaults.json", "search.json"))
    assert after.search
    rows = []
    several = {key: choice for key, choice in after.search.choices.items() if choice.tried + choice.left_out > 1}
    for key, choice in several.items():
        pair = [evaluation.postprocessors[key] for evaluation in (before, after)]
        near = [f"{100 * entry.near.auroc:.2f}" for entry in pair if entry.near]
        far = [f"{100 * entry.far.auroc:.2f}" for entry in pair if entry.far]
        values = ", ".join(f"{name} {value:g}" for name, value in choice.hyperparameters.items())
        rows.append((f"`{key}`", values, f"{choice.tried}", " → ".join(near), " → ".join(far)))
    heading = f"{after.search.id_images:,} against {after.search.ood_images:,} pictures"
    return f"{heading}:\n\n" + table("score | chosen | tried | near AUROC, % | far* AUROC, %", rows)


def serving() -> str:
    """What `benchmarks/serving.py` measured."""
    if not (path := RESULTS / "serving.json").exists():
        return "Not measured yet on a machine with nothing else to do."
    measured = json.loads(path.read_text())
    written = [f"On {measured['hardware']}:"]
    for name, found in measured["bundles"].items():
        load = found["load"]
        written.append(
            f"`{name}`: {found['served_per_second']:.0f} pictures a second at 32 connections, {found['throughput_ratio']:.2f} of decoding and "
            f"the graph alone; a lone connection waits {found['added_ms']:.2f} ms longer than the graph takes. Poisson arrivals at 70 %: p99 is "
            f"{load['p99_over_median_at_70']:.1f} medians; at twice the maximum "
            f"the p99 of what is answered is {load['overload_p99_over_p99_at_90']:.1f} times that at 90 %, and of what is refused "
            f"{load['overload_refused_p99_ms']:.0f} ms."
        )
        rows = []
        for server, theirs in found["servers"].items():
            ours = theirs.get("oodgate_beside_it", theirs)
            cells = [f"{theirs[n]['answered_per_second']:.0f} ({ours[n]['answered_per_second']:.0f})" for n in ("1", "8", "32", "64")]
            rows.append((server, *cells, f"{theirs['memory_mb']:.0f}"))
        written.append(table("answered a second (oodgate in the same turns) | 1 connection | 8 | 32 | 64 | MB", rows))
    return "\n\n".join(written)


def precisions() -> str:
    """What `benchmarks/precisions.py` measured."""
    found = json.loads((RESULTS / "precisions.json").read_text())
    rows = []
    for precision, one in found["precisions"].items():
        ratios = [f"{one[name]:.2%}" for name in ("accuracy", "near_auroc", "far_auroc", "false_reject_ratio")]
        speeds = [f"{one[batch]['speed']:.2f}" for batch in ("batch_1", "batch_32")]
        rows.append((f"`{precision}`", f"{one['model_bytes'] / 1e6:.2f}", *speeds, *ratios))
    score = found["postprocessor"]
    return table(f"precision | MB | speed, 1 picture | 32 | accuracy | near AUROC, `{score}` | far* | good pictures rejected at alpha 5 %", rows)


def endurance() -> str:
    """What `benchmarks/soak.py`, `benchmarks/reload.py` and `benchmarks/fuzz.py` found."""
    soak, reload, fuzz = (json.loads((RESULTS / name).read_text()) for name in ("soak.json", "reload.json", "fuzz.json"))
    memory, files, reloads = soak["memory_mb"], soak["open_files"], reload["memory_mb"]
    pictures, tries = fuzz["mutated_pictures"], fuzz["schemathesis"]
    failed = sum(count for status, count in reload["answers"].items() if status != "200")
    answers = ", ".join(f"{count:,} times {status}" for status, count in pictures["answers"].items())
    rows = [
        (
            f"{soak['requests']:,} requests, good, broken and abandoned ones",
            f"{memory['warm']:.0f} MB after the first tenth, {memory['end']:.0f} MB at the end, never above {memory['most']:.0f} MB; "
            f"{files['warm']} open files, then {files['end']}",
        ),
        (
            f"{reload['reloads']} reloads under load",
            f"{reloads['after_5']:.0f} MB after five, {reloads['end']:.0f} MB at the end; {sum(reload['answers'].values()):,} requests meanwhile, "
            f"{failed} failed; slowest probe {reload['slowest_probe_ms']:.0f} ms",
        ),
        (f"{pictures['sent']:,} mutated pictures", f"{answers}; slowest {pictures['slowest_seconds']:.2f} s"),
        (
            "schemathesis, valid and invalid requests",
            f"{sum(one['generated'] for one in tries):,} tried, {sum(one['passed'] for one in tries):,} answered as the schema says",
        ),
    ]
    return table("what was done to one server | found", rows)


def rollout() -> str:
    """What `benchmarks/rollout.py` measured in front of nginx."""
    measured = json.loads((RESULTS / "rollout.json").read_text())
    events = {
        "reload": "every replica reloads its model, three times",
        "rolling restart": "one replica after the other is stopped and started",
        "SIGKILL": "one replica is killed",
    }
    rows = [(what, *(str(measured[event][key]) for key in ("requests", "failed", "retried"))) for event, what in events.items()]
    after = measured["SIGKILL"]["retried_seconds_after"]
    at_once, later = [seconds for seconds in after if seconds < 1], [seconds for seconds in after if seconds >= 1]
    said = f"Of those sent again after the kill, {len(at_once)} came at most {1000 * max(0.0, *at_once):.0f} ms after it"
    said += f", and {len(later)} to see whether it was back, after {' and '.join(f'{seconds:.0f}' for seconds in later)} seconds."
    return table("under load | requests | failed | sent again by nginx", rows) + "\n\n" + said


def image() -> str:
    """What `benchmarks/image.py` found."""
    found = json.loads((RESULTS / "image.json").read_text())
    rows = [
        ("over its base", f"{found['over_its_base_mb']} MB"),
        ("user", str(found["uid"])),
        ("writing into it", found["writing_to_the_root"]),
        ("exit code on SIGTERM", str(found["exit_code_on_sigterm"])),
    ]
    return table("image `cpu` | found", rows)


def drift() -> str:
    """What `benchmarks/drift.py` measured of the alarm."""
    found = json.loads((RESULTS / "drift.json").read_text())
    clean = found["false_alarms"]["5000"]
    rows = [("none, 100,000 pictures", f"{clean['ours']['100000']:.1%} of {clean['runs']} runs raise the alarm", "", "")]
    for ratio, delay in found["delay"].items():
        late, served = found["delay_after_50000_clean"][ratio], found["served_delay"][ratio]
        rows.append((f"{float(ratio):.0%}", f"{delay['median']:,.0f}", f"{late['median']:,.0f}", f"{served['median']:,.0f}"))
    return table("OOD | pictures until the alarm, median | the same after 50,000 clean ones | real pictures over HTTP, from the first one", rows)


def martingale() -> str:
    """What `benchmarks/drift.py` measured of the alarm that we do not use, beside ours."""
    found = json.loads((RESULTS / "drift.json").read_text())["false_alarms"]
    points = ("1000", "10000", "100000")
    rows = []
    for n, entry in found.items():
        for name, key in (("betting on p-values", "naive"), ("betting on rejects", "ours")):
            rows.append((f"{int(n):,} calibration pictures, {name}", *(f"{entry[key][point]:.1%}" for point in points)))
    return table("false alarms on clean traffic, nominally at most 1 % | by 1,000 | by 10,000 | by 100,000 pictures", rows)


def prevalence() -> str:
    """What `benchmarks/prevalence.py` measured."""
    found = json.loads((RESULTS / "prevalence.json").read_text())
    rows = []
    for key, sets in found["scores"].items():
        for name, ratios in sets.items():
            cells = [
                f"{entry['mean_error_points']:+.1f}, {entry['within_three_points']:.1%}, {entry['at_least_above_truth']}" for entry in ratios.values()
            ]
            rows.append((f"`{key}`, {name}", *cells))
    shares = " | ".join(f"{float(ratio):.0%} OOD" for ratio in next(iter(next(iter(found["scores"].values())).values())))
    what = "mean error in points, windows within 3 points, windows in which what the share is at least was above the truth"
    return f"Of {found['runs']} windows: {what}.\n\n" + table(f"score, strangers | {shares}", rows)


def watch() -> str:
    """What `benchmarks/watch.py` found."""
    found = json.loads((RESULTS / "watch.json").read_text())
    versions = ", ".join(f"{images:,} by version {version}" for version, images in found["answered_by_version"].items())
    changes = ", ".join(f"{count} {change}" for change, count in found["replay_changes"].items())
    rows = [
        ("requests", f"{found['answered']:,} answered ({versions}), {sum(found['lost'].values())} lost"),
        ("false alarm before the change", "yes" if found["false_alarm"] else f"none in {found['clean_images']:,} pictures"),
        ("alarm after the change", f"{found['alarm_after_images']} pictures"),
        ("alert in Prometheus", f"{found['alert_after_seconds']:.1f} s after the change"),
        ("OOD, sent and estimated", f"{found['ood_ratio']:.1%}, {found['prevalence']:.1%} ± {found['prevalence_standard_error']:.1%}"),
        ("panels of both dashboards", f"{found['panels']}, {found['queries']} queries, {len(found['empty'])} empty"),
        ("captured as rejected", f"{found['captured']}, of which {found['captured_but_not_rejected']} were not"),
        ("`replay` of captured pictures at alpha 1 %", f"{changes} of {found['replayed']}"),
        (
            "`calibrate` and reload",
            f"{found['calibration_images']:,} pictures; the alert ends" if not found["alert_after_reload"] else "the alert stays",
        ),
    ]
    return table("one run | found", rows)


def instrumentation() -> str:
    """What `benchmarks/instrumentation.py` measured."""
    found = json.loads((RESULTS / "instrumentation.json").read_text())
    rows = [(name, f"{cost:.1f}") for name, cost in found["microseconds"].items()]
    return table("part | µs", [*rows, ("in all (the last two)", f"{found['total']:.1f}")])


BLOCKS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "errors": errors,
    "metrics": metrics,
    "results": results,
    "calibration": calibration,
    "promise": promise,
    "gate": gate,
    "scoring": scoring,
    "training": training,
    "reproduction": reproduction,
    "fitting": fitting,
    "search": search,
    "serving": serving,
    "precisions": precisions,
    "rollout": rollout,
    "endurance": endurance,
    "image": image,
    "drift": drift,
    "martingale": martingale,
    "prevalence": prevalence,
    "watch": watch,
    "instrumentation": instrumentation,
}


def block(text: str, name: str) -> str:
    """What stands between the marks of a block."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text, re.DOTALL)
    assert found, f"README.md has no block {name}"
    return found[1]


def main() -> None:
    text = README.read_text()
    for name, write in BLOCKS.items():
        text = text.replace(f"<!-- {name} -->\n{block(text, name)}\n", f"<!-- {name} -->\n{write()}\n")
    README.write_text(text)


if __name__ == "__main__":
    main()
