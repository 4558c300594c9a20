"""What lies in models_dir: the highest versions of every model, whether their files have changed, and which model is the default."""

from contextlib import suppress
from pathlib import Path

from service.bundle.manifest import BundleError, find_versions
from service.settings import Settings

Fingerprints = dict[int, object]


def find_bundles(models_dir: Path, count: int = 1) -> dict[str, dict[int, Path]]:
    """Name -> version -> folder of its highest complete versions. Raises BundleError when there is none."""
    found = {name: highest(folders, count) for name, folders in find_versions(models_dir).items()}
    if not found:
        raise BundleError(f"models_dir {models_dir} holds no complete bundle (<name>/<version>/manifest.json, the name of a-z 0-9 . _ -)")
    return found


def choose_default(bundles: dict[str, dict[int, Path]], settings: Settings) -> str:
    if settings.model is None and len(bundles) > 1:
        names = ", ".join(bundles)
        raise BundleError(
            f"models_dir {settings.models_dir} holds {names}: setting model must name the default one; give --model NAME or set OODGATE_MODEL"
        )
    name = settings.model or next(iter(bundles))
    if name not in bundles:
        raise BundleError(f"setting model is {name!r}, models_dir {settings.models_dir} holds {', '.join(bundles)}")
    return name


def highest(folders: dict[int, Path], count: int) -> dict[int, Path]:
    return dict(sorted(folders.items())[-count:])


def fingerprints(folders: dict[int, Path]) -> Fingerprints:
    return {version: fingerprint(folder) for version, folder in folders.items()}


def fingerprint(folder: Path) -> object:
    """Changes when a file of a version comes, goes or is written anew."""
    with suppress(OSError):
        return sorted((file.name, (status := file.stat()).st_mtime_ns, status.st_size, status.st_ino) for file in folder.iterdir())
    return []


def look(settings: Settings) -> dict[str, Fingerprints]:
    """Those of all that a server with these settings would load now."""
    return {name: fingerprints(highest(folders, settings.loaded_versions)) for name, folders in find_versions(settings.models_dir).items()}
