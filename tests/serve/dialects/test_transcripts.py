"""Open WebUI's and SillyTavern's requests, replayed byte for byte against a server that wants tokens."""

import base64
import json
import time

import pytest
import requests

from marmo.serve.dialects import a1111_desk
from marmo.serve.settings import Settings
from marmo.serve.tokens import Tokens, User
from tests.serve.dialects.pictures import decoded, picture
from tests.serve.dialects.served import Served, module_server
from tests.serve.dialects.transcripts import (
    Line,
    tavern_body,
    tavern_get,
    tavern_post,
    webui_form,
    webui_get,
    webui_openai,
    webui_post,
)
from tests.serve.toy_engine import ToyEngine, toy_model

pytestmark = pytest.mark.long

ANA, BOB = "ana-token-ana-token-ana", "bob-token-bob-token-bob"
SETTINGS = Settings(tokens=Tokens([(User("ana", "generate"), ANA), (User("bob", "generate"), BOB)]))
MODELS = (toy_model(), toy_model("other"))
server = module_server(lambda: ToyEngine(models=MODELS, step_seconds=0.005, at_once=4), SETTINGS)


@pytest.fixture
def ana(server: Served) -> Line:
    return Line("127.0.0.1", server.port(), f"ana:{ANA}")


@pytest.fixture
def bob(server: Served) -> Line:
    return Line("127.0.0.1", server.port(), f"bob:{BOB}")


# Open WebUI, engine "automatic1111"


def webui_choose(line: Line, model: str) -> None:
    """`set_image_model`: the whole options object goes back."""
    options = line.ask(webui_get("/sdapi/v1/options")).json()
    if options["sd_model_checkpoint"] != model:
        options["sd_model_checkpoint"] = model
        assert line.ask(*webui_post("/sdapi/v1/options", options)).status == 200


def test_open_webui_paints_through_a1111(ana: Line, server: Served):
    listed = ana.ask(webui_get("/sdapi/v1/sd-models")).json()
    offered = [{"id": model["title"], "name": model["model_name"]} for model in listed]
    webui_choose(ana, offered[1]["id"])
    assert ana.ask(webui_get("/sdapi/v1/options")).json()["sd_model_checkpoint"] == offered[1]["id"]
    body = {"prompt": "a fox", "batch_size": 2, "width": 64, "height": 32, "steps": 3, "negative_prompt": "blur"}
    answer = ana.ask(*webui_post("/sdapi/v1/txt2img", {**body, "sampler_name": "Euler a", "cfg_scale": 5}))
    assert answer.status == 200
    for image in answer.json()["images"]:
        assert "," not in image and decoded(image).size == (64, 32)
    assert json.loads(answer.json()["info"])["all_prompts"] == ["a fox", "a fox"]
    assert server.newest().request.model == "other"
    webui_choose(ana, offered[0]["id"])


def test_an_error_that_open_webui_cannot_show_is_at_least_no_empty_list(ana: Line):
    """It looks for `images` whatever the status is, and shows what is missing."""
    answer = ana.ask(*webui_post("/sdapi/v1/txt2img", {"prompt": "fail", "batch_size": 1}))
    assert answer.status == 422 and "images" not in answer.json()


def test_options_belong_to_one_user(ana: Line, bob: Line):
    webui_choose(ana, f"other [{MODELS[1].sha256[:10]}]")
    assert bob.ask(webui_get("/sdapi/v1/options")).json()["sd_model_checkpoint"].startswith("toy [")
    webui_choose(ana, f"toy [{MODELS[0].sha256[:10]}]")


def test_without_a_token_nobody_comes_in(server: Served):
    stranger = Line("127.0.0.1", server.port(), "ana:wrong")
    assert stranger.ask(webui_get("/sdapi/v1/options")).status == 401
    head, body = webui_post("/sdapi/v1/txt2img", {"prompt": "a fox"})
    empty = head.replace("Basic AUTH", "")
    answer = stranger.ask(empty, body)
    assert answer.status == 401 and answer.json()["detail"].startswith("this server needs a token")


# Open WebUI, engine "openai"


def test_open_webui_paints_through_openai(ana: Line):
    body = {"model": "toy", "prompt": "a fox", "n": 2, "size": "64x32", "response_format": "b64_json"}
    answer = ana.ask(*webui_openai("/v1/images/generations", body, ANA))
    assert [decoded(item["b64_json"]).size for item in answer.json()["data"]] == [(64, 32)] * 2
    answer = ana.ask(*webui_openai("/v1/images/generations?api-version=2025-04-01", body, ANA))
    assert answer.status == 200


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_open_webui_edits_through_openai(ana: Line, server: Served, name: str):
    fields = {"model": "toy", "prompt": "a cat", "n": "1", "size": "64x64", "response_format": "b64_json"}
    answer = ana.ask(*webui_form("/v1/images/edits", fields, [(name, picture())], ANA))
    assert answer.status == 200, answer.body
    assert server.newest().inputs.keys() == {"init_image"}


# SillyTavern


def tavern_generate(line: Line, server: Served, prompt: str, **changes: object):
    return tavern_post("/sdapi/v1/txt2img", tavern_body(f"{server.url}/", line.auth, prompt, **changes))


