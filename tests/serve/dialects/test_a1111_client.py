"""webuiapi, the Python client of A1111, against a real server."""

import json
import threading
import time
from io import BytesIO

import pytest
import webuiapi
from PIL import Image

from marmo.request_parts import Upscale
from marmo.serve.dialects.a1111_options import Options
from marmo.serve.dialects.a1111_request import read_txt2img
from tests.serve.dialects.pictures import decoded, picture
from tests.serve.dialects.served import Served, module_server
from tests.serve.toy_engine import ToyEngine, toy_model, toy_upscaler

pytestmark = pytest.mark.long

MODELS = (toy_model(), toy_model("other"))
UPSCALERS = (toy_upscaler("lanczos", "Lanczos", 1), toy_upscaler("4x-Toy.1", "4x-Toy", 4))
server = module_server(lambda: ToyEngine(models=(*UPSCALERS, *MODELS), step_seconds=0.005, at_once=4))


@pytest.fixture
def api(server: Served, request: pytest.FixtureRequest) -> webuiapi.WebUIApi:
    """A program of its own for every test: an `interrupt` soon after a lost connection is about that one."""
    api = webuiapi.WebUIApi(port=server.port(), steps=4)
    api.session.headers["User-Agent"] = f"webuiapi {request.node.name}"
    return api


def refused(call) -> dict:
    """The error's body."""
    with pytest.raises(RuntimeError) as error:
        call()
    status, text = error.value.args
    return {"status": status, **json.loads(text)}


def image(size: tuple[int, int] = (64, 64), colour: str = "teal") -> Image.Image:
    return Image.new("RGB", size, colour)


# txt2img


def test_a_prompt_becomes_pictures(api: webuiapi.WebUIApi, server: Served):
    result = api.txt2img(
        prompt="a (red:1.2) fox", negative_prompt="blur", seed=7, cfg_scale=5, sampler_name="DPM++ 2M",
        scheduler="Karras", steps=6, width=48, height=32, batch_size=2, n_iter=2,
    )  # fmt: skip
    assert [item.size for item in result.images] == [(48, 32)] * 4
    job = server.newest()
    request = job.request
    assert (request.prompt, request.negative_prompt, request.prompt_syntax) == ("a (red:1.2) fox", "blur", "a1111")
    assert (request.sampler, request.schedule, request.steps) == ("dpmpp_2m", "karras", 6)
    assert (request.start, request.noise_source, request.num_images) == ("a1111", "philox", 4)
    assert result.info["all_seeds"] == [7, 8, 9, 10]
    assert result.info["sampler_name"] == "DPM++ 2M" and result.info["batch_size"] == 2
    assert result.info["sd_model_name"] == "toy" and result.info["sd_model_hash"] == MODELS[0].sha256[:10]
    assert len(result.info["infotexts"]) == len(result.info["all_prompts"]) == 4
    assert result.parameters["prompt"] == "a (red:1.2) fox" and result.parameters["n_iter"] == 2


def test_infotext_is_in_the_info_and_in_the_picture(api: webuiapi.WebUIApi):
    result = api.txt2img(prompt="a fox", seed=7, subseed=3, subseed_strength=0.25, width=48, height=32)
    (text,) = result.info["infotexts"]
    assert text == result.image.info["parameters"]
    first, last = text.split("\n")
    assert first == "a fox"
    assert last.startswith(
        "Steps: 4, Sampler: Euler a, Schedule type: Uniform, CFG scale: 7, Seed: 7, Size: 48x32, Model hash: "
    )
    assert "Variation seed: 3, Variation seed strength: 0.25" in last
    assert result.info["subseed"] == 3 and result.info["subseed_strength"] == 0.25
    assert result.info["extra_generation_params"]["Schedule type"] == "Uniform"


