"""What the native routes answer with, as JSON; the OpenAPI document is made from these classes."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from marmo.request import Defaults, ImageRequest
from marmo.request_parts import Schema
from marmo.serve.contract import Model
from marmo.serve.job import Job, State, StoredImage

UnixTime = Annotated[float, Field(description="Seconds since 1970")]


class JobView(BaseModel):
    """A job as its owner sees it."""

    id: str
    owner: str
    state: State
    request: ImageRequest = Field(description="Resolved, without the pictures inside it")
    inputs: dict[str, str] = Field(description="Place in the request -> sha256 of the picture that was there")
    priority: int
    attempt: int = Field(description="How often it was begun")
    crashes: int = Field(description="How often it was in hand when a worker died; the third is its last")
    created: UnixTime
    started: UnixTime | None
    finished: UnixTime | None
    images: list[str] = Field(description="Ids of its pictures, in order")
    notes: list[str]
    code: str | None = Field(description="Why it failed: request, model, memory, internal or crash")
    message: str | None
    position: int | None = Field(description="How many jobs are before it, while it is queued")
    seconds_left: float | None
    stage: str | None
    step: int = Field(description="Steps behind it")
    steps: int = Field(description="Steps in all; 0 before the first is done")

    @classmethod
    def of(cls, job: Job) -> "JobView":
        """Nothing is validated again: what comes from the journal went in through `ImageRequest`."""
        return cls.model_construct(
            **{name: getattr(job, name) for name in cls.model_fields if name not in ("images", "notes", "inputs")},
            images=list(job.images),
            notes=list(job.notes),
            inputs=dict(job.inputs),
        )


class ImageView(BaseModel):
    """A finished picture; its file, thumbnail and record lie below its own address."""

    id: str
    sha256: str
    job: str
    index: int = Field(description="Which of its job's pictures it is, from 0")
    owner: str
    size: int = Field(description="Bytes of the file")
    width: int
    height: int
    created: UnixTime
    prompt: str
    model: str
    seed: int = Field(description="This picture's own")
    starred: bool
    board: str | None
    deleted: UnixTime | None = Field(description="Since when it is in the trash")

    @classmethod
    def of(cls, image: StoredImage) -> "ImageView":
        return cls.model_construct(**{name: getattr(image, name) for name in cls.model_fields})


class JobPage(BaseModel):
    """A part of a list, the newest first."""

    items: list[JobView]
    next: str | None = Field(description="Give it as `after` for the part behind this one; null at the end")


class ImagePage(BaseModel):
    """A part of a list, the newest first."""

    items: list[ImageView]
    next: str | None = Field(description="Give it as `after` for the part behind this one; null at the end")


class ModelView(BaseModel):
    """A model that the server paints with."""

    id: str = Field(description="What a request names")
    title: str
    family: str
    sha256: str
    licence: str | None
    defaults: Defaults

    @classmethod
    def of(cls, model: Model) -> "ModelView":
        return cls.model_construct(**{name: getattr(model, name) for name in cls.model_fields})


class ModelList(BaseModel):
    items: list[ModelView] = Field(description="The first is the default")


class Marks(Schema):
    """A change of a picture's star or board; what is left out stays."""

    starred: bool | None = Field(default=None, description="Whether it has a star")
    board: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="The board that it is on; null takes it off"
    )

    @property
    def new_board(self) -> str | Literal[False] | None:
        """As `Jobs.mark` takes it."""
        return self.board or (False if "board" in self.model_fields_set else None)


class BoardList(BaseModel):
    boards: dict[str, int] = Field(description="Board -> pictures outside the trash")


class UserView(BaseModel):
    """Who the caller is here."""

    name: str
    scope: Literal["read", "generate", "admin"]


class Login(Schema):
    """A token, in exchange for a cookie."""

    token: str = Field(min_length=1, max_length=1000)


class HealthView(BaseModel):
    ready: bool
    reasons: list[str] = Field(description="Why not")


class ErrorDetail(BaseModel, extra="allow"):
    code: str = Field(description="Stable, for programs")
    message: str = Field(description="One sentence for people")


class ErrorView(BaseModel):
    """Every error of the native routes."""

    error: ErrorDetail
