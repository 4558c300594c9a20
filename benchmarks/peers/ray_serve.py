"""Ray Serve with its batching: HTTP proxy and one replica."""

import os
import time
from typing import Any

import ray
from peers.graph import GraphOnCpu
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=1024)
class Peer:
    def __init__(self) -> None:
        self.graph = GraphOnCpu()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def answer(self, pictures: list[bytes]) -> list[dict[str, Any]]:
        return self.graph.answer([self.graph.pixels(data) for data in pictures])

    async def __call__(self, request: Request) -> dict[str, Any]:
        return await self.answer(await request.body())


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"], "BUNDLE": os.environ["BUNDLE"]}})
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Peer.bind(), route_prefix="/predict")
    while True:
        time.sleep(60)
