"""How a bundle comes into its folder: whole, read back, and never over another."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.bundle.manifest import MANIFEST, BundleError, Manifest, load_bundle


def write_bundle(folder: Path, files: Mapping[str, bytes], manifest: Manifest) -> None:
    """Writes all files, the manifest last, beside `folder`, which gets its name when everything reads back well. Raises BundleError."""
    beside: str | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own for each writer: two that want the same version must not clear away each other's files.
        beside = tempfile.mkdtemp(prefix=".partial-", dir=folder.parent)
        partial = Path(beside) / folder.parent.name / folder.name
        partial.mkdir(parents=True)
        for name, data in files.items():
            (partial / name).write_bytes(data)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        load_bundle(partial)
        # onto a folder that has files it fails
        partial.rename(folder)
    except OSError as exc:
        raise BundleError(f"{folder} cannot be written: {exc.strerror}") from None
    except BundleError as exc:
        raise BundleError(f"{folder} cannot be written: {exc}") from None
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