def test_a_picture_tells_what_it_was_made_from(api: webuiapi.WebUIApi):
    painted = api.txt2img(prompt="a fox", negative_prompt="blur", seed=7, width=48, height=32)
    read = api.png_info(painted.image)
    assert read.info == painted.info["infotexts"][0]
    assert (read.parameters["Prompt"], read.parameters["Negative prompt"]) == ("a fox", "blur")
    assert (read.parameters["Seed"], read.parameters["Size-1"]) == ("7", "48")
    assert api.png_info(image()).json == {"info": "", "items": {}, "parameters": {}}


def test_a_random_seed_is_told(api: webuiapi.WebUIApi):
    seeds = {api.txt2img(prompt="a fox", seed=-1).info["seed"] for _ in range(3)}
    assert len(seeds) == 3 and min(seeds) >= 0


def test_an_eta_acts_where_a_sampler_has_one(api: webuiapi.WebUIApi, server: Served):
    api.txt2img(prompt="a fox", sampler_name="DPM++ 2M", eta=1.0)  # the client always sends one
    assert server.newest().request.eta is None
    api.txt2img(prompt="a fox", sampler_name="DDIM", eta=0.5)
    assert server.newest().request.eta == 0.5


def test_a_second_pass(api: webuiapi.WebUIApi, server: Served):
    result = api.txt2img(
        prompt="a fox", width=48, height=32, enable_hr=True, hr_scale=2, hr_second_pass_steps=3,
        hr_upscaler=webuiapi.HiResUpscaler.LatentNearest, denoising_strength=0.6, tiling=True,
    )  # fmt: skip
    said = server.newest().request
    assert (said.hires.scale, said.hires.upscaler, said.hires.steps) == (2, "latent-nearest", 3)
    assert (said.hires.strength, said.strength, said.tiling) == (0.6, None, "both")
    assert result.info["denoising_strength"] == 0.6
    extra = result.info["extra_generation_params"]
    assert (extra["Hires upscale"], extra["Hires upscaler"], extra["Tiling"]) == ("2", "Latent (nearest)", "True")
    assert result.parameters["enable_hr"] is True and result.parameters["hr_scale"] == 2


def test_settings_can_be_overridden_for_one_request(api: webuiapi.WebUIApi, server: Served):
    settings = {"sd_model_checkpoint": "other", "CLIP_stop_at_last_layers": 2, "randn_source": "CPU", "grid_save": True}
    result = api.txt2img(prompt="a fox", override_settings=settings)
    request = server.newest().request
    assert (request.model, request.clip_skip, request.noise_source) == ("other", 2, "torch-cpu")
    assert result.info["clip_skip"] == 2 and result.info["sd_model_name"] == "other"
    assert "grid_save" not in result.parameters["override_settings"]
    assert api.util_get_current_model().startswith("toy [")
    api.txt2img(prompt="a fox", override_settings=settings, override_settings_restore_afterwards=False)
    assert api.util_get_current_model().startswith("other [")
    api.util_set_model("toy")


def test_no_pictures_where_none_are_wanted(api: webuiapi.WebUIApi):
    result = api.txt2img(prompt="a fox", send_images=False)
    assert result.images == [] and len(result.info["infotexts"]) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"restore_faces": True}, "restore_faces"),
        ({"sampler_name": "DPM adaptive"}, "DPM adaptive"),
        ({"scheduler": "Turtle"}, "Turtle"),
        ({"styles": ["cinema"]}, "styles"),
        ({"s_churn": 2}, "s_churn"),
        ({"seed_resize_from_w": 512}, "seed_resize_from_w"),
        ({"cfg_scale": -1}, "cfg_scale"),
        ({"steps": 2000}, "steps"),
        ({"width": 50}, "width 50"),
        ({"enable_hr": True, "hr_upscaler": webuiapi.HiResUpscaler.ESRGAN_4x}, "hr_upscaler"),
        ({"enable_hr": True, "width": 64, "height": 64, "hr_resize_x": 32}, "enable_hr makes 32 x 32 of 64 x 64"),
        ({"enable_hr": True, "hr_sampler_name": "Heun"}, "hr_sampler_name"),
        ({"batch_size": 50, "n_iter": 50}, "batch_size x n_iter"),
        ({"script_name": "x/y/z plot"}, "Script 'x/y/z plot' not found"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, "ADetailer"),
        ({"controlnet_units": [webuiapi.ControlNetUnit()], "alwayson_scripts": {}}, "ControlNet"),
        ({"override_settings": {"sd_model_checkpoint": "v1-5"}}, "v1-5"),
        ({"override_settings": {"sd_vae": "anime.vae.pt"}}, "sd_vae"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 40}}, "CLIP_stop_at_last_layers"),
    ],
)
def test_what_cannot_be_is_refused_by_name(api: webuiapi.WebUIApi, fields, words: str):
    error = refused(lambda: api.txt2img(prompt="a fox", **fields))
    assert error["status"] in (400, 422)
    assert words in error["detail"] and error["errors"] == error["detail"]


