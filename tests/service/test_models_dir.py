from pathlib import Path

import pytest

from service.bundle.manifest import BundleError
from service.models_dir import find_bundles, fingerprint
from tests.bundles import write_bundle


@pytest.mark.parametrize("file", ["manifest.json", "model.onnx", "calibration.npz"])
def test_a_fingerprint_changes_when_a_file_is_written_anew_or_goes(tmp_path: Path, file: str) -> None:
    folder = write_bundle(tmp_path, images=100)
    seen = [fingerprint(folder)]
    assert fingerprint(folder) == seen[0]
    with (folder / file).open("ab") as stream:
        stream.write(b" ")
    seen.append(fingerprint(folder))
    (folder / file).unlink()
    seen.append(fingerprint(folder))
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])


def test_a_folder_that_is_no_model_for_its_name_alone_is_not_served_and_the_sentence_says_which_names_are(tmp_path: Path) -> None:
    (tmp_path / "Photos" / "1").mkdir(parents=True)
    (tmp_path / "Photos" / "1" / "manifest.json").touch()
    with pytest.raises(BundleError, match=r"holds no complete bundle \(<name>/<version>/manifest.json, the name of a-z 0-9 \. _ -\)"):
        find_bundles(tmp_path)
