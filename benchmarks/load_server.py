"""The server that `benchmarks.load` measures: `marmo serve` with one more route, which only echoes.

    python -m benchmarks.load_server MODEL FOLDER WAITING

The echo passes the same socket, doors, parser and answer as a job and reaches no queue: what a submission costs beyond
it is the queue's share.  Prints its port and the number of its process.
"""

import asyncio
import os
import sys
from pathlib import Path

from fastapi import APIRouter

from marmo.request import ImageRequest
from marmo.serve.app import create_app
from marmo.serve.context import Context, Dialect
from marmo.serve.dialects.offered import dialects
from marmo.serve.engine import LocalEngine
from marmo.serve.jobs import Jobs, Limits
from marmo.serve.logs import Log
from marmo.serve.messages import Setup
from marmo.serve.problems import native
from marmo.serve.server import listen, raise_file_limit, run
from marmo.serve.settings import Patience, Settings

router = APIRouter()
ECHO = Dialect("echo", "/echo", router, native)


@router.post("/echo", status_code=202)
async def echo(request: ImageRequest) -> ImageRequest:
    """What was sent."""
    return request


def main(model: str, folder: str, waiting: str) -> None:
    """Serve until a signal comes."""
    raise_file_limit()
    limits = Limits(waiting=int(waiting), per_owner=int(waiting), reserve=1 << 20)
    jobs = Jobs(Path(folder), LocalEngine(Setup(models=(("stand-in", model),), device="cpu", threads=1)), limits)
    context = Context(jobs=jobs, settings=Settings(patience=Patience(drain=1.0)), log=Log(None))
    with listen("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], os.getpid(), flush=True)
        asyncio.run(run(create_app(context, [*dialects(), ECHO]), context, listener))


if __name__ == "__main__":
    main(*sys.argv[1:])
