import errno
import subprocess
import sys
from pathlib import Path

import pytest

from service.store import FolderStore, NoStore, Store, UrlStore, open_store
from tests.processes import ENVIRONMENT


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "kept") if request.param == "folder" else f"memory://{tmp_path.name}")


def test_what_is_written_can_be_read_listed_and_removed(store: Store) -> None:
    assert store.sizes() == {}
    store.write("a/b/one.png", b"123")
    store.write("a/two.json", b"4")
    store.write("a/two.json", b"45")
    assert store.read("a/b/one.png") == b"123"
    assert store.sizes() == {"a/b/one.png": 3, "a/two.json": 2}
    store.remove(["a/gone.png", "a/b/one.png", "a/b/gone too.png"])
    assert store.sizes() == {"a/two.json": 2}


def test_folders_that_are_empty_now_go_with_their_last_file(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "kept")
    store.write("a/b/one.png", b"1")
    store.write("a/two.png", b"2")
    store.remove(["a/b/one.png"])
    assert [path.name for path in store.folder.rglob("*")] == ["a", "two.png"]
    store.remove(["a/two.png"])
    assert list(store.folder.iterdir()) == []


def test_a_file_that_cannot_be_written_whole_leaves_nothing(full_disk: Path) -> None:
    store = FolderStore(full_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        store.write("a/large.png", bytes(10**6))
    assert raised.value.errno == errno.ENOSPC
    assert store.sizes() == {}


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(NoStore, match="pigeon://roof cannot be opened: Protocol not known: pigeon"):
        UrlStore("pigeon://roof")


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_library_that_is_missing_is_named_and_what_brings_it(missing: str) -> None:
    start = f"import sys; sys.modules[{missing!r}] = None; from service.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "serve", "--capture-dir", "s3://bucket/kept", "--port", "0"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert ran.returncode == 1
    assert ran.stderr.startswith("oodgate: setting capture_dir is 's3://bucket/kept': s3://bucket/kept needs a library that is not installed")
    assert "oodgate[capture] brings fsspec, and s3fs for s3://" in ran.stderr
    assert ran.stderr.count("\n") == 1
