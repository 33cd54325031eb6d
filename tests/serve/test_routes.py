"""The native routes before the real queue and a toy engine."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from marmo.request import ImageRequest
from marmo.serve.jobs import Limits
from marmo.serve.settings import Settings
from marmo.serve.tokens import COOKIE, Tokens, User
from tests.serve.asgi import ask
from tests.serve.serving import PLAIN, Served, served
from tests.serve.toy_engine import ToyEngine

A, B, R = "ana-secret-0123456789", "ben-secret-0123456789", "root-secret-0123456789"
PEOPLE = Settings(
    tokens=Tokens([(User("ana", "generate"), A), (User("ben", "generate"), B), (User("root", "admin"), R)])
)
ANA, BEN, ROOT = (("Authorization", f"Bearer {token}") for token in (A, B, R))


def on(folder: Path, test: Callable[[Served], Awaitable[None]], settings: Settings = PLAIN, **more: object) -> None:
    async def main() -> None:
        async with served(folder, settings, **more) as server:
            await test(server)

    asyncio.run(main())


def test_a_job_from_the_request_to_the_picture(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        answer = await server.post("/api/v1/jobs", {"prompt": "a fox", "seed": 7, "num_images": 2})
        assert (answer.status, answer.headers["location"]) == (202, f"/api/v1/jobs/{answer.json()['id']}")
        assert answer.json()["request"]["steps"] == 4 and answer.json()["owner"] == "local"
        await server.jobs.wait(answer.json()["id"])
        job = (await server.get(answer.headers["location"])).json()
        assert (job["state"], len(job["images"]), job["notes"]) == ("succeeded", 2, ["painted by a toy"])
        at = f"/api/v1/images/{job['images'][1]}"
        row, file, small, record = [await server.get(at + rest) for rest in ("", "/file", "/thumbnail", "/record")]
        assert (row.json()["seed"], row.json()["prompt"], row.json()["job"]) == (8, "a fox", job["id"])
        assert file.headers["content-type"] == "image/png" and Image.open(BytesIO(file.body)).size == (64, 64)
        assert "immutable" in file.headers["cache-control"] and job["images"][1] in file.headers["content-disposition"]
        assert small.headers["content-type"] == "image/webp"
        assert record.json()["request"]["prompt"] == "a fox"

    on(tmp_path, test)


def test_the_same_key_is_the_same_job(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        key = ("Idempotency-Key", "k1")
        first, again = [await server.post("/api/v1/jobs", {"prompt": "x", "seed": 1}, key) for _ in range(2)]
        other = await server.post("/api/v1/jobs", {"prompt": "y", "seed": 1}, key)
        assert first.json()["id"] == again.json()["id"] and (other.status, other.code) == (409, "key_conflict")
        assert other.json()["error"]["job"] == first.json()["id"]

    on(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"prompt": "x", "stepz": 3}, "bad_request", "stepz: no such field; did you mean steps?"),
        ({"prompt": "x", "steps": 0}, "bad_request", "steps: must be greater than or equal to 1, not 0"),
        ({"prompt": "x", "steps": 201}, "over_limit", "steps may be at most 200 here, not 201"),
        ({"prompt": "x", "width": 8192, "height": 8192}, "over_limit", "width x height"),
        ({"prompt": "x" * 40_000}, "over_limit", "prompt"),
        ({"prompt": "x", "width": 65}, "request_refused", "multiple of 8"),
        ({"prompt": "x", "model": "/etc/passwd"}, "model_unknown", ""),
        ({"prompt": "x", "refiner": {"model": "../../x"}}, "model_unknown", ""),
        ({"prompt": "x", "hires": {"scale": 2, "model": "../../x"}}, "model_unknown", ""),
        ({"prompt": "x", "init_image": base64.b64encode(b"GIF89a").decode()}, "bad_picture", "init_image"),
        ({"prompt": "x", "init_image": "http://127.0.0.1/x.png"}, "bad_request", "base64"),
        ([], "bad_request", "the request"),
    ],
)
def test_what_cannot_be_painted_is_said_before_202(tmp_path: Path, body: object, code: str, said: str) -> None:
    async def test(server: Served) -> None:
        answer = await server.post("/api/v1/jobs", body)
        assert (answer.status, answer.code) == (422, code) and said in answer.json()["error"]["message"]
        assert (await server.get("/api/v1/jobs")).json()["items"] == []

    on(tmp_path, test)


@pytest.mark.parametrize(
    "data", [b"{", b"\xff\xfe", b"nul", b"[" * 100_000, b'{"prompt": "\\ud800"}', b'{"seed": 1e999}']
)
def test_bodies_that_are_no_json_or_hardly(tmp_path: Path, data: bytes) -> None:
    async def test(server: Served) -> None:
        answer = await ask(server.app, "POST", "/api/v1/jobs", ("Content-Type", "application/json"), body=data)
        assert answer.status in (400, 422), answer.body

    on(tmp_path, test)


def test_lists_are_paged_and_filtered(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        ids = [
            (await server.painted(prompt, seed=seed))["id"]
            for seed, prompt in enumerate(["a fox", "an owl", "a fox cub"])
        ]
        first = (await server.get("/api/v1/jobs?limit=2")).json()
        rest = (await server.get(f"/api/v1/jobs?limit=2&after={first['next']}")).json()
        assert [job["id"] for job in [*first["items"], *rest["items"]]] == ids[::-1] and rest["next"] is None
        for query, expected in (
            ("text=FOX", [2, 0]),
            ("seed=1", [1]),
            ("state=failed", []),
            ("state=succeeded&seed=2", [2]),
        ):
            found = (await server.get(f"/api/v1/jobs?{query}")).json()["items"]
            assert [job["id"] for job in found] == [ids[i] for i in expected], query
            if "state" not in query:
                pictures = (await server.get(f"/api/v1/images?{query}")).json()["items"]
                assert [picture["job"] for picture in pictures] == [ids[i] for i in expected], query
        assert (await server.get("/api/v1/images?width=64&height=64&model=toy")).json()["items"]
        for wrong in ("limit=0", "limit=201", "after=nonsense", "state=odd", "seed=-1"):
            assert (await server.get(f"/api/v1/jobs?{wrong}")).status == 422, wrong

    on(tmp_path, test)


def test_cancel_stops_what_runs_and_what_waits(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        jobs = [(await server.post("/api/v1/jobs", {"prompt": prompt})).json()["id"] for prompt in ("hang", "a fox")]
        waiting = await server.post(f"/api/v1/jobs/{jobs[1]}/cancel")
        assert waiting.json()["state"] == "cancelled"
        assert (await server.post(f"/api/v1/jobs/{jobs[0]}/cancel")).status == 200
        assert (await server.jobs.wait(jobs[0])).state == "cancelled"

    on(tmp_path, test)


def test_stars_boards_and_the_trash(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        at = f"/api/v1/images/{(await server.painted())['images'][0]}"

        async def change(**marks: object) -> dict[str, object]:
            return (await ask(server.app, "PATCH", at, value=marks)).json()

        assert (await change(starred=True))["starred"] is True
        assert (await change(board="animals"))["board"] == "animals"
        assert (await server.get("/api/v1/boards")).json() == {"boards": {"animals": 1}}
        assert len((await server.get("/api/v1/images?board=animals&starred=true")).json()["items"]) == 1
        changed = await change(board=None)
        assert (changed["board"], changed["starred"]) == (None, True)
        assert (await ask(server.app, "DELETE", at)).json()["deleted"] is not None
        assert (await server.get("/api/v1/images")).json()["items"] == []
        assert len((await server.get("/api/v1/images?trashed=true")).json()["items"]) == 1
        assert (await server.post(f"{at}/restore")).json()["deleted"] is None
        assert len((await server.get("/api/v1/images")).json()["items"]) == 1

    on(tmp_path, test)


def test_everyone_sees_their_own_and_the_admin_sees_all(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        job = await server.painted("a fox", ANA)
        image = job["images"][0]
        addresses = [f"/api/v1/jobs/{job['id']}", f"/api/v1/jobs/{job['id']}/events"]
        addresses += [f"/api/v1/images/{image}{rest}" for rest in ("", "/file", "/thumbnail", "/record")]
        for address in addresses:
            statuses = [(await server.get(address, who)).status for who in (ANA, BEN, ROOT)]
            assert statuses == [200, 404, 200], address
        for method, address in (
            ("POST", f"/api/v1/jobs/{job['id']}/cancel"), ("DELETE", f"/api/v1/images/{image}"),
            ("POST", f"/api/v1/images/{image}/restore"),
        ):  # fmt: skip
            assert (await ask(server.app, method, address, BEN)).status == 404, address
        assert (await ask(server.app, "PATCH", f"/api/v1/images/{image}", BEN, value={"starred": True})).status == 404
        for listing in ("/api/v1/jobs", "/api/v1/images"):
            counts = [len((await server.get(listing, who)).json()["items"]) for who in (ANA, BEN, ROOT)]
            assert counts == [1, 0, 1], listing
        assert [(await server.get("/api/v1/user", who)).json()["name"] for who in (ANA, ROOT)] == ["ana", "root"]

    on(tmp_path, test, PEOPLE)


def test_the_same_key_of_two_users_is_two_jobs(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        key = ("Idempotency-Key", "same")
        ids = [(await server.post("/api/v1/jobs", {"prompt": "x"}, who, key)).json()["id"] for who in (ANA, BEN)]
        assert ids[0] != ids[1]

    on(tmp_path, test, PEOPLE)


def test_a_token_becomes_a_cookie_and_the_cookie_comes_in(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        origin = ("Origin", "https://127.0.0.1:7860")
        answer = await server.post("/api/v1/session", {"token": A}, origin)
        cookie = answer.headers["set-cookie"]
        assert answer.json() == {"name": "ana", "scope": "generate"} and A not in cookie
        for word in ("HttpOnly", "SameSite=strict", "Secure", "Path=/"):
            assert word in cookie
        pair = cookie.partition(";")[0]
        assert pair.startswith(f"{COOKIE}=")
        assert (await server.get("/api/v1/user", ("Cookie", pair))).json()["name"] == "ana"
        assert "Secure" not in (await server.post("/api/v1/session", {"token": A})).headers["set-cookie"]
        wrong = await server.post("/api/v1/session", {"token": "wrong"})
        assert (wrong.status, wrong.code) == (401, "token_wrong") and "set-cookie" not in wrong.headers
        left = await ask(server.app, "DELETE", "/api/v1/session")
        assert left.status == 204 and "Max-Age=0" in left.headers["set-cookie"]

    on(tmp_path, test, PEOPLE)


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        jobs = [await server.post("/api/v1/jobs", {"prompt": "hang"}, ANA) for _ in range(8)]
        refused = [job for job in jobs if job.status == 429]
        assert refused and {job.status for job in jobs} == {202, 429}
        error = refused[-1].json()["error"]
        assert 1 <= int(refused[-1].headers["retry-after"]) <= 120 and error["limit"] == 3 and error["waiting"] >= 3
        assert error["code"] == "user_queue_full"
        assert (await server.post("/api/v1/jobs", {"prompt": "hang"}, BEN)).status == 202

    on(tmp_path, test, PEOPLE, limits=Limits(waiting=5, per_owner=3, reserve=1 << 16))


def test_while_the_server_closes_nothing_is_taken(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        assert (await server.get("/readyz")).status == 200
        job = (await server.post("/api/v1/jobs", {"prompt": "hang"})).json()["id"]
        await server.jobs.drain(0)
        answer = await server.post("/api/v1/jobs", {"prompt": "x"})
        assert answer.status == 503 and 1 <= int(answer.headers["retry-after"]) <= 120
        ready = await server.get("/readyz")
        assert (ready.status, ready.json()) == (503, {"ready": False, "reasons": ready.json()["reasons"]})
        assert (await server.get("/healthz")).body == b"ok\n"
        assert (await server.get(f"/api/v1/jobs/{job}")).json()["state"] == "queued"  # parked

    on(tmp_path, test)


def test_before_a_model_is_ready_nothing_is_taken(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        answer = await server.post("/api/v1/jobs", {"prompt": "x"})
        assert answer.status == 503 and "retry-after" in answer.headers
        assert (await server.get("/readyz")).status == 503
        assert (await server.get("/api/v1/models")).json() == {"items": []}

    on(tmp_path, test, engine=ToyEngine(start_seconds=1.0), ready=False)


def test_models_and_the_schema(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        (model,) = (await server.get("/api/v1/models")).json()["items"]
        assert (model["id"], model["family"], model["defaults"]["steps"]) == ("toy", "toy", 4) and len(
            model["sha256"]
        ) == 64
        assert (await server.get("/api/v1/schema")).json() == ImageRequest.model_json_schema()

    on(tmp_path, test)


def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async def test(server: Served) -> None:
        await server.painted()
        await server.get("/no/such/" + "x" * 50)
        answer = await server.get("/metrics")
        lines = answer.body.decode().splitlines()
        numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert numbers["marmo_jobs_succeeded_total"] == "1" and "xxx" not in answer.body.decode()
        assert numbers['marmo_http_requests_total{method="POST",route="/api/v1/jobs",status="202"}'] == "1"
        assert int(numbers['marmo_http_request_duration_seconds_bucket{le="+Inf"}']) == int(
            numbers["marmo_http_request_duration_seconds_count"]
        )

    on(tmp_path, test)


@pytest.mark.parametrize(
    "path", ["/", "/nowhere", "/api/v1/images/..%2f..%2fetc", "/api/v1/images/a.png", "/api/v1/jobs/" + "x" * 65, "//x"]
)
def test_no_address_leads_to_a_file(tmp_path: Path, path: str) -> None:
    async def test(server: Served) -> None:
        answer = await server.get(path)
        assert answer.status in (404, 422) and answer.json()["error"]["code"] in ("no_route", "bad_request")
        assert (await ask(server.app, "PUT", "/api/v1/jobs")).status == 405

    on(tmp_path, test)


def test_what_nobody_expected_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(server: Served) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("secret words of a prompt at /home/ana")

        monkeypatch.setattr(server.jobs, "get", broken)
        answer = await server.get("/api/v1/jobs/x")
        assert (answer.status, answer.code) == (500, "internal") and b"secret" not in answer.body
        assert "secret" not in server.log.getvalue() and "RuntimeError" in server.log.getvalue()

    on(tmp_path, test)
