"""GET /models: what is loaded, what it promises, and what was measured of it."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.context import context_of
from service.errors import documented
from service.schemas import ModelDetail, ModelList

router = APIRouter()


@router.get("/models", response_model=ModelList, responses=documented(503), summary="What is loaded")
async def list_models(request: Request) -> Response:
    repository = context_of(request).repository
    summaries = [model.summary(default=model.name == repository.default) for model in repository.all()]
    return Response(ModelList(models=summaries).model_dump_json(), media_type="application/json")


@router.get(
    "/models/{name}", response_model=ModelDetail, responses=documented(404, 422, 503), summary="One model: manifest, evaluation, operating points"
)
async def show_model(request: Request, name: str) -> Response:
    repository = context_of(request).repository
    model = repository.find(name)
    return Response(model.detail(default=name == repository.default).model_dump_json(), media_type="application/json")
