"""The folder in which watches outlive the process: one file each, replaced whole."""

import fcntl
import logging
import os
import threading
from pathlib import Path

from pydantic import ValidationError

from service.settings import WrongSetting
from service.watch import Watch, WatchState

log = logging.getLogger(__name__)


class States:
    """Holds the folder for this process alone until it is closed. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        """Raises WrongSetting for a folder that cannot be used, or that another process uses: each would undo what the other writes."""
        self.folder = folder
        self.lock: int | None = None
        self.failure: str | None = None
        self.writing = threading.Lock()
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise WrongSetting(f"setting state_dir is {str(folder)!r}: another server uses it, and each needs a folder of its own") from None
        except OSError as exc:
            self.close()
            raise WrongSetting(f"setting state_dir is {str(folder)!r}: {exc.strerror}") from None

    def close(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def restore(self, watch: Watch) -> None:
        """What was known of the same subject before, if anything. A file that cannot be used is said, and set aside."""
        if self.folder is None:
            return
        path = self.folder / watch.subject.file
        try:
            state = WatchState.model_validate_json(path.read_bytes())
            if state.subject != watch.subject:
                raise ValueError(f"it is about {state.subject}")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            reason = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()) if isinstance(exc, ValidationError) else exc
            aside = path.with_name(f"{path.name}.damaged")
            log.error("state file %s is damaged and now called %s; its alarm, prevalence and feedback begin anew: %s", path, aside.name, reason)
            path.replace(aside)
            return
        watch.restore(state)

    def save(self, states: list[WatchState]) -> bool:
        """Old or new content whenever the process or the machine dies. False where it could not be written, which is said once."""
        if self.folder is None:
            return True
        with self.writing:
            self.write(self.folder, states)
            return self.failure is None

    def write(self, folder: Path, states: list[WatchState]) -> None:
        try:
            for state in states:
                path = folder / state.subject.file
                scratch = path.with_name(f"{path.name}.new")
                with scratch.open("w") as file:
                    file.write(state.model_dump_json())
                    file.flush()
                    os.fsync(file.fileno())
                scratch.replace(path)
            self.failure = None
        except OSError as exc:
            if self.failure != str(exc):
                log.error("state_dir cannot be written, the alarm's evidence will not outlive this process: %s", exc)
            self.failure = str(exc)
