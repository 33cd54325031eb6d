"""What the server can paint with, and what a request may say."""

from typing import Any

from fastapi import APIRouter

from marmo.request import ImageRequest
from marmo.serve.context import Caller, Here
from marmo.serve.routes.answers import answers
from marmo.serve.views import ModelList, ModelView, UserView

router = APIRouter(prefix="/api/v1", tags=["models"], responses=answers(401, 403))


@router.get("/models")
async def models(here: Here) -> ModelList:
    """The models, the default first, then those that only enlarge; empty until the worker is ready."""
    return ModelList(items=[ModelView.of(model) for model in (*here.jobs.models, *here.jobs.upscalers)])


@router.get("/schema")
async def schema() -> dict[str, Any]:
    """The JSON Schema of `ImageRequest`, from which a form can be drawn."""
    return ImageRequest.model_json_schema()


@router.get("/user")
async def user(caller: Caller) -> UserView:
    """Who the caller is here."""
    return UserView(name=caller.name, scope=caller.scope)
