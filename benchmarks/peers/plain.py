"""What most people write: FastAPI, one inference per request in its thread pool, `uvicorn --workers 2`."""

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from peers.graph import GraphOnCpu

app = FastAPI()
graph = GraphOnCpu(threads=1)


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    data = await request.body()
    return await run_in_threadpool(lambda: graph.answer([graph.pixels(data)])[0])


@app.get("/health")
async def health() -> dict[str, str]:
    return {}
