"""Which bundles are loaded: the highest version of every model in models_dir, and the one that answers by default."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from service.bundle.manifest import BundleError, find_versions
from service.metrics import Metrics
from service.model import Model, open_model
from service.settings import Settings


class NotReady(Exception):
    """No model answers yet; the message says what is being waited for."""

    retry_after_seconds = 2


class DeadBatcher(Exception):
    """A worker thread has ended, which it never should: the process must be replaced."""


class UnknownModel(Exception):
    """No such model or version is loaded."""


class Repository:
    """Open with `async with`, then `load`. Until that is done, `find` raises NotReady."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.models: dict[str, Model] = {}
        self.default = ""
        self.waiting_for: str | None = "the models are being loaded"
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stack.aclose()

    async def load(self) -> None:
        """Loads every model. Raises BundleError, WrongDevice or TooFewCalibrationImages: then nothing must be served."""
        folders = find_bundles(self.settings.models_dir)
        default = choose_default(folders, self.settings)
        for name, folder in folders.items():
            self.waiting_for = f"{name} is being loaded"
            try:
                model = await asyncio.to_thread(open_model, folder, self.settings, self.metrics.batch_images.observe)
            except Exception:
                self.metrics.model_loads.labels(name, "failed").inc()
                raise
            self.metrics.model_loads.labels(name, "loaded").inc()
            self.metrics.describe(model)
            self.models[name] = await self.stack.enter_async_context(model)
        self.default = default
        self.waiting_for = None

    def find(self, name: str | None = None, version: int | None = None) -> Model:
        """The model a request names. Raises NotReady or UnknownModel."""
        if self.waiting_for is not None:
            raise NotReady(self.waiting_for)
        model = self.models.get(name or self.default)
        if model is None or version not in (None, model.version):
            wanted = f"{name or self.default} version {version}" if version is not None else name
            loaded = ", ".join(f"{model.name} version {model.version}" for model in self.models.values())
            raise UnknownModel(f"{wanted} is not loaded; loaded: {loaded}")
        return model

    def check_alive(self) -> None:
        """Raises DeadBatcher when a model's worker thread has ended."""
        for model in self.models.values():
            if not model.batcher.alive:
                raise DeadBatcher(f"the batcher of {model.name} has ended")

    def waiting_images(self) -> int:
        """Images that wait, over all models."""
        return sum(model.batcher.held for model in self.models.values())

    def all(self) -> list[Model]:
        if self.waiting_for is not None:
            raise NotReady(self.waiting_for)
        return list(self.models.values())


def find_bundles(models_dir: Path) -> dict[str, Path]:
    """Name -> folder of its highest complete version. Raises BundleError when there is none."""
    found = {name: versions[max(versions)] for name, versions in find_versions(models_dir).items()}
    if not found:
        raise BundleError(f"models_dir {models_dir} holds no complete bundle (<name>/<version>/manifest.json)")
    return found


def choose_default(folders: dict[str, Path], settings: Settings) -> str:
    if settings.model is None and len(folders) > 1:
        raise BundleError(f"models_dir {settings.models_dir} holds {', '.join(folders)}: setting model must name the default one")
    name = settings.model or next(iter(folders))
    if name not in folders:
        raise BundleError(f"setting model is {name!r}, models_dir {settings.models_dir} holds {', '.join(folders)}")
    return name
