"""A token in exchange for a cookie, so that a page need not keep the token."""

import time

from fastapi import APIRouter, Request, Response

from marmo.serve.context import Here
from marmo.serve.problems import Problem
from marmo.serve.routes.answers import answers
from marmo.serve.tokens import COOKIE, SESSION_SECONDS
from marmo.serve.views import Login, UserView

router = APIRouter(prefix="/api/v1/session", tags=["session"], responses=answers(413, 415, 422))


@router.post("", responses=answers(401))
async def enter(login: Login, here: Here, request: Request, response: Response) -> UserView:
    """Sets a cookie that scripts cannot read and that no other site's page sends along; needs no token but its own."""
    tokens = here.settings.tokens
    user = tokens.with_token(login.token)
    if user is None:
        raise Problem(401, "token_wrong", "nobody here has this token", {"WWW-Authenticate": 'Bearer realm="marmo"'})
    response.set_cookie(
        COOKIE,
        tokens.session(user, time.time()),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.headers.get("origin", "").startswith("https:"),  # a proxy may speak TLS for us
    )
    return UserView(name=user.name, scope=user.scope)


@router.delete("", status_code=204)
async def leave(response: Response) -> None:
    """Takes the cookie away."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
