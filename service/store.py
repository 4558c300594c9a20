"""Where pictures are kept: a folder, or with the extra `capture` whatever fsspec opens by URL (s3://, gs://, az://, memory:// …)."""

import importlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol


class NoStore(Exception):
    """There is no way to keep files there; the message says what to do."""


class Store(Protocol):
    """Files by name, slashes between the parts of a name. Every method raises OSError."""

    def write(self, name: str, data: bytes) -> None:
        """All of it or, where it fails, nothing."""

    def read(self, name: str) -> bytes: ...

    def sizes(self) -> dict[str, int]:
        """Every file in it, with its bytes."""

    def remove(self, names: Iterable[str]) -> None:
        """Files that have gone already are no error."""


def open_store(where: str) -> Store:
    """The folder or URL. Touches neither a disk nor a network. Raises NoStore."""
    plain = where.removeprefix("file://")
    return UrlStore(plain) if is_url(plain) else FolderStore(Path(plain))


def is_url(where: str) -> bool:
    return "://" in where


class FolderStore:
    """A folder, made when something is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".partial-{secrets.token_hex(4)}")
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                try:
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
                except FileNotFoundError:
                    continue
        return found

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.folder / name
            path.unlink(missing_ok=True)
            # Folders that are empty now go too.
            with suppress(OSError):
                while (path := path.parent) != self.folder:
                    path.rmdir()


class UrlStore:
    """A URL that fsspec knows. Objects appear whole or not at all, so they get their name at once."""

    def __init__(self, url: str) -> None:
        try:
            fsspec = importlib.import_module("fsspec")
            self.files: Any
            self.files, self.root = fsspec.url_to_fs(url.rstrip("/"))
        except ImportError as exc:
            raise NoStore(f"{url} needs a library that is not installed ({exc}); oodgate[capture] brings fsspec, and s3fs for s3://") from None
        except ValueError as exc:
            raise NoStore(f"{url} cannot be opened: {exc}") from None

    def write(self, name: str, data: bytes) -> None:
        with os_errors():
            self.files.pipe_file(f"{self.root}/{name}", data)

    def read(self, name: str) -> bytes:
        with os_errors():
            data: bytes = self.files.cat_file(f"{self.root}/{name}")
        return data

    def sizes(self) -> dict[str, int]:
        # What another process wrote is not in the cache of listings.
        with os_errors():
            self.files.invalidate_cache()
            found = self.files.find(self.root, detail=True)
        return {path.removeprefix(self.root).lstrip("/"): int(entry["size"] or 0) for path, entry in found.items()}

    def remove(self, names: Iterable[str]) -> None:
        if paths := [f"{self.root}/{name}" for name in names]:
            with os_errors():
                try:
                    self.files.rm(paths)
                except FileNotFoundError:
                    # Some protocols stop at the first that has gone.
                    for path in paths:
                        with suppress(FileNotFoundError):
                            self.files.rm_file(path)


@contextmanager
def os_errors() -> Iterator[None]:
    """Every protocol's library has exceptions of its own."""
    try:
        yield
    except OSError:
        raise
    except Exception as exc:
        raise OSError(f"{type(exc).__name__}: {exc}") from exc
