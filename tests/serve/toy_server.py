"""A whole server process with a toy engine: `python -m tests.serve.toy_server FOLDER [STEP_SECONDS] [DRAIN] [HEADERS]`.

Prints its port.  Ends as `marmo serve` ends.
"""

import asyncio
import sys
from pathlib import Path

from marmo.serve.app import create_app
from marmo.serve.context import Context
from marmo.serve.dialects.offered import dialects
from marmo.serve.jobs import Jobs, Limits
from marmo.serve.logs import Log
from marmo.serve.server import listen, raise_file_limit, run
from marmo.serve.settings import Patience, Settings
from tests.serve.toy_engine import ToyEngine


def main(folder: str, step: str = "0.02", drain: str = "20", headers: str = "10") -> None:
    raise_file_limit()
    patience = Patience(drain=float(drain), headers=float(headers), body=float(headers), heartbeat=0.2)
    jobs = Jobs(Path(folder), ToyEngine(step_seconds=float(step), at_once=4), Limits(reserve=1 << 16))
    context = Context(jobs=jobs, settings=Settings(patience=patience), log=Log(sys.stderr))
    with listen("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        asyncio.run(run(create_app(context, dialects()), context, listener))
    assert "torch" not in sys.modules, "a server needs no torch"


if __name__ == "__main__":
    main(*sys.argv[1:])
