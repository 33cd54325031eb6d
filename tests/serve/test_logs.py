"""What a log may say.  Secrets are planted wherever a caller can put one, and looked for in logs and pictures."""

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

from marmo.serve.logs import FIELDS, Bridge, Log
from marmo.serve.settings import Settings
from marmo.serve.tokens import COOKIE, Tokens, User
from tests.serve.asgi import ask
from tests.serve.serving import DIALECTS, served

TOKEN = "planted-token-0123456789"
PLANTED = {
    name: f"planted-{name}-9f3c" for name in ("prompt", "query", "header", "body", "cookie", "key", "path", "auth")
}


def test_a_line_is_json_of_listed_fields() -> None:
    stream = io.StringIO()
    Log(stream).write("request", method="GET", status=200, user=None)
    row = json.loads(stream.getvalue())
    assert row.keys() == {"time", "event", "method", "status"} and row.keys() <= FIELDS


def test_a_field_that_is_not_listed_cannot_be_logged() -> None:
    with pytest.raises(AssertionError, match="prompt"):
        Log(io.StringIO()).write("request", prompt="a fox")


def test_nothing_breaks_out_of_its_line() -> None:
    stream = io.StringIO()
    Log(stream).write("request", user='a"\n{"event": "forged"}\u2028')
    assert len(stream.getvalue().splitlines()) == 1


def test_libraries_words_stay_out() -> None:
    stream = io.StringIO()
    logger = logging.Logger("some.library")
    logger.addHandler(Bridge(Log(stream)))
    logger.warning("invalid request %s", "planted")
    try:
        raise ValueError("planted")
    except ValueError:
        logger.exception("planted")
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [row["code"] for row in rows] == ["warning", "error"] and rows[1]["error"] == "ValueError"
    assert "planted" not in stream.getvalue() and "test_logs.py" in rows[1]["where"]


def test_planted_secrets_are_not_found(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens = Tokens([(User("ana", "generate"), TOKEN)])

    async def main() -> tuple[str, list[bytes]]:
        async with served(tmp_path, Settings(tokens=tokens), speaking=DIALECTS) as server:
            who, key = ("Authorization", f"Bearer {TOKEN}"), ("Idempotency-Key", PLANTED["key"])
            more = [("X-Secret", PLANTED["header"]), ("Cookie", f"{COOKIE}={PLANTED['cookie']}")]
            job = await server.painted(PLANTED["prompt"], who, key, *more)
            await server.get(f"/api/v1/jobs/{job['id']}/events?secret={PLANTED['query']}", who, *more)
            await server.get(f"/{PLANTED['path']}?token={TOKEN}")
            await server.get(f"/api/v1/jobs/{PLANTED['path']}", who)
            await ask(server.app, PLANTED["path"], "/", who)
            for path in ("/api/v1/jobs", "/api/v1/session", "/sdapi/v1/txt2img", "/v1/images/generations"):
                await server.post(
                    path, {"prompt": PLANTED["prompt"], "auth": PLANTED["auth"], "url": PLANTED["auth"]}, who
                )
                await ask(
                    server.app, "POST", path, who, ("Content-Type", "application/json"), body=PLANTED["body"].encode()
                )
            await server.post("/api/v1/session", {"token": TOKEN})
            metrics = (await server.get("/metrics", who)).body
            pictures = [(await server.get(f"/api/v1/images/{image}/file", who)).body for image in job["images"]]
            return server.log.getvalue() + metrics.decode(), pictures

    log, pictures = asyncio.run(main())
    said = log + "".join(capfd.readouterr())
    assert log.count("\n") > 10 and len(pictures) == 1
    for secret in (*PLANTED.values(), TOKEN):
        assert secret not in said, secret
    for name, secret in {**PLANTED, "token": TOKEN}.items():
        if name != "prompt":  # what a picture shows is meant to be in it
            assert all(secret.encode() not in data for data in pictures), name
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for name in ("query", "header", "body", "cookie", "path", "auth"):
        assert PLANTED[name].encode() not in kept, name
    assert TOKEN.encode() not in kept
