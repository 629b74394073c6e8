"""The pages for people. Their addresses are relative: the hub may stand behind any path."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from cluster.estimation.shares import CONFIDENCE

_PAGES = Path(__file__).parent.parent / "pages"
_TEMPLATES = Jinja2Templates(directory=_PAGES / "templates")

router = APIRouter(tags=["pages"])


def static_files() -> StaticFiles:
    """Return the application that serves style, script and chart library of the pages."""
    return StaticFiles(directory=_PAGES / "static")


@router.get("/docs", include_in_schema=False)
def docs() -> HTMLResponse:
    """Show the description of the API."""
    return get_swagger_ui_html(openapi_url="openapi.json", title="binsight hub")


@router.get("/", response_class=HTMLResponse)
def index(request: Request) -> HTMLResponse:
    """Show the statistics to people."""
    return _TEMPLATES.TemplateResponse(
        request, "index.html", {"confidence": f"{100 * CONFIDENCE:.0f} %"}
    )
