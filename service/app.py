"""create_app: wiring only."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, nullcontext
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__, errors
from service.admission import Bodies
from service.capture import open_capture
from service.context import Context, Drain
from service.decoder import Decoder
from service.envelope import Envelope
from service.feedback import Recent
from service.keys import Guard, Keys
from service.metrics import Metrics
from service.repository import Repository
from service.routes import feedback, health, models, open_inference, page, predict
from service.runtime import cpu_quota
from service.schemas import Problem
from service.settings import Settings
from service.states import States
from service.tracing import open_tracer
from service.watch import Watch

PREDICT = Route("/predict", predict.predict, methods=["POST"])


class Application(FastAPI):
    """FastAPI, with the problem document in its schema, and with a shorter way to what most requests ask for."""

    direct: ASGIApp
    context: Context
    # As FastAPI's own `routes` were before it kept each router in one piece.
    every_route: list[BaseRoute]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A prediction passes by the router and by FastAPI's own middleware, which would take as long as all else on the event loop."""
        if scope["type"] == "http" and scope["path"] == "/predict" and scope["method"] == "POST":
            scope["app"], scope["route"] = self, PREDICT
            await self.direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        # No route returns it as a response model, so FastAPI does not list it by itself.
        schema["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        # The empty one: where the operator configures no keys, none is needed.
        schema["security"] = [{}, {"bearer": []}, {"header": []}]
        return schema


def create_app(settings: Settings, on_start_failure: Callable[[BaseException], None]) -> Application:
    """The application. It answers probes at once and loads its models meanwhile.

    on_start_failure: called when they cannot be served; it must end the process. Raises WrongSetting for a file of keys, a state_dir
    or a capture_dir that is no good.
    """
    metrics, keys, drain, tracer = Metrics(), Keys(settings), Drain(), open_tracer()
    bodies = Bodies(settings.max_bodies_bytes or max(2**28, settings.max_body_bytes))
    capture, states = open_capture(settings, metrics), States(settings.state_dir)

    async def work(repository: Repository) -> None:
        await repository.load()
        await asyncio.gather(repository.keep(), *([repository.watch()] if settings.watch else []))

    def report(working: asyncio.Task[None]) -> None:
        if not working.cancelled() and (exc := working.exception()):
            on_start_failure(exc)

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[None]:
        with closing(states):
            async with capture or nullcontext(), Repository(settings, metrics, states) as repository:
                with Decoder(cpu_quota(), settings.max_image_pixels) as decoder:
                    recent: Recent[Watch] = Recent(settings.feedback_requests)
                    app.context = Context(settings, metrics, repository, decoder, keys, drain, bodies, recent, capture)
                    working = asyncio.create_task(work(repository))
                    working.add_done_callback(report)
                    yield
                    working.cancel()
        if tracer is not None:
            await asyncio.to_thread(tracer.close)

    app = Application(
        title="oodgate",
        version=__version__,
        summary='An image classifier that knows when to say "I don\'t know"',
        lifespan=lifespan,
        # Both would ask a content delivery network; `page` has the first.
        docs_url=None,
        redoc_url=None,
        # A redirected upload is sent twice, or not at all.
        redirect_slashes=False,
    )
    app.state.drain = drain
    app.add_middleware(Guard, keys=keys)
    app.add_middleware(Envelope, metrics=metrics, drain=drain, bodies=bodies, tracer=tracer)
    app.direct = Envelope(Guard(predict.serve, keys), metrics, drain, bodies, tracer)
    errors.install(app)
    # FastAPI's own way to a function reads parameters and dependencies that these routes do not have; its router's /predict is there for the schema.
    for place in open_inference.PATHS:
        app.add_route(f"/v2{place}/infer", open_inference.infer, methods=["POST"], include_in_schema=False)
    app.every_route = list(app.routes)
    for routes in (predict, feedback, models, health, open_inference, page):
        app.every_route += routes.router.routes
        app.include_router(routes.router)
    return app