def test_scripts_that_are_switched_off_are_no_matter(api: webuiapi.WebUIApi):
    off = {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}, "CN": {"args": [{"enabled": False}]}, "x": {}}
    assert len(api.txt2img(prompt="a fox", alwayson_scripts=off).images) == 1


def test_a_job_that_fails_says_why(api: webuiapi.WebUIApi):
    assert "the toy was told to fail" in refused(lambda: api.txt2img(prompt="fail"))["detail"]


# img2img


def test_a_picture_is_painted_again(api: webuiapi.WebUIApi, server: Served):
    result = api.img2img(images=[image()], prompt="a cat", denoising_strength=0.4, width=64, height=64)
    assert result.image.size == (64, 64)
    job = server.newest()
    assert (job.inputs.keys(), job.request.strength) == ({"init_image"}, 0.4)
    assert result.info["denoising_strength"] == 0.4
    assert result.parameters["init_images"] is None


def test_a_part_is_painted_again(api: webuiapi.WebUIApi, server: Served):
    api.img2img(
        images=[image()], mask_image=image(colour="white"), mask_blur=8, inpainting_fill=2, inpaint_full_res=True,
        inpaint_full_res_padding=16, inpainting_mask_invert=1, prompt="a cat", width=64, height=64,
    )  # fmt: skip
    inpaint = server.newest().request.inpaint
    assert (inpaint.fill, inpaint.feather, inpaint.area, inpaint.padding) == ("noise", 8, "masked", 16)
    assert inpaint.invert
    api.img2img(images=[image()], mask_image=image(colour="white"), inpaint_full_res=False, width=64, height=64)
    inpaint = server.newest().request.inpaint
    assert (inpaint.fill, inpaint.feather, inpaint.area, inpaint.invert) == ("blurred", 4, "picture", False)


def test_opaque_pixels_of_a_transparent_mask_are_painted(api: webuiapi.WebUIApi, server: Served):
    mask = Image.new("RGBA", (64, 64))
    mask.paste((0, 0, 0, 255), (32, 0, 64, 64))
    api.img2img(images=[image()], mask_image=mask, width=64, height=64)
    data = server.stored(server.newest().inputs["mask"])
    grey = Image.open(BytesIO(data))
    assert (grey.mode, grey.getpixel((0, 0)), grey.getpixel((63, 0))) == ("L", 0, 255)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": []}, "init_images"),
        ({"images": [image(), image()]}, "init_images"),
        ({"resize_mode": 1, "width": 64, "height": 32}, "resize_mode"),
        ({"resize_mode": 3}, "resize_mode"),
        ({"initial_noise_multiplier": 1.5}, "initial_noise_multiplier"),
        ({"denoising_strength": 1.5}, "denoising_strength"),
    ],
)
def test_pictures_that_cannot_be_are_refused(api: webuiapi.WebUIApi, fields, words: str):
    error = refused(lambda: api.img2img(**{"images": [image()], "prompt": "a cat", **fields}))
    assert error["status"] == 400 and words in error["detail"]


def test_addresses_are_not_fetched(api: webuiapi.WebUIApi):
    body = {"init_images": ["http://169.254.169.254/latest/meta-data"], "prompt": "a cat"}
    answer = api.session.post(f"{api.baseurl}/img2img", json=body)
    assert answer.status_code == 400 and "not fetched" in answer.json()["detail"]


