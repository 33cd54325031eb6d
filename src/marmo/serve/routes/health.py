"""Whether the server lives, whether it would take a job, and its numbers for Prometheus."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from marmo.serve.context import Here
from marmo.serve.routes.answers import answers
from marmo.serve.views import HealthView

router = APIRouter(tags=["health"])


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """The process answers; needs no token."""
    return "ok\n"


@router.get("/readyz", responses={503: {"model": HealthView}})
async def readyz(here: Here, response: Response) -> HealthView:
    """Whether a job would be taken now; needs no token."""
    health = here.jobs.health()
    if not health.ready:
        response.status_code = 503
        response.headers["Retry-After"] = "5"
    return HealthView(ready=health.ready, reasons=list(health.reasons))


@router.get("/metrics", response_class=PlainTextResponse, responses=answers(401, 403))
async def metrics(here: Here) -> PlainTextResponse:
    """Counters and gauges in Prometheus' text format."""
    return PlainTextResponse(here.metrics.text(here.jobs.metrics()), media_type="text/plain; version=0.0.4")
