"""schemathesis reads /openapi.json and tries what it allows and what it forbids: no 5xx but 503 and 507.

One route of AUTOMATIC1111 exists to say that it does nothing here, with a 501 that `docs/dialects.md` names.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.serve.serving import DIALECTS, served
from tests.serve.test_server import Process, running

LEFT_OUT = ["/api/v1/jobs/{job}/events"]
"""A stream; `test_events.py` has it."""
NATIVE = "^/(api/|healthz|readyz|metrics)"
PARTS = {
    "jobs": "^/api/v1/jobs",
    "images": "^/api/v1/(images|boards)",
    "the rest of the native routes": "^/(api/v1/(models|schema|user|session)|healthz|readyz|metrics)",
    "OpenAI and Hugging Face": "^/(v1|models)/",
    "A1111, painting": "^/sdapi/v1/(txt2img|img2img|extra-)",
    "A1111, the rest": "^/(sdapi/v1/(?!txt2img|img2img|extra-)|internal/)",
}
"""All routes, so that a campaign ends in pieces."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Process]:
    with running(tmp_path_factory.mktemp("fuzzed"), "0.001", "1") as process:
        process.ask("GET", "/openapi.json")  # made once, which may outlast schemathesis' patience on a busy machine
        yield process


def fuzz(server: Process, paths: str, phases: str, examples: int, folder: Path) -> str:
    """What schemathesis says; `AssertionError` if anything came out that must not."""
    hook = folder / "hooks.py"
    hook.write_text(HOOKS)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json",
        "--checks", "only_specified_5xx,response_schema_conformance,content_type_conformance",
        "--phases", phases, "--max-examples", str(examples), "--seed", "7", "--no-color",
        "--include-path-regex", paths, "--exclude-path", LEFT_OUT[0],
        "--generation-database", "none", "--request-timeout", "30",
    ]  # fmt: skip
    environment = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=7000)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


HOOKS = '''
"""A check of our own: 503 and 507 are specified, every other 5xx is a fault."""

import schemathesis

SAYS_NO = {"/sdapi/v1/interrogate"}


@schemathesis.check
def only_specified_5xx(ctx, response, case):
    specified = {503, 507} | ({501} if case.path in SAYS_NO else set())
    if response.status_code >= 500 and response.status_code not in specified:
        raise AssertionError(f"{case.method} {case.path} answered {response.status_code}")
'''


@pytest.mark.long
def test_no_5xx_and_answers_as_described(server: Process, tmp_path: Path) -> None:
    said = fuzz(server, NATIVE, "fuzzing", 3, tmp_path)  # the dialects have a test of their own
    assert "passed" in said
    assert server.ask("GET", "/healthz") == (200, b"ok\n")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", PARTS)
def test_no_5xx_with_many_examples(server: Process, tmp_path: Path, part: str) -> None:
    fuzz(server, PARTS[part], "coverage,fuzzing,stateful", 300, tmp_path)


def test_every_route_describes_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, speaking=DIALECTS) as server:
            described = (await server.get("/openapi.json")).json()
            for path in described["paths"]:
                assert sum(re.search(part, path) is not None for part in PARTS.values()) == 1, path
            for path, methods in described["paths"].items():
                for method, route in methods.items():
                    assert route["description"], (method, path)
                    assert "HTTPValidationError" not in json.dumps(route), (method, path)

    asyncio.run(main())
