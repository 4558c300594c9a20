"""What a GPU runs, with the same code bound to the CPU's memory."""

from pathlib import Path

import numpy as np
import pytest

from service.buckets import Buckets, bucket_sizes
from service.bundle.manifest import load_bundle
from service.runtime import Runtime, heavy_nodes, open_session
from tests.bundles import pixels


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12)), (33, (1, 2, 4, 8, 16, 32, 33))])
def test_batch_sizes_are_powers_of_two_and_the_largest(most: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(most) == sizes


@pytest.fixture(scope="module")
def runtime(models_dir: Path) -> Runtime:
    return Runtime(load_bundle(models_dir / "tiny/1"), "cpu", 1)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 30])
def test_padded_batches_of_any_size_are_answered_as_without_padding(runtime: Runtime, count: int) -> None:
    buckets = Buckets(runtime.bundle, runtime.session, "cpu", 8)
    images = pixels(count, 21)
    for got, wanted in zip(buckets.run(images), runtime.run(images), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_an_answer_stays_what_it_was_when_the_next_batch_runs(runtime: Runtime) -> None:
    buckets = Buckets(runtime.bundle, runtime.session, "cpu", 4)
    first = buckets.run(pixels(4, 22))
    kept = [output.copy() for output in first]
    buckets.run(pixels(4, 23))
    for got, wanted in zip(first, kept, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_server_with_buckets_passes_the_golden_check_and_warms_each_of_them(models_dir: Path) -> None:
    runtime = Runtime(load_bundle(models_dir / "tiny/1"), "cpu", 1, max_batch_size=6)
    ran: list[int] = []
    runtime.buckets = Buckets(runtime.bundle, runtime.session, "cpu", 6)
    for size, bound in runtime.buckets.bound.items():
        bound.run = lambda images, size=size, run=bound.run: (ran.append(size), run(images))[1]  # type: ignore[method-assign]
    runtime.warm()
    assert ran == [6, 4, 2, 1]
    runtime.check_golden()


def test_where_costly_nodes_run_is_what_onnxruntime_says_it_is(models_dir: Path) -> None:
    bundle = load_bundle(models_dir / "tiny/1")
    session = open_session(bundle.model, bundle.folder, "cpu", 1)
    assert heavy_nodes(session, lambda provider: provider == "CPUExecutionProvider") >= {"MatMul"}
    assert heavy_nodes(session, lambda provider: provider != "CPUExecutionProvider") == set()
