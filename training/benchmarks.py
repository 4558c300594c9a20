"""Which near- and far-OOD sets belong to which ID set, and how many pictures each should have.

Lists, groups and counts of OpenOOD v1.5 (Zhang et al., arXiv 2306.09301). A set that is absent or partial is named with
its count; stand-ins are shown under their own names and never averaged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from service.bundle.evaluation import Group, OodSet, ShiftedSet
from training.config import TrainingError
from training.corruptions import corrupted
from training.sources import Source, open_source

LISTS = "benchmark_imglist"


@dataclass(frozen=True)
class Listed:
    """One set of a benchmark: OpenOOD's image list of it, and where else it may lie, both below the data folder.

    expected: pictures of the list. whole: nothing is cut off its pictures.
    """

    name: str
    expected: int | None
    imglist: str | None
    elsewhere: str
    whole: bool = False


@dataclass(frozen=True)
class Benchmark:
    """The sets of one ID set. `shifted` are ID classes under covariate shift, of the full spectrum."""

    id_test: Listed
    ood_validation: Listed
    near: tuple[Listed, ...]
    far: tuple[Listed, ...]
    shifted: tuple[Listed, ...] = ()
    stand_ins: tuple[Listed, ...] = ()

    @property
    def ood(self) -> dict[str, tuple[Group, Listed]]:
        groups: dict[Group, tuple[Listed, ...]] = {"near": self.near, "far": self.far, "stand-in": self.stand_ins}
        return {entry.name: (group, entry) for group, entries in groups.items() for entry in entries}


def cifar(name: str, other: str, tiny: tuple[int, int], near: int, places: int, **more: tuple[Listed, ...]) -> Benchmark:
    """CIFAR-10's and CIFAR-100's sets: each is the other's near-OOD set. tiny: pictures of Tiny-ImageNet to test and to validate on."""
    column = f"openood_{name}"
    return Benchmark(
        id_test=Listed(name, 9000, f"{name}/test_{name}.txt", f"{name}/test.parquet#{column}=test"),
        ood_validation=Listed("tiny-imagenet", tiny[1], f"{name}/val_tin.txt", f"tiny-imagenet/validation.parquet#{column}=val"),
        near=(
            Listed(other, near, f"{name}/test_{other}.txt", f"{other}/test.parquet" + (f"#{column}=test" if near < 10_000 else "")),
            Listed("tiny-imagenet", tiny[0], f"{name}/test_tin.txt", f"tiny-imagenet/validation.parquet#{column}=test"),
        ),
        far=(
            Listed("mnist", 70_000, f"{name}/test_mnist.txt", "mnist"),
            Listed("svhn", 26_032, f"{name}/test_svhn.txt", "svhn"),
            Listed("textures", 5640, f"{name}/test_texture.txt", "textures"),
            Listed("places365", places, f"{name}/test_places365.txt", "places365"),
        ),
        stand_ins=(
            Listed("miniplaces", None, None, f"miniplaces/sample.parquet#{column}=test"),
            Listed("chars74k", None, None, "chars74k/streetview.parquet"),
        ),
        **more,
    )


def imagenet(name: str, folder: str, test: int, shifted: tuple[int, int, int], prefix: str) -> Benchmark:
    """ImageNet's sets. folder: of the lists; shifted: pictures of ImageNet-V2, -C and -R; prefix: of their lists."""
    v2, corruptions, renditions = shifted
    return Benchmark(
        id_test=Listed(name, test, f"{folder}/test_{folder}.txt", f"{name}/test.parquet"),
        ood_validation=Listed("openimage-o", 1763, f"{folder}/val_openimage_o.txt", "openimage-o/validation.parquet"),
        near=(
            Listed("ssb-hard", 49_000, f"{folder}/test_ssb_hard.txt", "ssb-hard"),
            Listed("ninco", 5879, f"{folder}/test_ninco.txt", "ninco"),
        ),
        far=(
            Listed("inaturalist", 10_000, f"{folder}/test_inaturalist.txt", "inaturalist"),
            # Without four classes of the 47 that ImageNet has too.
            Listed("textures", 5160, f"{folder}/test_textures.txt", "textures#openood_imagenet=test"),
            Listed("openimage-o", 15_869, f"{folder}/test_openimage_o.txt", "openimage-o/test.parquet"),
        ),
        # OpenOOD's code lists ImageNet-ES as well; its leaderboard is without, and so are the published numbers.
        shifted=(
            Listed("imagenet-v2", v2, f"{folder}/test_{prefix}_v2.txt", f"{name}-v2/test.parquet"),
            # These come at the network's size, and OpenOOD takes them as they are.
            Listed("imagenet-c", corruptions, f"{folder}/test_{prefix}_c.txt", f"{name}-c/test.parquet", whole=True),
            Listed("imagenet-r", renditions, f"{folder}/test_{prefix}_r.txt", f"{name}-r/test.parquet"),
        ),
    )


CIFAR10_C = Listed("cifar10-c", 10_000, "cifar10/test_cifar10c.txt", "cifar10-c/test.parquet")
BENCHMARKS = {
    "cifar10": cifar("cifar10", "cifar100", (7793, 1000), 9000, 35_195, shifted=(CIFAR10_C,)),
    "cifar100": cifar("cifar100", "cifar10", (6526, 972), 10_000, 33_773),
    "imagenet200": imagenet("imagenet200", "imagenet200", 9000, (2000, 2000, 30_000), "imagenet200"),
    "imagenet1k": imagenet("imagenet1k", "imagenet", 45_000, (10_000, 10_000, 30_000), "imagenet"),
}


