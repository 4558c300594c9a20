"""A slice of benchmarks/fuzz.py: pictures made wrong in every way, over a real connection."""

from pathlib import Path

from tests.bundles import id_png
from tests.mutations import MUTATIONS, mutated
from tests.servers import serving


def test_mutated_pictures_are_answered_or_refused_and_a_good_one_is_answered_afterwards(models_dir: Path) -> None:
    with serving(models_dir, max_image_pixels=1_000_000) as client:
        right = client.post("/predict", content=id_png()).json()
        statuses = [client.post("/predict", content=data).status_code for data in mutated(60 * len(MUTATIONS), seed=1)]
        assert set(statuses) <= {200, 400, 413, 415, 422}
        assert len(set(statuses)) >= 4, "they are wrong in several ways"
        assert client.post("/predict", content=id_png()).json() == right
