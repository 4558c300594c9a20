"""GET /: a page that asks this server about pictures, as any client would. It loads nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

router = APIRouter()
FOLDER = Path(__file__).parent.parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(FOLDER / "index.html", headers=HEADERS)


@router.get("/page.css", include_in_schema=False)
async def style() -> FileResponse:
    return FileResponse(FOLDER / "page.css", headers=HEADERS)


@router.get("/page.js", include_in_schema=False)
async def script() -> FileResponse:
    return FileResponse(FOLDER / "page.js", headers=HEADERS)
