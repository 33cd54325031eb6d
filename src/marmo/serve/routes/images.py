"""Finished pictures: the gallery, its trash, stars and boards.  A picture is asked for by its id and nothing else."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from marmo.request import MAX_SEED, MAX_SIDE
from marmo.serve.context import Caller, Here, sees
from marmo.serve.job import ImageQuery
from marmo.serve.routes.answers import Identifier, answers, refused
from marmo.serve.views import BoardList, ImagePage, ImageView, Marks

router = APIRouter(prefix="/api/v1", tags=["images"], responses=answers(401, 403, 404, 422))

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""An id always means the same bytes."""


@router.get("/images")
async def find(
    here: Here,
    caller: Caller,
    job: Annotated[str | None, Query(max_length=64)] = None,
    text: Annotated[str | None, Query(max_length=200, description="A part of the prompt")] = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
    seed: Annotated[int | None, Query(ge=0, le=MAX_SEED)] = None,
    width: Annotated[int | None, Query(ge=1, le=MAX_SIDE)] = None,
    height: Annotated[int | None, Query(ge=1, le=MAX_SIDE)] = None,
    starred: Annotated[bool | None, Query()] = None,
    board: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    trashed: Annotated[bool, Query(description="What is in the trash, instead of what is not")] = False,
    after: Annotated[str | None, Query(max_length=200, description="`next` of an earlier page")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ImagePage:
    """Your pictures, the newest first; an admin sees everybody's."""
    query = ImageQuery(
        owner=sees(caller),
        job=job,
        text=text,
        model=model,
        seed=seed,
        width=width,
        height=height,
        starred=starred,
        board=board,
        trashed=trashed,
    )
    with refused():
        page = await here.jobs.find_images(query, after, limit)
    return ImagePage(items=[ImageView.of(image) for image in page.items], next=page.next)


@router.get("/images/{image}")
async def get(image: Identifier, here: Here, caller: Caller) -> ImageView:
    """What the gallery knows of one picture."""
    return ImageView.of(await here.jobs.image(image, sees(caller)))


@router.get("/images/{image}/file", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def file(image: Identifier, here: Here, caller: Caller) -> Response:
    """The PNG file, with its record inside."""
    data = await here.jobs.picture(image, sees(caller))
    name = {"Content-Disposition": f'inline; filename="{image}.png"'}
    return Response(data, media_type="image/png", headers={**FOREVER, **name})


@router.get("/images/{image}/thumbnail", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
async def thumbnail(image: Identifier, here: Here, caller: Caller) -> Response:
    """A small WebP file."""
    return Response(await here.jobs.thumbnail(image, sees(caller)), media_type="image/webp", headers=FOREVER)


@router.get("/images/{image}/record", response_class=Response, responses={200: {"content": {"application/json": {}}}})
async def record(image: Identifier, here: Here, caller: Caller) -> Response:
    """What the picture says about itself: enough to paint it again."""
    found = await here.jobs.record(image, sees(caller))
    return Response(found.to_json(), media_type="application/json", headers=FOREVER)


@router.patch("/images/{image}", responses=answers(413, 415))
async def mark(image: Identifier, marks: Marks, here: Here, caller: Caller) -> ImageView:
    """Give or take a star; put it on a board or off."""
    return ImageView.of(await here.jobs.mark(image, sees(caller), marks.starred, marks.new_board))


@router.delete("/images/{image}")
async def trash(image: Identifier, here: Here, caller: Caller) -> ImageView:
    """Into the trash, from where it goes for good after 30 days."""
    return ImageView.of(await here.jobs.trash(image, sees(caller)))


@router.post("/images/{image}/restore")
async def restore(image: Identifier, here: Here, caller: Caller) -> ImageView:
    """Out of the trash again."""
    return ImageView.of(await here.jobs.restore(image, sees(caller)))


@router.get("/boards")
async def boards(here: Here, caller: Caller) -> BoardList:
    """The boards, and how many pictures are on each."""
    return BoardList(boards=dict(await here.jobs.boards(sees(caller))))
