"""BentoML with its adaptive batching. It reads JSON or forms, so the picture comes as a form's file."""

from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType
from peers.graph import GraphOnCpu


@bentoml.service(workers=1, traffic={"timeout": 60, "max_concurrency": 1024})
class Peer:
    def __init__(self) -> None:
        self.graph = GraphOnCpu()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=60_000, route="/predict")
    def predict(self, picture: list[Annotated[Path, ContentType("image/png")]]) -> list[dict[str, Any]]:
        return self.graph.answer([self.graph.pixels(path.read_bytes()) for path in picture])