def test_sillytavern_connects(ana: Line):
    """Its ping and all of its lists, as `loadSettingOptions` asks for them."""
    assert ana.ask(tavern_get("/sdapi/v1/options")).status == 200
    names = {
        path: [item[key] for item in ana.ask(tavern_get(f"/sdapi/v1/{path}")).json()]
        for path, key in {
            "sd-models": "title", "samplers": "name", "schedulers": "name", "upscalers": "name",
            "latent-upscale-modes": "name", "sd-vae": "model_name",
        }.items()
    }  # fmt: skip
    assert names["sd-models"] == [f"{model.id} [{model.sha256[:10]}]" for model in MODELS]
    assert "DPM++ 2M" in names["samplers"] and "karras" in names["schedulers"]
    assert names["upscalers"][0] == "None" and names["latent-upscale-modes"][0] == "Latent"


def test_sillytavern_chooses_a_model(ana: Line):
    title = f"other [{MODELS[1].sha256[:10]}]"
    assert ana.ask(*tavern_post("/sdapi/v1/options", {"sd_model_checkpoint": title})).status == 200
    progress = ana.ask(tavern_get("/sdapi/v1/progress")).json()
    assert progress["progress"] == 0.0 and progress["state"]["job_count"] == 0
    assert ana.ask(tavern_get("/sdapi/v1/options")).json()["sd_model_checkpoint"] == title
    ana.ask(*tavern_post("/sdapi/v1/options", {"sd_model_checkpoint": "toy"}))


def test_sillytavern_paints(ana: Line, server: Served):
    answer = ana.ask(*tavern_generate(ana, server, "best quality, a fox, 狐狸", seed=7)).json()
    assert decoded(answer["images"][0]).size == (64, 96)
    said = server.newest().request
    assert (said.prompt, said.sampler, said.schedule, said.seed) == (
        "best quality, a fox, 狐狸",
        "dpmpp_2m",
        "karras",
        7,
    )
    assert "url" not in answer["parameters"] and "auth" not in answer["parameters"]


def test_passwords_are_neither_repeated_nor_kept(ana: Line, server: Served):
    secret = "hunter2-hunter2"
    body = tavern_body(f"http://ana:{secret}@127.0.0.1/", f"ana:{secret}", "a fox in the wood")
    answers = [ana.ask(*tavern_post("/sdapi/v1/txt2img", body))]
    answers.append(ana.ask(*tavern_post("/sdapi/v1/txt2img", {**body, "steps": f"x{secret[:0]}"})))
    answers.append(ana.ask(*tavern_post("/sdapi/v1/options", {"api_auth": secret, "CLIP_stop_at_last_layers": 1})))
    answers.append(ana.ask(tavern_get("/sdapi/v1/options")))
    pictures = b"".join(base64.b64decode(image) for image in answers[0].json()["images"])
    stored = b"".join(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())
    everywhere = b"".join(answer.body for answer in answers) + pictures + stored + server.log.getvalue().encode()
    assert secret.encode() not in everywhere and ANA.encode() not in everywhere
    assert b"a fox in the wood" not in server.log.getvalue().encode()


@pytest.mark.parametrize("order", ["interrupt first", "hang up first"])
def test_sillytavern_gives_up_and_only_its_own_job_ends(
    ana: Line, bob: Line, server: Served, order: str, monkeypatch: pytest.MonkeyPatch
):
    """It closes the connection and posts `interrupt`, in either order; another job of its own goes on, and Bob's."""
    monkeypatch.setattr(a1111_desk, "ECHO_SECONDS", 60.0)  # a busy machine may take its time
    before = len(server.wait_for("cancelled", 0))
    lost = ana.send(*tavern_generate(ana, server, "hang"))
    server.wait_for("running")
    server.engine.go.clear()
    other = ana.send(*tavern_generate(ana, server, "a fox", steps=120))
    foreign = bob.send(*tavern_generate(bob, server, "a fox", steps=120))
    server.wait_for("running", 3)
    interrupt = tavern_post("/sdapi/v1/interrupt")
    if order == "interrupt first":
        assert ana.ask(*interrupt).json() == {}
        server.engine.go.set()
        lost.close()
    else:
        server.engine.go.set()
        lost.close()
        server.wait_for("cancelled", before + 1)
        assert ana.ask(*interrupt).json() == {}
    for connection in (other, foreign):
        reply = b""
        while part := connection.recv(65536):
            reply += part
        assert b"200 OK" in reply.split(b"\r\n")[0] and b'"images":["iVBOR' in reply
        connection.close()
    assert len(server.wait_for("cancelled", before + 1)) == before + 1


def test_an_interrupt_of_nothing_is_answered(ana: Line):
    assert ana.ask(*tavern_post("/sdapi/v1/interrupt")).json() == {}
    assert ana.ask(*tavern_post("/sdapi/v1/skip")).json() is None


def test_a_page_elsewhere_cannot_paint(server: Served):
    answer = requests.post(
        f"{server.url}/sdapi/v1/txt2img",
        json={"prompt": "a fox"},
        headers={"Origin": "https://evil.example", "Authorization": f"Bearer {ANA}"},
    )
    assert answer.status_code == 403 and "another site" in answer.json()["detail"]


def test_progress_shows_nobody_elses_job(ana: Line, bob: Line, server: Served):
    before = len(server.wait_for("cancelled", 0))
    lost = ana.send(*tavern_generate(ana, server, "hang"))
    server.wait_for("running")
    assert bob.ask(tavern_get("/sdapi/v1/progress")).json()["state"]["job_count"] == 0
    assert ana.ask(tavern_get("/sdapi/v1/progress")).json()["state"]["job_count"] == 1
    assert bob.ask(*tavern_post("/sdapi/v1/interrupt")).json() == {}
    time.sleep(0.05)
    assert len(server.wait_for("cancelled", before)) == before
    lost.close()
    server.wait_for("cancelled", before + 1)
