import threading
from pathlib import Path

import pytest

from service.bundle.manifest import BundleError, find_versions
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


def test_folders_may_come_and_go_while_it_looks(tmp_path: Path) -> None:
    write_bundle(tmp_path, images=100)
    over = threading.Event()

    def churn(name: str) -> None:
        while not over.is_set():
            (tmp_path / name / "1").mkdir(parents=True)
            (tmp_path / name / "1").rmdir()
            (tmp_path / name).rmdir()

    threads = [threading.Thread(target=churn, args=(f"old-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(1000):
            assert list(find_versions(tmp_path)) == ["tiny"]
    finally:
        over.set()
        for thread in threads:
            thread.join()
