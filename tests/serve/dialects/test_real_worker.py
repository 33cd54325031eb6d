"""The clients before a real worker process and a real model of toy size: they get what Marmo paints."""

import base64
import time
from collections.abc import Generator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest
import webuiapi
from huggingface_hub import InferenceClient
from PIL import Image, ImageChops

from marmo.catalog import open_for
from marmo.files.foreign_a1111 import read_a1111
from marmo.files.pictures import find_record
from marmo.request import ImageRequest
from marmo.request_parts import Upscale
from marmo.serve.engine import LocalEngine
from marmo.serve.messages import Setup
from tests.serve.dialects.pictures import decoded, holed
from tests.serve.dialects.served import Served, serving
from tests.upscalers import upscaler_file

if TYPE_CHECKING:
    from marmo.pipelines.latent import LatentDiffusion

pytestmark = pytest.mark.long

SIZE = (64, 64)


@pytest.fixture(scope="module")
def server(stand_in: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """Upscalers are those that the library finds."""
    (own_cache / "models").mkdir(exist_ok=True)
    found = [own_cache / "models" / f"4x-{name}.safetensors" for name in ("Toy", "Other")]
    for seed, path in enumerate(found):
        upscaler_file(path, seed=seed)
    models = (("stand-in", str(stand_in)),)
    engine = LocalEngine(Setup(models=models, device="cpu", dtype="float32", threads=1, upscalers=True))
    with serving(tmp_path_factory.mktemp("served"), engine) as served:
        until = time.monotonic() + 120
        while len(served.jobs.upscalers) < 3:  # the library is read beside the work
            assert time.monotonic() < until, served.jobs.upscalers
            time.sleep(0.05)
        yield served
    for path in found:
        path.unlink()


def photo() -> Image.Image:
    """Something with edges and colours."""
    image = Image.linear_gradient("L").resize(SIZE)
    return Image.merge("RGB", (image, image.rotate(90), image.rotate(180)))


def png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest, in levels."""
    extrema = ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getextrema()
    return max(int(high) for _, high in extrema)


def test_a1111s_picture_is_what_its_infotext_says(server: Served, model: "LatentDiffusion"):
    api = webuiapi.WebUIApi(port=server.port())
    result = api.txt2img(
        prompt="a (red:1.3) fox", negative_prompt="blur", seed=7, steps=3, width=64, height=64, batch_size=2,
        sampler_name="Euler a", scheduler="Karras", cfg_scale=5,
    )  # fmt: skip
    for image, text in zip(result.images, result.info["infotexts"], strict=True):
        request = read_a1111(text).request.model_copy(update={"model": None})
        assert difference(image, model.generate(request).images[0]) <= 1  # two in a batch, one alone


def test_a1111s_second_pass_is_what_its_infotext_says(server: Served, model: "LatentDiffusion"):
    api = webuiapi.WebUIApi(port=server.port())
    result = api.txt2img(
        prompt="a fox", seed=7, steps=3, width=64, height=64, sampler_name="Euler", scheduler="Karras", enable_hr=True,
        hr_scale=1.5, hr_upscaler="Lanczos", hr_second_pass_steps=2, denoising_strength=0.5, tiling=True,
    )  # fmt: skip
    request = read_a1111(result.info["infotexts"][0]).request.model_copy(update={"model": None})
    assert result.image.size == (96, 96)
    assert difference(result.image, model.generate(request).images[0]) <= 1


def test_a1111s_extras_are_what_the_files_paint(server: Served, own_cache: Path):
    api = webuiapi.WebUIApi(port=server.port())
    names = [item["name"] for item in api.get_upscalers()]
    assert names == ["None", "Lanczos", "4x-Other", "4x-Toy"]
    paths = [str(own_cache / "models" / f"4x-{name}.safetensors") for name in ("Toy", "Other")]
    wanted = ImageRequest(model=paths[0], init_image=png(photo()))
    both = wanted.model_copy(update={"upscale": Upscale(scale=2, model=paths[1], share=0.5)})
    cut = wanted.model_copy(update={"width": 96, "height": 40})
    size = {"resize_mode": 1, "upscaling_resize_w": 96, "upscaling_resize_h": 40}
    extras = {"upscaler_2": "4x-Other", "extras_upscaler_2_visibility": 0.5, "upscaling_resize": 2}
    for fields, request in ((size, cut), (extras, both)):
        result = api.extra_single_image(photo(), upscaler_1="4x-Toy", **fields)
        model = open_for(request, "cpu", "float32")
        assert difference(result.image, model.generate(request).images[0]) == 0
    assert result.image.size == (128, 128) and "Postprocess upscaler 2: 4x-Other" in result.info
    lanczos = api.extra_batch_images([photo(), photo()], upscaler_1="Lanczos", upscaling_resize=1.5).images
    expected = photo().resize((96, 96), Image.Resampling.LANCZOS)
    assert [difference(image, expected) for image in lanczos] == [0, 0]


def test_a1111s_second_pass_through_a_file(server: Served, own_cache: Path, model: "LatentDiffusion"):
    api = webuiapi.WebUIApi(port=server.port())
    result = api.txt2img(
        prompt="a fox", seed=7, steps=2, width=64, height=64, enable_hr=True, hr_scale=1.5, hr_upscaler="4x-Toy",
        hr_second_pass_steps=1, denoising_strength=0.5,
    )  # fmt: skip
    assert result.image.size == (96, 96) and "Hires upscaler: 4x-Toy" in result.info["infotexts"][0]
    record = find_record(BytesIO(server.call(_picture(server))))
    path = own_cache / "models" / "4x-Toy.safetensors"
    assert record.request.hires.model == path.name and f"upscaler/{path.name}" in record.weights


def test_a1111s_inpainting_keeps_what_is_black(server: Served):
    api = webuiapi.WebUIApi(port=server.port())
    mask = Image.new("L", SIZE)
    mask.paste(255, (0, 0, 32, 64))
    result = api.img2img(
        images=[photo()], mask_image=mask, mask_blur=0, inpaint_full_res=False, inpainting_fill=1, prompt="a cat",
        width=64, height=64, steps=4, denoising_strength=1, seed=3,
    )  # fmt: skip
    right, left = (32, 0, 64, 64), (0, 0, 32, 64)
    assert difference(result.image.crop(right), photo().crop(right)) == 0
    assert difference(result.image.crop(left), photo().crop(left)) > 8


def test_openais_edit_paints_what_is_transparent(server: Served):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    answer = client.images.edit(
        image=png(photo()), mask=holed(SIZE), prompt="a cat", size="auto",
        extra_body={"strength": 1, "num_inference_steps": 4, "seed": 3},
    )  # fmt: skip
    assert answer.data is not None
    painted = decoded(answer.data[0].b64_json)
    right, left = (48, 0, 64, 64), (0, 0, 16, 64)  # between them lies the feather
    assert difference(painted.crop(right), photo().crop(right)) == 0
    assert difference(painted.crop(left), photo().crop(left)) > 8


def test_partial_pictures_come_near_the_picture(server: Served, model: "LatentDiffusion"):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    extra = {"num_inference_steps": 12, "seed": 7}
    stream = client.images.generate(
        prompt="a fox", stream=True, partial_images=3, size="64x64", output_format="webp", extra_body=extra
    )
    *partial, whole = list(stream)
    assert 1 <= len(partial) <= 3 and whole.type == "image_generation.completed"
    assert {decoded(event.b64_json).size for event in (*partial, whole)} == {SIZE}
    data = base64.b64decode(whole.b64_json)
    record = find_record(BytesIO(data))
    alone = model.generate(record.request.model_copy(update={"model": None}))
    assert difference(decoded(whole.b64_json), alone.images[0]) <= 1


def test_hugging_faces_picture_is_marmos(server: Served, model: "LatentDiffusion"):
    client = InferenceClient(model=f"{server.url}/models/stand-in", token="hf_none")
    image = client.text_to_image("a fox", num_inference_steps=3, width=64, height=64, seed=7, scheduler="DDIMScheduler")
    record = find_record(BytesIO(server.call(_picture(server))))
    assert record.request.sampler == "ddim"
    assert difference(image, model.generate(record.request.model_copy(update={"model": None})).images[0]) <= 1


async def _picture(server: Served) -> bytes:
    from marmo.serve.job import ImageQuery

    (newest, *_) = (await server.jobs.find_images(ImageQuery())).items
    return await server.jobs.picture(newest.id)
