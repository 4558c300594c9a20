"""GET /models: what is loaded, what it promises, and what was measured of it. POST /models/{name}/reload and /acknowledge."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.context import context_of
from service.errors import documented
from service.keys import key_of
from service.schemas import ModelDetail, ModelList, ModelSummary, MonitorReport

router = APIRouter()


@router.get("/models", response_model=ModelList, responses=documented(401, 503), summary="What is loaded")
async def list_models(request: Request) -> Response:
    repository = context_of(request).repository
    summaries = [model.summary(default=model is repository.find()) for model in repository.all()]
    return Response(ModelList(models=summaries).model_dump_json(), media_type="application/json")


@router.get(
    "/models/{name}",
    response_model=ModelDetail,
    responses=documented(401, 404, 422, 503),
    summary="One model: manifest, evaluation, operating points",
)
async def show_model(request: Request, name: str, version: int | None = None) -> Response:
    repository = context_of(request).repository
    with repository.find(name, version) as model:
        # With a thousand classes that have thresholds of their own these take a second.
        points = await asyncio.to_thread(model.operating_points)
        return Response(model.detail(model is repository.find(), points).model_dump_json(), media_type="application/json")


@router.post(
    "/models/{name}/reload",
    response_model=ModelSummary,
    responses=documented(401, 403, 404, 409, 422, 503),
    summary="Load the newest version beside the old one, check and warm it, then swap; no request fails",
)
async def reload_model(request: Request, name: str) -> Response:
    context = context_of(request)
    context.keys.check_admin(key_of(request.headers), "SIGHUP and --watch reload without a key")
    model = await context.repository.reload(name)
    return Response(model.summary(default=model is context.repository.find()).model_dump_json(), media_type="application/json")


@router.post(
    "/models/{name}/acknowledge",
    response_model=MonitorReport,
    responses=documented(401, 403, 404, 503),
    summary="Take the drift alarm back once its cause is dealt with: the evidence of all loaded versions begins anew",
)
async def acknowledge(request: Request, name: str) -> Response:
    context = context_of(request)
    context.keys.check_admin(key_of(request.headers), "started with an empty state_dir, the evidence begins anew")
    watch = context.repository.find(name).watch
    for version in context.repository.models[name].values():
        version.watch.acknowledge()
    return Response(watch.report().model_dump_json(), media_type="application/json")
