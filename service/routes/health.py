"""Probes and metrics: GET /livez, /readyz, /metrics."""

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from service.context import context_of
from service.errors import documented
from service.schemas import Health

router = APIRouter()
ALIVE = Response(Health(status="alive").model_dump_json(), media_type="application/json")
READY = Response(Health(status="ready").model_dump_json(), media_type="application/json")


# HEAD too, which some load balancers send.
@router.head("/livez", include_in_schema=False)
@router.get("/livez", response_model=Health, responses=documented(500), summary="Does the process answer? Never waits for a model")
async def livez(request: Request) -> Response:
    context_of(request).repository.check_alive()
    return ALIVE


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz", response_model=Health, responses=documented(503), summary="Is every model loaded, checked and warm, and the server not about to stop?"
)
async def readyz(request: Request) -> Response:
    context_of(request).check_ready()
    return READY


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_PLAIN_0_0_4: {}}}}, summary="Prometheus")
async def metrics(request: Request) -> Response:
    context = context_of(request)
    context.repository.publish()
    # With many classes this takes tens of milliseconds.
    body = await asyncio.to_thread(context.metrics.render)
    return Response(body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
