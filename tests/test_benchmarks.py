"""That commands of `benchmarks/` which no other test runs still fit the code that they measure."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_what_watching_costs_is_measured_on_the_code_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.instrumentation", "models/cifar10-airbench/1", "--rounds", "1", "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    found = json.loads(file.read_text())
    costs = found["microseconds"]
    assert 0 < costs["drift alarm and prevalence"] < costs["all that is done once the answer is on its way"] < found["total"]
