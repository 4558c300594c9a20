"""Which bundles are loaded: the highest versions of every model in models_dir; and how one takes another's place while both work."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Self

from service.bundle.manifest import BundleError, find_versions
from service.memory import give_back
from service.metrics import Metrics
from service.model import Model, open_warm
from service.models_dir import Fingerprints, choose_default, find_bundles, fingerprints, highest, look
from service.settings import Settings
from service.states import States

log = logging.getLogger(__name__)
WATCH_SECONDS = 2.0
# What a crash may cost of the evidence, and how old other processes' gauges may be where several are scraped as one.
KEEP_SECONDS = 5.0
Versions = dict[int, Model]


class NotReady(Exception):
    """No model answers yet, or none will soon; the message says why."""

    retry_after_seconds = 2


class DeadBatcher(Exception):
    """A worker thread has ended, which it never should: the process must be replaced."""


class UnknownModel(Exception):
    """No such model or version is loaded."""


class ReloadFailed(Exception):
    """A new version was refused; what served before serves on."""


class Repository:
    """Open with `async with`, then `load`. Until that is done, `find` raises NotReady."""

    def __init__(self, settings: Settings, metrics: Metrics, states: States) -> None:
        self.settings = settings
        self.metrics = metrics
        self.states = states
        self.models: dict[str, Versions] = {}
        self.default = ""
        self.waiting_for: str | None = "the models are being loaded"
        # One bundle at a time: two would need twice the memory.
        self.loading = asyncio.Lock()
        # Always the same thread: malloc keeps a heap for each, and a model's memory would stay in every one that ever opened it.
        self.opener = ThreadPoolExecutor(1, thread_name_prefix="open")
        # Of every model the versions last tried, and those that serve, as their files were then.
        self.tried: dict[str, Fingerprints] = {}
        self.served: dict[str, Fingerprints] = {}
        self.reloading = asyncio.Lock()
        self.reload_waits = False
        self.retiring: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for model in self.loaded():
            await model.__aexit__(*exc_info)
        # Whatever became of these, what is known is saved.
        await asyncio.gather(*self.retiring, return_exceptions=True)
        self.opener.shutdown(wait=False)
        await self.save(self.loaded())

    async def load(self) -> None:
        """Loads every model. Raises BundleError, WrongDevice or TooFewCalibrationImages: then nothing must be served."""
        async with self.loading:
            bundles = find_bundles(self.settings.models_dir, self.settings.loaded_versions)
            default = choose_default(bundles, self.settings)
            for name in bundles:
                self.waiting_for = f"{name} is being loaded"
                await self.replace(name, bundles[name])
        self.default = default
        self.waiting_for = None

    async def reload(self, name: str) -> Model:
        """The newest version of a model, in the place of the one before. Raises UnknownModel or ReloadFailed."""
        async with self.loading:
            before = self.models.get(name)
            bundles = await asyncio.to_thread(find_versions, self.settings.models_dir)
            if before is None and name not in bundles:
                raise UnknownModel(f"models_dir has no complete bundle of {name}")
            serving = f"version {max(before)} serves on" if before else "no version of it is loaded"
            try:
                await self.replace(name, highest(bundles.get(name, {}), self.settings.loaded_versions))
            except Exception as exc:
                # Whatever it was, nothing has changed for those who are served.
                log.error("%s was not reloaded, %s: %s", name, serving, exc)
                raise ReloadFailed(f"{exc}; {serving}") from exc
            if before is None:
                try:
                    choose_default(bundles, self.settings)
                except BundleError as exc:
                    log.warning("%s serves now, but the next start would be refused: %s", name, exc)
            return self.models[name][max(self.models[name])]

    async def replace(self, name: str, folders: dict[int, Path]) -> None:
        """Opens a model's versions beside the old ones, then swaps. The highest is always opened anew, the others if they are new or changed."""
        before, served = self.models.get(name, {}), self.served.get(name, {})
        found = self.tried[name] = await asyncio.to_thread(fingerprints, folders)
        opened: Versions = {}
        try:
            if not folders:
                raise BundleError(f"models_dir {self.settings.models_dir} has no complete bundle of {name} any more")
            for version, folder in folders.items():
                if version == max(folders) or found[version] != served.get(version):
                    observe = self.metrics.batch_images.observe
                    model = await asyncio.get_running_loop().run_in_executor(self.opener, open_warm, folder, self.settings, observe)
                    if version in before and before[version].watch.subject == model.watch.subject:
                        # The same promise about the same calibration: the evidence goes on.
                        model.watch = before[version].watch
                    else:
                        await asyncio.to_thread(self.states.restore, model.watch)
                    opened[version] = await model.__aenter__()
        except Exception:
            self.metrics.model_loads.labels(name, "failed").inc()
            for model in opened.values():
                await model.__aexit__()
            raise
        # From here to the end nothing is awaited: a request finds either all the old or all the new.
        self.metrics.model_loads.labels(name, "loaded").inc(len(opened))
        after = {version: opened.get(version) or before[version] for version in folders}
        self.models[name], self.served[name] = after, found
        for version, model in before.items():
            if after.get(version) is not model:
                self.metrics.forget(model)
                task = asyncio.create_task(self.retire(model))
                self.retiring.add(task)
                task.add_done_callback(self.retiring.discard)
        for model in opened.values():
            self.metrics.describe(model)
        self.publish()
        log.info("%s serves version %s", name, ", ".join(map(str, after)))

    async def retire(self, model: Model) -> None:
        """Closes a model once the last request that found it has been answered."""
        while model.users:
            await asyncio.sleep(0.02)
        await model.__aexit__()
        await self.save([model])
        # The last that holds it. A few hundred MB in pieces: without this, memory grows by a quarter with some ten reloads.
        del model
        await asyncio.get_running_loop().run_in_executor(self.opener, give_back)

    async def keep(self) -> None:
        """Keeps what the watches know, for ever."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            self.publish()
            await self.save(self.loaded())

    async def save(self, models: list[Model]) -> None:
        changed = [model.watch for model in models if model.watch.changed]
        states = [watch.state() for watch in changed]
        for watch in changed:
            watch.changed = False
        if not await asyncio.to_thread(self.states.save, states):
            for watch in changed:
                watch.changed = True

    def publish(self) -> None:
        """Brings the gauges up to date that nothing sets while requests are answered."""
        self.metrics.queue_images.set(self.waiting_images())
        for versions in self.models.values():
            self.metrics.publish(list(versions.values()))

    async def reload_all(self) -> None:
        """Every model loaded or on disk. What fails is in the log, and the others go on. While one call waits its turn, others leave it to that."""
        if self.reload_waits:
            return
        self.reload_waits = True
        async with self.reloading:
            self.reload_waits = False
            for name in sorted({*self.models, *await asyncio.to_thread(find_versions, self.settings.models_dir)}):
                with suppress(ReloadFailed, UnknownModel):
                    await self.reload(name)

    async def watch(self) -> None:
        """Loads what is new, for ever. Looks instead of listening: network volumes and ConfigMaps do not tell of changes."""
        before: dict[str, Fingerprints] = {}
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                now = await asyncio.to_thread(look, self.settings)
            except OSError as exc:
                log.warning("models_dir cannot be looked through: %s", exc)
                continue
            for name, found in now.items():
                # Not what is still being copied.
                if found == before.get(name) and found != self.tried.get(name):
                    with suppress(ReloadFailed, UnknownModel):
                        await self.reload(name)
            before = now

    def find(self, name: str | None = None, version: int | None = None) -> Model:
        """The model a request names, of its versions the highest; `with` keeps it open while in use. Raises NotReady or UnknownModel."""
        if self.waiting_for is not None:
            raise NotReady(self.waiting_for)
        versions = self.models.get(name or self.default, {})
        model = versions.get(max(versions, default=0) if version is None else version)
        if model is None:
            wanted = f"{name or self.default} version {version}" if version is not None else name
            loaded = ", ".join(f"{model.name} version {model.version}" for model in self.loaded())
            raise UnknownModel(f"{wanted} is not loaded; loaded: {loaded}")
        return model

    def loaded(self) -> list[Model]:
        return [model for versions in self.models.values() for model in versions.values()]

    def check_alive(self) -> None:
        """Raises DeadBatcher when a model's worker thread has ended."""
        for model in self.loaded():
            if not model.batcher.alive:
                raise DeadBatcher(f"the batcher of {model.name} has ended")

    def waiting_images(self) -> int:
        """Images that wait, over all models."""
        return sum(model.batcher.admission.held for model in self.loaded())

    def all(self) -> list[Model]:
        if self.waiting_for is not None:
            raise NotReady(self.waiting_for)
        return self.loaded()
