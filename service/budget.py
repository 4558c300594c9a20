"""Which pictures a budget keeps: each draws a random number once, its key, and every window keeps those with the lowest.

So what a window keeps is a uniform sample of all that came, whenever it came, and windows within windows, earlier processes and other servers
agree about it without telling each other anything (bottom-k sampling: Cohen and Kaplan, PODC 2007). Knows nothing of pictures, stores or clocks.
"""

import re
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import chain
from operator import attrgetter
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Kind = Literal["rejected", "control"]
KINDS: tuple[Kind, ...] = ("rejected", "control")
KEYS = 2**64
NAME = re.compile(r"([^/]+)/(\d{4}-\d\d-\d\d)/(rejected|control)/([^/]+)/(\d{6})-([0-9a-f]{16})\.(?:png|json)")
# What a process that was killed left of a file; it goes before any other of its day.
PARTIAL = re.compile(r"([^/]+)/(\d{4}-\d\d-\d\d)/(rejected|control)/([^/]+)/\.partial-[0-9a-f]+")
by_key = attrgetter("key")


class Window(Generic[T]):
    """Holds what came with the lowest keys, at most `size` of them and at most `max_bytes`."""

    def __init__(self, size: int, max_bytes: int) -> None:
        self.size = size
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.left_out = 0
        self.found: dict[int, tuple[T, int]] = {}
        self.highest: list[int] = []

    def takes(self, key: int) -> bool:
        """Whether it would be held; counted where it would not."""
        takes = len(self.highest) < self.size or key < -self.highest[0]
        self.left_out += not takes
        return takes

    def add(self, key: int, item: T, nbytes: int) -> None:
        self.found[key] = item, nbytes
        heappush(self.highest, -key)
        self.nbytes += nbytes
        while len(self.highest) > self.size or self.nbytes > self.max_bytes:
            self.nbytes -= self.found.pop(-heappop(self.highest))[1]
            self.left_out += 1

    def items(self) -> list[T]:
        """By key, ascending."""
        return [self.found[key][0] for key in sorted(self.found)]


# There may be tens of thousands.
@dataclass(frozen=True, slots=True)
class Held:
    """A picture and its sidecar, as their name tells. `day` and `time`: UTC, as 2026-01-31 and 235959."""

    model: str
    day: str
    kind: str
    label: str
    time: str
    key: int
    nbytes: int = 0
    partial: str | None = None

    @property
    def names(self) -> list[str]:
        """The sidecar's first: a picture that is there is complete."""
        stem = f"{self.model}/{self.day}/{self.kind}/{self.label}/{self.time}-{self.key:016x}"
        return [self.partial] if self.partial else [f"{stem}.json", f"{stem}.png"]


def named(groups: tuple[str, ...], nbytes: int) -> Held:
    model, day, kind, label, time, key = groups
    return Held(model, day, kind, label, time, int(key, 16), nbytes)


Shelf = tuple[str, str, str]


class Ledger:
    """What a place holds. Budgets: pictures of a model, day and kind in one class and in all; bytes of everything."""

    def __init__(self, per_class: int, per_day: int, max_bytes: int) -> None:
        self.per_class = per_class
        self.per_day = per_day
        self.max_bytes = max_bytes
        self.nbytes = 0
        # Day, model, kind -> class -> by key, ascending.
        self.shelves: dict[Shelf, dict[str, list[Held]]] = {}

    def read(self, files: Iterable[tuple[str, int]]) -> None:
        """Begins anew with the files that a place has, and their bytes. Those with other names are nobody's business here."""
        self.nbytes = 0
        self.shelves.clear()
        halves: dict[tuple[str, ...], int] = {}
        for name, nbytes in files:
            if match := NAME.fullmatch(name):
                if (other := halves.pop(match.groups(), None)) is None:
                    halves[match.groups()] = nbytes
                else:
                    self.add(named(match.groups(), nbytes + other))
            elif match := PARTIAL.fullmatch(name):
                model, day, kind, label = match.groups()
                self.add(Held(model, day, kind, label, "235959", KEYS, nbytes, name))
        for groups, nbytes in halves.items():
            self.add(named(groups, nbytes))

    def add(self, held: Held) -> None:
        insort(self.shelves.setdefault((held.day, held.model, held.kind), {}).setdefault(held.label, []), held, key=by_key)
        self.nbytes += held.nbytes

    def drop(self, going: Iterable[Held]) -> None:
        for held in going:
            self.shelves[held.day, held.model, held.kind][held.label].remove(held)
            self.nbytes -= held.nbytes

    def room(self, held: Held) -> list[Held] | None:
        """What must go so that this may come. None where it is this that must not."""
        if held.nbytes > self.max_bytes:
            return None
        self.add(held)
        going = self.excess([(held.day, held.model, held.kind)])
        self.drop([held])
        return None if held in going else going

    def excess(self, shelves: Iterable[Shelf] | None = None) -> list[Held]:
        """What must go for the budgets to hold: of these shelves, or of all, and of everything for its bytes."""
        going: list[Held] = []
        for shelf in self.shelves if shelves is None else shelves:
            within: list[Held] = []
            for entries in self.shelves[shelf].values():
                within += entries[: self.per_class]
                going += entries[self.per_class :]
            going += sorted(within, key=by_key)[self.per_day :]
        over = self.nbytes - self.max_bytes - sum(held.nbytes for held in going)
        gone = set(going)
        rest = (held for held in self.last_first() if held not in gone)
        while over > 0:
            going.append(held := next(rest))
            over -= held.nbytes
        return going

    def last_first(self) -> Iterator[Held]:
        """Old days before new ones; within a day by key, so that what stays of it is still a sample of it."""
        for day in sorted({shelf[0] for shelf in self.shelves}):
            of_day = [entries for shelf, labels in self.shelves.items() if shelf[0] == day for entries in labels.values()]
            yield from sorted(chain.from_iterable(of_day), key=by_key, reverse=True)

    def before(self, day: str, time: str) -> list[Held]:
        """What is older."""
        old = [labels for shelf, labels in self.shelves.items() if shelf[0] <= day]
        entries = chain.from_iterable(chain.from_iterable(labels.values()) for labels in old)
        return [held for held in entries if (held.day, held.time) < (day, time)]
