"""Several servers on one machine that are scraped as one: prometheus_client's multi-process mode, on where PROMETHEUS_MULTIPROC_DIR is set."""

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from service.settings import WrongSetting

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def shared() -> bool:
    return VARIABLE in os.environ


def join() -> None:
    """Makes the folder, and takes back what dead processes still claim of the present. Raises WrongSetting."""
    if not shared():
        return
    folder = Path(os.environ[VARIABLE])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
    except OSError as exc:
        raise WrongSetting(f"environment variable {VARIABLE} is {str(folder)!r}: {exc.strerror}") from None
    for file in folder.glob("gauge_live*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        # Its own number too: that of a process before it, in a container that was started again.
        if found and (int(found[1]) == os.getpid() or not Path(f"/proc/{found[1]}").exists()):
            mark_process_dead(int(found[1]))  # type: ignore[no-untyped-call]


def leave() -> None:
    """What this process counted stays; what it said of the present goes with it."""
    if shared():
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


def everyones() -> CollectorRegistry:
    """The series of all processes, summed."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
