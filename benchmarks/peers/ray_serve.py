"""Ray Serve with its batching, HAProxy and direct ingress, as its documentation advises for throughput, and one replica."""

import os
import time
from typing import Any

from peers.graph import GraphOnCpu
from starlette.requests import Request

# Read when ray is imported, here and in the processes that it starts. The last one is for machines on which its proxy starts slowly.
os.environ |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}

import ray
from ray import serve


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
