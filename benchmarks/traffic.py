"""Pictures sent to a server at a steady rate, some of which are strangers; every answer is accounted for."""

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx

CALLERS = 4
# One picture in so many is cut short: refusals of broken ones are traffic too. One in so many gets feedback.
BROKEN = 50
TOLD = 10


@dataclass
class Account:
    """What became of the requests. lost: neither answered as it must be nor refused as it must be, by what happened instead."""

    answered: int = 0
    refused: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    by_version: Counter[int] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, tuple[str, bytes]] = field(default_factory=dict)


class Traffic:
    """From when it is entered until it is left. `ood_ratio`, the share of strangers, can be changed meanwhile.

    `account.rejected`: by request id what was sent, `id` or `ood`, and the picture.
    """

    def __init__(self, address: str, pictures: Sequence[bytes], strangers: Sequence[bytes], per_second: float) -> None:
        self.address = address
        self.pictures = pictures
        self.strangers = strangers
        self.per_second = per_second
        self.ood_ratio = 0.0
        self.account = Account()
        self.random = random.Random(0)
        self.lock = threading.Lock()
        self.begun = 0
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.call, daemon=True) for _ in range(CALLERS)]

    def __enter__(self) -> Self:
        self.started = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def call(self) -> None:
        with httpx.Client(base_url=self.address, timeout=60) as client:
            while True:
                with self.lock:
                    number = self.begun
                    self.begun += 1
                if self.stop.wait(max(0.0, self.started + number / self.per_second - time.monotonic())):
                    return
                with self.lock:
                    truth = "ood" if self.random.random() < self.ood_ratio else "id"
                    picture = self.random.choice(self.strangers if truth == "ood" else self.pictures)
                self.ask(client, number, truth, picture)

    def ask(self, client: httpx.Client, number: int, truth: str, picture: bytes) -> None:
        broken = number % BROKEN == BROKEN - 1
        try:
            answer = client.post("/predict", content=picture[:100] if broken else picture)
            if not broken and number % TOLD == 0:
                client.post("/feedback", json={"request_id": answer.headers["X-Request-ID"], "was_ood": truth == "ood"})
        except httpx.HTTPError as exc:
            with self.lock:
                self.account.lost[type(exc).__name__] += 1
            return
        account = self.account
        with self.lock:
            if broken and answer.status_code == 422:
                account.refused += 1
            elif answer.status_code != 200:
                account.lost[str(answer.status_code)] += 1
            else:
                found = answer.json()
                account.answered += 1
                account.sent[truth] += 1
                account.by_version[found["version"]] += 1
                if found["predictions"][0]["ood"]["rejected"]:
                    account.rejected[answer.headers["X-Request-ID"]] = truth, picture
