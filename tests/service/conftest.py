"""The tiny bundle, its slow twin, and a server for each, made once."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bundles import write_bundle
from tests.servers import serving


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def slow_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    write_bundle(folder, slow_steps=80)
    return folder


@pytest.fixture(scope="session")
def client(models_dir: Path) -> Iterator[httpx.Client]:
    with serving(models_dir, max_body_bytes=200_000, max_image_pixels=10_000, max_images_per_request=4, shadow_postprocessors=("msp",)) as client:
        yield client


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds sixteen files of 4 kB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
