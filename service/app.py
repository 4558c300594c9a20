"""create_app: wiring only."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from service import __version__, errors
from service.context import Context
from service.decoder import Decoder
from service.envelope import Envelope
from service.metrics import Metrics
from service.repository import Repository
from service.routes import health, models, open_inference, predict
from service.runtime import cpu_quota
from service.schemas import Problem
from service.settings import Settings


class Application(FastAPI):
    """FastAPI, with the problem document in its schema."""

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        # No route returns it as a response model, so FastAPI does not list it by itself.
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return schema


def create_app(settings: Settings, on_start_failure: Callable[[BaseException], None]) -> FastAPI:
    """The application. It answers probes at once and loads its models meanwhile.

    on_start_failure: called when they cannot be served; it must end the process.
    """
    metrics = Metrics()

    def report(loading: asyncio.Task[None]) -> None:
        if not loading.cancelled() and (exc := loading.exception()):
            on_start_failure(exc)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Repository(settings, metrics) as repository:
            with Decoder(cpu_quota(), settings.max_image_pixels) as decoder:
                metrics.queue_images.set_function(repository.waiting_images)
                app.state.context = Context(settings, metrics, repository, decoder)
                loading = asyncio.create_task(repository.load())
                loading.add_done_callback(report)
                yield
                loading.cancel()

    app = Application(
        title="oodgate",
        version=__version__,
        summary='An image classifier that knows when to say "I don\'t know"',
        lifespan=lifespan,
        # A redirected upload is sent twice, or not at all.
        redirect_slashes=False,
    )
    app.add_middleware(Envelope, metrics=metrics)
    errors.install(app)
    # Straight to the function: FastAPI's way to it reads parameters and dependencies that this route does not have, and
    # takes a quarter of all that the event loop does for a request. The router's own /predict is there for the schema.
    app.add_route("/predict", predict.predict, methods=["POST"], include_in_schema=False)
    for place in open_inference.PATHS:
        app.add_route(f"/v2{place}/infer", open_inference.infer, methods=["POST"], include_in_schema=False)
    for routes in (predict, models, health, open_inference):
        app.include_router(routes.router)
    return app