# lists


def test_models_are_listed_and_chosen(api: webuiapi.WebUIApi, server: Served):
    assert api.util_get_model_names() == sorted(f"{model.id} [{model.sha256[:10]}]" for model in MODELS)
    assert {"title", "model_name", "hash", "sha256", "filename", "config"} == api.get_sd_models()[0].keys()
    api.util_set_model("other")
    assert api.util_get_current_model() == f"other [{MODELS[1].sha256[:10]}]"
    api.txt2img(prompt="a fox")
    assert server.newest().request.model == "other"
    api.util_set_model("toy")
    assert api.util_get_current_model().startswith("toy [")


def test_every_sampler_and_scheduler_that_is_listed_is_understood(api: webuiapi.WebUIApi):
    samplers, schedulers = api.util_get_sampler_names(), api.util_get_scheduler_names()
    assert {"Euler a", "DPM++ 2M", "DDIM", "UniPC", "LCM"} <= set(samplers)
    assert {"automatic", "uniform", "karras", "sgm_uniform", "ddim", "beta"} <= set(schedulers)
    names = [(sampler, "automatic") for sampler in samplers] + [("Euler", scheduler) for scheduler in schedulers]
    for sampler, scheduler in names:
        body = {"sampler_name": sampler, "scheduler": scheduler}
        wanted = read_txt2img(body, Options(), MODELS)
        assert wanted.request.resolve(wanted.model.defaults).sampler is not None
    assert len({read_txt2img({"sampler_name": name}, Options(), MODELS).request.sampler for name in samplers}) == len(
        samplers
    )


@pytest.mark.parametrize(
    "name",
    [
        "sd_vae",
        "loras",
        "hypernetworks",
        "face_restorers",
        "realesrgan_models",
        "prompt_styles",
    ],
)
def test_lists_that_are_empty(api: webuiapi.WebUIApi, name: str):
    assert getattr(api, f"get_{name}")() == []


def test_what_else_the_client_asks(api: webuiapi.WebUIApi):
    assert [(item["name"], item["scale"]) for item in api.get_upscalers()] == [
        ("None", 4), ("Lanczos", 1), ("4x-Toy", 4),
    ]  # fmt: skip
    assert [item["name"] for item in api.get_latent_upscale_modes()][:2] == ["Latent", "Latent (antialiased)"]
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_scripts() == {"txt2img": [], "img2img": []}
    assert api.get_cmd_flags()["api"] is True
    memory = api.get_memory()
    assert 0 < memory["ram"]["used"] < memory["ram"]["total"] and "error" in memory["cuda"]
    assert api.refresh_checkpoints() is None
    assert api.custom_get("sdapi/v1/script-info") == []
    assert api.session.get(f"http://127.0.0.1:{api.baseurl.split(':')[2].split('/')[0]}/internal/ping").json() == {}
    for name in ("unload-checkpoint", "reload-checkpoint"):
        assert api.session.post(f"{api.baseurl}/{name}").json() == {}


@pytest.mark.parametrize(
    "call",
    [
        lambda api: api.interrogate(image()),
    ],
)
def test_what_is_missing_says_so(api: webuiapi.WebUIApi, call):
    error = refused(lambda: call(api))
    assert error["status"] == 501 and error["detail"].startswith("this server has no")


# extras


def test_a_finished_picture_is_enlarged(api: webuiapi.WebUIApi, server: Served):
    result = api.extra_single_image(image(), upscaler_1="4x-Toy", upscaling_resize=3)
    assert result.image.size == (16, 16), "the toy paints so where the size is open"
    job = server.newest()
    assert (job.request.model, job.request.upscale) == ("4x-Toy.1", Upscale(scale=3))
    assert job.inputs.keys() == {"init_image"} and (job.request.width, job.request.height) == (None, None)
    api.extra_single_image(
        image(), resize_mode=1, upscaling_resize_w=96, upscaling_resize_h=80, upscaling_crop=False,
        upscaler_1="lanczos", upscaler_2="4x-Toy.1", extras_upscaler_2_visibility=0.25,
    )  # fmt: skip
    request = server.newest().request
    assert (request.model, request.width, request.height) == ("lanczos", 96, 80)
    assert request.upscale == Upscale(cover=True, model="4x-Toy.1", share=0.25)


