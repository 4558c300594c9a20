import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.page import page
from benchmarks.reproduction import Reproduction
from service.__main__ import build_parser
from tests.readme import BLOCKS, README, RESULTS, ROOT, block
from training.__main__ import build_parser as build_training_parser
from training.postprocessors import EVALUATED_ONLY, REGISTRY

TEXT = README.read_text()


@pytest.mark.parametrize("name", BLOCKS)
def test_each_written_block_of_the_readme_is_up_to_date(name: str) -> None:
    assert block(TEXT, name) == BLOCKS[name](), "run `python -m tests.readme`"


@pytest.mark.parametrize("file", sorted(path.name for path in RESULTS.glob("*.json")))
def test_each_results_file_is_what_a_block_of_the_readme_is_written_from(file: str) -> None:
    assert f'"{file}"' in (ROOT / "tests" / "readme.py").read_text()


def test_pages_of_results_are_what_their_numbers_say() -> None:
    for file in RESULTS.glob("*.md"):
        assert file.read_text() == page(Reproduction.model_validate_json(file.with_suffix(".json").read_bytes())), "run `python -m benchmarks.page`"


@pytest.mark.parametrize("key", [*REGISTRY, *EVALUATED_ONLY])
def test_each_score_has_a_row(key: str) -> None:
    assert f"| `{key}` |" in TEXT


def commands(program: str) -> list[list[str]]:
    """What the README tells people to type, as arguments."""
    return [line.split("#")[0].split() for line in re.findall(rf"^\S*bin/{program} (.*)$", TEXT, re.MULTILINE)]


def test_every_oodgate_command_of_the_readme_parses() -> None:
    found = commands("oodgate")
    assert len(found) >= 3
    for arguments in found:
        build_parser().parse_args(arguments)


def test_every_training_command_of_the_readme_parses() -> None:
    found = commands("oodgate-training")
    assert {arguments[0] for arguments in found} == {"train", "evaluate", "report", "export"}
    for arguments in found:
        build_training_parser().parse_args(arguments)


def test_every_path_that_the_readme_names_exists() -> None:
    named = re.findall(r"\((models/[\w./]+)\)|@(examples/[\w.-]+)|python (benchmarks/\w+\.py)", TEXT)
    paths = [next(filter(None, groups)) for groups in named]
    assert len(paths) >= 5
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_example_replies_are_json() -> None:
    replies = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
    assert [reply["predictions"][0]["ood"]["rejected"] for reply in replies] == [False, True]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in listed]


def test_no_pinned_requirement_names_an_index() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        assert not re.search(r"index-url|find-links|https?://", file.read_text()), file


def test_no_module_has_grown_past_250_lines() -> None:
    long = [path for path in tracked() if path.suffix == ".py" and path.parts[-2] != "tests" and "tests" not in path.parts]
    assert len(long) > 30
    assert [str(path) for path in long if len(path.read_text().splitlines()) > 250] == []
