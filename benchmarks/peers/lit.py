"""LitServe with its batching, and the queue that its documentation advises above 100 requests a second.

It reads JSON or forms, not a raw body, so the picture comes as a form's file.
"""

import os
from typing import Any

import litserve
from fastapi import Request
from peers.graph import GraphOnCpu


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 -- LitServe's signature
        self.graph = GraphOnCpu()

    def decode_request(self, request: Request) -> Any:
        return self.graph.pixels(request["file"].file.read())

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, rows: list[Any]) -> list[dict[str, Any]]:
        return self.graph.answer(rows)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Api(max_batch_size=32, batch_timeout=0.002), accelerator="cpu", timeout=60, fast_queue=True)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, num_api_servers=1)