def test_several_finished_pictures_come_back_in_order(api: webuiapi.WebUIApi, server: Served):
    pictures = [image(colour=colour) for colour in ("red", "green", "blue")]
    result = api.extra_batch_images(pictures, upscaler_1="4x-Toy", resize_mode=1)
    assert [item.size for item in result.images] == [(512, 512)] * 3
    jobs = server.found()[2::-1]
    colours = [Image.open(BytesIO(server.stored(job.inputs["init_image"]))).getpixel((0, 0)) for job in jobs]
    assert colours == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert result.info.count("<p>") == 3


def test_without_an_upscaler_nothing_happens(api: webuiapi.WebUIApi, server: Served):
    before = len(server.found())
    assert api.extra_single_image(image(colour="red")).image.getpixel((0, 0)) == (255, 0, 0)
    assert [item.size for item in api.extra_batch_images([image(), image((32, 8))]).images] == [(64, 64), (32, 8)]
    assert len(server.found()) == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"gfpgan_visibility": 0.5}, "gfpgan_visibility: there is no face restoration"),
        ({"codeformer_visibility": 1}, "codeformer_visibility: there is no face restoration"),
        (
            {"upscaler_1": "R-ESRGAN 4x+"},
            "no 'R-ESRGAN 4x+' here; there are: None, Lanczos, 4x-Toy",
        ),
        ({"upscaler_2": "LDSR"}, "upscaler_2: there is no"),
        ({"upscaling_resize": 9}, "upscaling_resize"),
        ({"resize_mode": 1, "upscaling_resize_w": 9000}, "upscaling_resize_w"),
        ({"resize_mode": 2}, "resize_mode"),
        ({"upscaling_resize": 8, "image": image((2000, 2000))}, "at most 32,000,000 pixels"),
    ],
)
def test_extras_that_cannot_be_are_refused(api: webuiapi.WebUIApi, fields, words: str):
    error = refused(lambda: api.extra_single_image(**{"image": image(), "upscaler_1": "4x-Toy", **fields}))
    assert error["status"] == 400 and words in error["detail"]


def test_extras_of_what_is_no_picture_are_refused(api: webuiapi.WebUIApi):
    for body in ({"image": "aGVsbG8="}, {"image": None}, {}):
        assert api.session.post(f"{api.baseurl}/extra-single-image", json=body).status_code == 400
    for pictures in ([], [{"data": "aGVsbG8="}], [{"name": "x"}], None):
        body = {"imageList": pictures, "upscaler_1": "4x-Toy"}
        assert api.session.post(f"{api.baseurl}/extra-batch-images", json=body).status_code == 400


def test_a_second_pass_names_a_network(api: webuiapi.WebUIApi, server: Served):
    api.txt2img(prompt="a fox", enable_hr=True, hr_scale=2, hr_upscaler="4x-Toy", width=64, height=64)
    hires = server.newest().request.hires
    assert (hires.upscaler, hires.model) == ("model", "4x-Toy.1")
    error = refused(lambda: api.txt2img(prompt="a fox", enable_hr=True, hr_upscaler="8x-Toy"))
    assert "Latent (area), Lanczos, 4x-Toy" in error["detail"]


# progress and interrupt


def test_idle_is_nothing_at_all(api: webuiapi.WebUIApi):
    api.util_wait_for_ready(check_interval=0.01)
    progress = api.get_progress()
    assert progress["progress"] == 0 and progress["state"]["job_count"] == 0
    assert progress["current_image"] is None


