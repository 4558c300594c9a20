"""Which near- and far-OOD sets belong to which ID set, and how many pictures each should have.

Lists, groups and counts of OpenOOD v1.5 (Zhang et al., arXiv 2306.09301). A set that is absent or partial is named with
its count; stand-ins are shown under their own names and never averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.bundle.evaluation import Group, OodSet
from training.config import TrainingError
from training.sources import Source, open_source


@dataclass(frozen=True)
class Listed:
    """One OOD set of a benchmark. `where` is relative to the data folder."""

    name: str
    group: Group
    expected: int | None
    where: str


@dataclass(frozen=True)
class Benchmark:
    """The sets of one ID set; places are relative to the data folder."""

    id_test: str
    id_expected: int
    ood_validation: str
    sets: tuple[Listed, ...]


BENCHMARKS = {
    "cifar10": Benchmark(
        id_test="cifar10/test.parquet#openood_cifar10=test",
        id_expected=9000,
        ood_validation="tiny-imagenet/validation.parquet#openood_cifar10=val",
        sets=(
            Listed("cifar100", "near", 9000, "cifar100/test.parquet#openood_cifar10=test"),
            Listed("tiny-imagenet", "near", 7793, "tiny-imagenet/validation.parquet#openood_cifar10=test"),
            Listed("mnist", "far", 70000, "mnist"),
            Listed("svhn", "far", 26032, "svhn"),
            Listed("textures", "far", 5640, "textures"),
            Listed("places365", "far", 35195, "places365"),
            Listed("miniplaces", "stand-in", None, "miniplaces/sample.parquet#openood_cifar10=test"),
            Listed("chars74k", "stand-in", None, "chars74k/streetview.parquet"),
        ),
    )
}


@dataclass(frozen=True)
class Targets:
    """What a network is evaluated on. `sources` lacks the sets that are absent; `ood_sets` counts them as 0 images."""

    id_name: str
    id_test: Source
    ood_validation: Source | None
    ood_sets: dict[str, OodSet]
    sources: dict[str, Source]


def open_benchmark(name: str, root: Path) -> Targets:
    """The sets of a benchmark under `root`. Says which are absent or partial."""
    if name not in BENCHMARKS:
        raise TrainingError(f"benchmark {name!r} is not known; known are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    id_test = open_source(str(root / benchmark.id_test), "train")
    assert id_test is not None
    if len(id_test) != benchmark.id_expected:
        print(f"the ID test set is partial: {len(id_test)} of {benchmark.id_expected} pictures")
    about: dict[str, OodSet] = {}
    sources: dict[str, Source] = {}
    for listed in benchmark.sets:
        source = open_if_present(root / listed.where)
        found = 0 if source is None else len(source)
        if source is not None:
            sources[listed.name] = source
        if source is not None or listed.group != "stand-in":
            about[listed.name] = OodSet(group=listed.group, images=found, expected=listed.expected)
        if listed.expected not in (None, found):
            print(f"{listed.name} is {'partial' if found else 'absent'}: {found} of {listed.expected} pictures")
    return Targets(benchmark.id_test, id_test, open_if_present(root / benchmark.ood_validation), about, sources)


def open_if_present(where: Path) -> Source | None:
    return open_source(str(where)) if Path(str(where).partition("#")[0]).exists() else None


def open_own(id_test: Source, id_name: str, ood_validation: str | None, near: Mapping[str, str], far: Mapping[str, str]) -> Targets:
    """A user's own sets: name -> place. Their labels do not count."""
    about: dict[str, OodSet] = {}
    sources: dict[str, Source] = {}
    groups: dict[Group, Mapping[str, str]] = {"near": near, "far": far}
    for group, places in groups.items():
        for name, where in places.items():
            source = open_source(where)
            assert source is not None
            sources[name] = source
            about[name] = OodSet(group=group, images=len(source))
    return Targets(id_name, id_test, open_source(ood_validation) if ood_validation else None, about, sources)
