"""schemathesis over what the dialects say of themselves: any body gets an answer, and no 5xx but those described."""

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import requests

from tests.serve.dialects.served import Served, serving
from tests.serve.toy_engine import ToyEngine

HOOKS = '''
"""501 is what A1111's routes without a model behind them answer; 503 and 507 are the queue's."""

import schemathesis


@schemathesis.check
def only_described_5xx(ctx, response, case):
    if response.status_code >= 500 and response.status_code not in (503, 507):
        described = case.operation.definition.raw["responses"]
        assert str(response.status_code) in described, f"{case.method} {case.path} answered {response.status_code}"
'''


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    with serving(tmp_path_factory.mktemp("fuzzed"), ToyEngine(at_once=8)) as served:
        yield served


@pytest.mark.long
def test_no_5xx_and_answers_as_described(server: Served, tmp_path: Path):
    (tmp_path / "hooks.py").write_text(HOOKS)
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--include-path-regex",
        "^/(v1|sdapi|models|internal)/", "--checks",
        "only_described_5xx,response_schema_conformance,content_type_conformance", "--phases", "fuzzing",
        "--max-examples", "4", "--seed", "7", "--no-color", "--generation-database", "none", "--request-timeout", "30",
    ]  # fmt: skip
    environment = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path), "PATH": ""}
    requests.get(f"{server.url}/openapi.json")  # made once, which may outlast schemathesis' patience on a busy machine
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert requests.get(f"{server.url}/healthz").text == "ok\n"
    assert "failure" not in server.log.getvalue()


def test_every_route_describes_itself(server: Served):
    paths = requests.get(f"{server.url}/openapi.json").json()["paths"]
    own = {path: methods for path, methods in paths.items() if not path.startswith(("/api/", "/healthz", "/readyz"))}
    assert {"/v1/images/edits", "/sdapi/v1/txt2img", "/sdapi/v1/loras", "/models/{model}"} <= own.keys()
    for path, methods in own.items():
        for method, route in methods.items():
            assert route.get("description"), (method, path)
            assert "HTTPValidationError" not in str(route), (method, path)
            if method == "post" and path.startswith(("/v1/", "/models/")):
                assert "properties" in str(route["requestBody"])