def test_progress_is_of_the_callers_own_job(api: webuiapi.WebUIApi):
    thread, results = painting(api, prompt="a fox", steps=200)
    seen = followed(api, 0.1)
    assert seen["state"]["job_count"] == 1 and seen["state"]["sampling_steps"] == 200
    assert seen["state"]["sampling_step"] >= 20 and decoded(seen["current_image"]).size == (8, 8)
    assert seen["eta_relative"] >= 0
    without = api.session.get(f"{api.baseurl}/progress?skip_current_image=true").json()
    assert without["current_image"] is None
    thread.join()
    assert len(results[0].images) == 1 and api.get_progress()["progress"] == 0


def painting(api: webuiapi.WebUIApi, **fields) -> tuple[threading.Thread, list]:
    """A request on its way, in a session of its own as a client's other connection is."""
    other = webuiapi.WebUIApi(baseurl=api.baseurl)
    other.session.headers = api.session.headers
    results: list = []
    thread = threading.Thread(target=lambda: results.append(other.txt2img(**fields)))
    thread.start()
    return thread, results


def followed(api: webuiapi.WebUIApi, until: float) -> dict:
    for _ in range(2000):
        progress = api.get_progress()
        if progress["progress"] >= until and progress["current_image"]:
            return progress
        time.sleep(0.002)
    raise AssertionError("no progress")


@pytest.mark.parametrize("stop", [webuiapi.WebUIApi.interrupt, webuiapi.WebUIApi.skip])
def test_interrupt_ends_the_callers_own_job(api: webuiapi.WebUIApi, server: Served, stop):
    before = len(server.wait_for("cancelled", 0))
    thread, results = painting(api, prompt="hang")
    server.wait_for("running")
    stop(api)
    thread.join(10)
    assert results[0].images == [] and results[0].info["prompt"] == "hang"
    assert len(server.wait_for("cancelled", before + 1)) == before + 1
    api.interrupt()  # of nothing


def test_a_job_that_failed_takes_no_interrupt_from_the_next(api: webuiapi.WebUIApi, server: Served):
    refused(lambda: api.txt2img(prompt="fail"))
    thread, results = painting(api, prompt="hang")
    server.wait_for("running")
    api.interrupt()
    thread.join(10)
    assert results[0].images == [] and results[0].info["prompt"] == "hang"


def test_interrupt_leaves_other_programs_jobs(api: webuiapi.WebUIApi, server: Served):
    stranger = webuiapi.WebUIApi(baseurl=api.baseurl)
    stranger.session.headers["User-Agent"] = "another program"
    server.engine.go.clear()
    theirs, their_results = painting(stranger, prompt="a fox")
    server.wait_for("running")
    own, own_results = painting(api, prompt="hang")
    server.wait_for("running", 2)
    api.interrupt()
    server.engine.go.set()
    own.join(10)
    theirs.join(10)
    assert own_results[0].images == [] and len(their_results[0].images) == 1


def test_native_jobs_are_nobodys_to_interrupt(api: webuiapi.WebUIApi, server: Served):
    posted = api.session.post(f"http://127.0.0.1:{server.port()}/api/v1/jobs", json={"prompt": "a fox", "steps": 100})
    job = posted.json()["id"]
    api.interrupt()
    assert server.call(server.jobs.wait(job)).state == "succeeded"


# hostile bodies


@pytest.mark.parametrize("route", ["txt2img", "img2img", "options", "png-info"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"[" * 100_000, b"\xff\xfe"])
def test_bad_json_has_a1111s_envelope(api: webuiapi.WebUIApi, route: str, body: bytes):
    headers = {"content-type": "application/json"}
    answer = api.session.post(f"{api.baseurl}/{route}", data=body, headers=headers)
    assert answer.status_code == 400 and answer.json().keys() == {"error", "detail", "body", "errors"}


@pytest.mark.parametrize("data", ["", "####", "aGVsbG8=", "data:image/png;base64,", picture()[:40].hex()])
def test_what_is_no_picture_is_refused(api: webuiapi.WebUIApi, data: str):
    for route, body in (("png-info", {"image": data}), ("img2img", {"init_images": [data]})):
        answer = api.session.post(f"{api.baseurl}/{route}", json=body)
        assert answer.status_code == 400 and "image" in answer.json()["detail"]