@dataclass(frozen=True)
class Targets:
    """What a network is evaluated on. `sources` lacks the sets that are absent; `ood_sets` counts them as 0 images."""

    id_name: str
    id_test: Source
    ood_validation: Source | None
    ood_sets: dict[str, OodSet]
    sources: dict[str, Source]
    id_expected: int | None = None
    shifted_sets: dict[str, ShiftedSet] = field(default_factory=dict)
    shifted: dict[str, Source] = field(default_factory=dict)


def open_benchmark(name: str, root: Path) -> Targets:
    """The sets of a benchmark under `root`. Says which are absent or partial."""
    if name not in BENCHMARKS:
        raise TrainingError(f"benchmark {name!r} is not known; known are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    id_test = open_listed(benchmark.id_test, root, f"the ID test set {name}")
    if id_test is None:
        places = f"{LISTS}/{benchmark.id_test.imglist} or {benchmark.id_test.elsewhere}"
        raise TrainingError(f"the ID test set of {name} is absent: {root} needs {places}")
    about: dict[str, OodSet] = {}
    sources: dict[str, Source] = {}
    for key, (group, listed) in benchmark.ood.items():
        source = open_listed(listed, root, key)
        if source is not None:
            sources[key] = source
        if source is not None or group != "stand-in":
            about[key] = OodSet(group=group, images=len(source or ()), expected=listed.expected)
    shifted = {listed.name: open_listed(listed, root, listed.name) for listed in benchmark.shifted}
    shifts = {listed.name: ShiftedSet(images=len(shifted[listed.name] or ()), expected=listed.expected) for listed in benchmark.shifted}
    present = {key: check_shifted(source, id_test, f"{key} under {root}") for key, source in shifted.items() if source is not None}
    if shifts and not present and name == "cifar10":
        print("cifar10-c-generated stands in for cifar10-c: the ID test pictures, corrupted by a generator of our own")
        present["cifar10-c-generated"] = corrupted(id_test)
        shifts["cifar10-c-generated"] = ShiftedSet(images=len(id_test))
    validation = open_listed(benchmark.ood_validation, root, f"the OOD validation set {benchmark.ood_validation.name}")
    id_name = f"{name}, the test pictures of OpenOOD v1.5's list"
    return Targets(id_name, id_test, validation, about, sources, benchmark.id_test.expected, shifts, present)


def open_listed(listed: Listed, root: Path, what: str) -> Source | None:
    """Of the places where a set may lie one that has as many pictures as the list, else the most complete, or None. Says what is not as listed."""
    found: list[Source] = []
    reasons = []
    for where in ([f"{LISTS}/{listed.imglist}"] if listed.imglist else []) + [listed.elsewhere]:
        if not Path(str(root / where).partition("#")[0]).exists():
            continue
        try:
            source = open_source(str(root / where))
        except TrainingError as exc:  # a set that cannot be read is absent, and the others are still worth having
            reasons.append(str(exc))
            continue
        assert source is not None
        found.append(existing(source) if where.startswith(LISTS) else source)

    def misses(source: Source) -> tuple[bool, int]:
        """More pictures than the list has are others, too: worse than too few."""
        more = len(source) - listed.expected if listed.expected else -len(source)
        return more > 0, abs(more) if listed.expected else more

    best = min(filter(len, found), key=misses, default=None)
    images = 0 if best is None else len(best)
    if listed.expected not in (None, images) or (reasons and not images):
        note = f" ({'; '.join(reasons)})" if reasons else ""
        state = "absent" if not images else "partial" if images < (listed.expected or 0) else "larger than its list"
        print(f"{what} is {state}: {images} of {listed.expected} pictures{note}")
    return replace(best, whole=listed.whole) if best else None


def existing(source: Source) -> Source:
    """Those pictures of an image list that are there."""
    return source.subset(np.array([row for row in range(len(source)) if Path(source.name(row)).exists()], np.int64))


def open_own(
    id_test: Source,
    id_name: str,
    ood_validation: str | None,
    near: Mapping[str, str],
    far: Mapping[str, str],
    shifted: Mapping[str, str] | None = None,
) -> Targets:
    """A user's own sets: name -> place. Labels of OOD sets do not count; those of shifted sets are ID's."""
    about: dict[str, OodSet] = {}
    sources: dict[str, Source] = {}
    groups: dict[Group, Mapping[str, str]] = {"near": near, "far": far}
    for group, places in groups.items():
        for name, where in places.items():
            source = open_source(where)
            assert source is not None
            sources[name] = source
            about[name] = OodSet(group=group, images=len(source))
    shifts = {name: open_shifted(name, where, id_test) for name, where in (shifted or {}).items()}
    return Targets(
        id_name,
        id_test,
        open_source(ood_validation) if ood_validation else None,
        about,
        sources,
        shifted_sets={name: ShiftedSet(images=len(source)) for name, source in shifts.items()},
        shifted=shifts,
    )


def open_shifted(name: str, where: str, id_test: Source) -> Source:
    source = open_source(where, "train")
    if source is None:
        raise TrainingError(f"the shifted set {name} at {where} has no pictures in folders of classes")
    return check_shifted(source, id_test, f"{name} at {where}")


def check_shifted(source: Source, id_test: Source, what: str) -> Source:
    """A shifted set, whose labels must mean what those of the ID test set mean."""
    if id_test.classes and source.classes != id_test.classes[: len(source.classes)]:
        raise TrainingError(f"the shifted set {what} needs the classes of the ID test set: {few(id_test.classes)}; it has {few(source.classes)}")
    return source


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + ", …" * (len(names) > 10)
