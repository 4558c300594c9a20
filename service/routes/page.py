"""GET /: a page that asks this server about pictures, as any client would. GET /docs: Swagger UI. Neither loads anything from elsewhere."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, Response

router = APIRouter()
PAGE = Path(__file__).parent.parent / "page"
# FastAPI's own /docs asks a content delivery network for these two.
SWAGGER_UI = Path(str(files("fastapi_swagger.resources")))
FILES = {
    "/": PAGE / "index.html",
    "/page.css": PAGE / "page.css",
    "/page.js": PAGE / "page.js",
    "/docs/swagger-ui.css": SWAGGER_UI / "swagger-ui.css",
    "/docs/swagger-ui-bundle.js": SWAGGER_UI / "swagger-ui-bundle.js",
}
POLICY = "default-src 'none'; connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
# A script in Swagger UI's page begins it, and it writes styles.
DOCS_POLICY = POLICY + "script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"


def headers(policy: str) -> dict[str, str]:
    return {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}


def serve(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:  # noqa: ARG001, starlette asks for it
        return FileResponse(file, headers=headers(POLICY + "script-src 'self'; style-src 'self'"))

    return answer


async def docs(request: Request) -> Response:  # noqa: ARG001, starlette asks for it
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="oodgate",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )
    page.headers.update(headers(DOCS_POLICY))
    return page


for path, file in FILES.items():
    router.add_route(path, serve(file), include_in_schema=False)
router.add_route("/docs", docs, include_in_schema=False)
