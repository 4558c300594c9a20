"""The committed bundle, served for real and asked over HTTP, with real pictures that training never saw."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import httpx
import numpy as np
import pytest
from scipy.stats import betabinom

from service.bundle.decision import pac_rank
from service.bundle.manifest import Bundle, find_versions, load_bundle
from service.bundle.preprocess import decode
from service.runtime import Runtime
from tests.servers import serving

ROOT = Path(__file__).parent.parent
NAME = "cifar10-airbench"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    versions = find_versions(ROOT / "models")[NAME]
    return load_bundle(versions[max(versions)])


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(ROOT / "models") as client:
        yield client


@pytest.fixture(scope="module")
def pictures() -> dict[str, list[tuple[bytes, str]]]:
    """Set -> (PNG file, label): 200 of CIFAR-10's test pictures, 100 characters photographed in streets."""
    table = datasets.Dataset.from_parquet(str(ROOT / "tests" / "pictures.parquet")).cast_column("image", datasets.Image(decode=False))
    found: dict[str, list[tuple[bytes, str]]] = {}
    for row in table:
        found.setdefault(row["set"], []).append((row["image"]["bytes"], row["label"]))
    return found


def ask(client: httpx.Client, picture: bytes, **query: object) -> dict[str, object]:
    answer = client.post("/predict", content=picture, headers={"Content-Type": "image/png"}, params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    prediction: dict[str, object] = answer.json()["predictions"][0]
    return prediction


def test_the_bundle_is_what_it_claims(bundle: Bundle) -> None:
    folder = bundle.folder
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 25 * 10**6
    assert bundle.evaluation.accuracy >= 0.92
    assert bundle.evaluation.ece <= 0.03
    assert bundle.manifest.training.recipe["loss"] == "elogitnorm"
    assert bundle.manifest.calibration.n == 5000
    Runtime(bundle, "cpu").check_golden()


def test_its_measured_false_rejects_lie_in_the_band_that_was_promised(bundle: Bundle) -> None:
    n, m = bundle.manifest.calibration.n, bundle.evaluation.id_images
    for key, entry in bundle.evaluation.postprocessors.items():
        for point in entry.operating_points:
            if point.guarantee == "pac" and point.alpha in (0.01, 0.05, 0.1):
                k = pac_rank(n, point.alpha, bundle.manifest.calibration.delta)
                low, high = betabinom.ppf([0.0005, 0.9995], m, k, n + 1 - k) / m
                assert low <= point.measured_false_reject_ratio <= high, (key, point)


def test_real_pictures_get_their_class(client: httpx.Client, bundle: Bundle, pictures: dict[str, list[tuple[bytes, str]]]) -> None:
    right = [ask(client, picture)["label"] == label for picture, label in pictures["cifar10"]]
    # Four standard errors of 200 pictures.
    assert np.mean(right) > bundle.evaluation.accuracy - 4 * np.sqrt(0.08 * 0.92 / 200)


def test_good_pictures_are_kept_and_street_characters_rejected(client: httpx.Client, pictures: dict[str, list[tuple[bytes, str]]]) -> None:
    rejected = {name: np.mean([ask(client, picture)["ood"]["rejected"] for picture, _ in entries]) for name, entries in pictures.items()}  # type: ignore[index]
    # At alpha 5 % with 200 pictures: four standard errors.
    assert rejected["cifar10"] < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)
    assert rejected["chars74k"] > 5 * rejected["cifar10"]


def test_64_clients_at_once_each_get_their_own_answer(client: httpx.Client, bundle: Bundle, pictures: dict[str, list[tuple[bytes, str]]]) -> None:
    chosen = [picture for picture, _ in pictures["cifar10"][:64]]
    runtime = Runtime(bundle, "cpu")
    expected = [runtime.run(decode(picture, bundle.manifest.input)[None]) for picture in chosen]
    column = bundle.manifest.postprocessors.index(bundle.manifest.default_postprocessor)
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda picture: ask(client, picture), chosen))
    for answer, (probabilities, scores) in zip(answers, expected, strict=True):
        assert answer["class_id"] == probabilities[0].argmax()
        assert answer["probability"] == pytest.approx(probabilities[0].max(), abs=1e-4)
        assert answer["ood"]["raw_score"] == pytest.approx(scores[0, column], abs=1e-4)  # type: ignore[index]


def test_a_picture_alone_or_in_any_batch_gets_the_same_decision(client: httpx.Client, pictures: dict[str, list[tuple[bytes, str]]]) -> None:
    chosen = [picture for entries in pictures.values() for picture, _ in entries[:48]]
    alone = [ask(client, picture)["ood"]["rejected"] for picture in chosen]  # type: ignore[index]
    for size in (2, 7, 32):
        together = []
        for start in range(0, len(chosen), size):
            files = [("file", (f"{i}.png", picture, "image/png")) for i, picture in enumerate(chosen[start : start + size])]
            together += [entry["ood"]["rejected"] for entry in client.post("/predict", files=files).json()["predictions"]]
        assert together == alone


def test_the_command_line_answers_as_the_server_does(client: httpx.Client, pictures: dict[str, list[tuple[bytes, str]]], tmp_path: Path) -> None:
    for i, (picture, _) in enumerate(pictures["chars74k"][:5]):
        (tmp_path / f"{i}.png").write_bytes(picture)
    oodgate = shutil.which("oodgate", path=str(Path(sys.executable).parent)) or "oodgate"
    ran = subprocess.run(
        [oodgate, "predict", str(tmp_path), "--json", "--models-dir", str(ROOT / "models")], capture_output=True, text=True, check=True
    )
    answers = [json.loads(line)["predictions"][0] for line in ran.stdout.splitlines()]
    assert len(answers) == 5
    for answer in answers:
        server = ask(client, Path(answer["filename"]).read_bytes())
        assert answer["label"] == server["label"]
        assert answer["ood"] == pytest.approx(server["ood"], abs=1e-4)


def test_the_readmes_pictures_are_answered_as_the_readme_says(client: httpx.Client) -> None:
    cat = ask(client, (ROOT / "examples" / "cat.png").read_bytes())
    character = ask(client, (ROOT / "examples" / "street-view-character.png").read_bytes())
    assert (cat["label"], cat["ood"]["rejected"]) == ("cat", False)  # type: ignore[index]
    assert character["ood"]["rejected"] is True  # type: ignore[index]
