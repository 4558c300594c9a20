"""A real server for whatever asks one."""

from collections.abc import Iterator

import httpx
import pytest

from tests.bundles import write_bundle
from tests.servers import serving


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder)
    with serving(folder) as client:
        yield client
