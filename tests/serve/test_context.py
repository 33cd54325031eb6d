"""What dialects rest on: a job that somebody waits for ends when that somebody goes away."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from marmo.request import Hires, ImageRequest, Refiner, Upscale
from marmo.serve.context import Caller, Dialect, Here, finished, followed, hand_in
from marmo.serve.contract import LATENT_UPSCALER
from marmo.serve.problems import Problem
from marmo.serve.tokens import User
from tests.serve.serving import Served, served
from tests.serve.test_events import Reader
from tests.serve.toy_engine import ToyEngine, toy_model, toy_picture, toy_upscaler

router = APIRouter(prefix="/sync")


@router.get("/picture/{prompt}")
async def picture(prompt: str, here: Here, caller: Caller, http: Request) -> dict[str, Any]:
    job = await finished(here, http, await hand_in(here, caller, ImageRequest(prompt=prompt), priority=1))
    return {"images": job.images}


@router.get("/stream/{prompt}")
async def stream(prompt: str, here: Here, caller: Caller) -> StreamingResponse:
    job = await hand_in(here, caller, ImageRequest(prompt=prompt))

    async def kinds() -> AsyncIterator[bytes]:
        async for event in followed(here, job):
            yield event.kind.encode() + b"\n"

    return StreamingResponse(kinds())


def envelope(problem: Problem) -> dict[str, object]:
    return {"oh": problem.code}


ANN = User("ann", "generate")
START = toy_picture(ImageRequest(seed=7), 0)
SYNC = Dialect("sync", "/sync/", router, envelope)


async def only_job(server: Served, state: str) -> str:
    """The id of the one job, when it has this state."""
    while True:
        items = (await server.get("/api/v1/jobs")).json()["items"]
        if items and items[0]["state"] == state:
            return items[0]["id"]
        await asyncio.sleep(0.005)


def test_who_waits_gets_the_pictures(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, speaking=[SYNC]) as server:
            assert len((await server.get("/sync/picture/fox")).json()["images"]) == 1
            failed = await server.get("/sync/picture/fail")
            assert (failed.status, json.loads(failed.body)) == (422, {"oh": "request"})
            assert failed.headers["x-should-retry"] == "false"

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("path", ["/sync/picture/hang", "/sync/stream/hang"])
def test_who_goes_away_cancels(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        async with served(tmp_path, speaking=[SYNC]) as server:
            reader = Reader(server, path)
            await only_job(server, "running")
            reader.gone.set()
            await only_job(server, "cancelled")
            await asyncio.wait_for(reader.task, 10)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_job_that_is_cancelled_elsewhere_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, speaking=[SYNC]) as server:
            waiting = asyncio.ensure_future(server.get("/sync/picture/hang"))
            await server.jobs.cancel(await only_job(server, "running"))
            assert (await waiting).status == 410

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("parks", [False, True])
def test_when_the_server_closes_who_waits_is_told(tmp_path: Path, parks: bool) -> None:
    async def main() -> None:
        async with served(tmp_path, speaking=[SYNC]) as server:
            waiting = asyncio.ensure_future(server.get("/sync/picture/hang"))
            job = await only_job(server, "running")
            if parks:
                await server.jobs.drain(0)
            else:
                server.context.closing.set()
            answer = await waiting
            assert answer.status == 503 and 1 <= int(answer.headers["retry-after"]) <= 120
            while not (await server.jobs.get(job)).ended:
                await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_stream_that_is_read_to_its_end_cancels_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine(step_seconds=0.002), speaking=[SYNC]) as server:
            reader = Reader(server, "/sync/stream/fox")
            said = b""
            while (part := await asyncio.wait_for(reader.parts.get(), 10)) is not None:
                said += part
            assert said.split()[-1] == b"succeeded"
            await only_job(server, "succeeded")

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize(
    ("place", "fitting"),
    [("hires", {"doubler", "larger"}), ("refiner", {"toy", "other", "doubler"}), ("upscale", {"larger"})],
)
def test_a_second_model_must_be_of_use_where_it_is_named(tmp_path: Path, place: str, fitting: set[str]) -> None:
    doubler = replace(toy_model("doubler"), family=LATENT_UPSCALER)
    models = (toy_model(), toy_model("other"), doubler, toy_upscaler("larger", "Larger", 4))
    asked = {
        "hires": lambda id: ImageRequest(prompt="a fox", hires=Hires(scale=2, model=id)),
        "refiner": lambda id: ImageRequest(prompt="a fox", refiner=Refiner(model=id)),
        "upscale": lambda id: ImageRequest(model="larger", init_image=START, upscale=Upscale(model=id)),
    }[place]

    async def main() -> None:
        async with served(tmp_path, engine=ToyEngine(models)) as server:
            for model in models:
                if model.id in fitting:
                    assert (await hand_in(server.context, ANN, asked(model.id))).state == "queued"
                    continue
                with pytest.raises(Problem, match=f"{place}.model must be a model that") as refused:
                    await hand_in(server.context, ANN, asked(model.id))
                assert (refused.value.status, refused.value.code) == (422, "model_unknown")

    asyncio.run(asyncio.wait_for(main(), 30))
