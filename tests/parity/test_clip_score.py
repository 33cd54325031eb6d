"""CLIP score against transformers' CLIPModel with its own processor and tokenizer, by torchmetrics' formula."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from marmo.evaluate.clip_score import clip_cosine, clip_score, encode_pairs, open_clip
from marmo.evaluate.pictures import in_memory
from marmo.models.clip import Clip, ClipConfig
from marmo.models.clip_text import VIT_L_14_TEXT_TOY
from marmo.models.clip_vision import VIT_L_14_IMAGE
from marmo.text.bpe import clip_tokenizer
from marmo.weights.checkpoint import Checkpoint, Part
from marmo.weights.export import write_folder
from marmo.weights.forms import written
from marmo.weights.store import from_state

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

IMAGE = replace(VIT_L_14_IMAGE, width=32, num_layers=2, num_heads=2, patch_size=8, image_size=48, embed_width=24)
CONFIG = ClipConfig(text=replace(VIT_L_14_TEXT_TOY, width=32, num_layers=2, num_heads=2), image=IMAGE)
PROMPTS = ["a red fox, in snow", "two blue CATS!", "狐狸", "fox " * 90]


@torch.no_grad()
def test_the_scores_of_transformers_and_torchmetrics(tmp_path: Path) -> None:
    Processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil
    torch.manual_seed(0)
    clip = Clip(CONFIG)
    for name, weight in clip.named_parameters():
        weight.data = torch.randn(weight.shape) * (0.3 if "positions" not in name else 0.1)
    part = Part(written("clip", "diffusers"), CONFIG, from_state(clip.state_dict()))
    write_folder(Checkpoint(tmp_path, "clip", {"clip": part}, ()), tmp_path / "clip")
    clip_tokenizer().save(tmp_path / "clip")

    coarse = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    pictures = (F.interpolate(coarse, (70, 90), mode="bicubic").clamp(0, 1) * 255).byte()
    peer = transformers.CLIPModel.from_pretrained(tmp_path / "clip").eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "clip")
    process = Processor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    pixels = process([picture.permute(1, 2, 0).numpy() for picture in pictures], return_tensors="pt")
    ids = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    told = peer(**ids, **pixels)
    cosines = (told.image_embeds * told.text_embeds).sum(dim=1)

    ours = encode_pairs(open_clip(tmp_path / "clip"), in_memory(pictures, PROMPTS))
    assert (ours.pictures - told.image_embeds).abs().max() <= 1e-5
    assert (ours.texts - told.text_embeds).abs().max() <= 1e-5
    assert clip_cosine(ours).value.value == pytest.approx(100 * float(cosines.mean()), abs=1e-3)
    assert clip_score(ours).value.value == pytest.approx(float(2.5 * cosines.clamp(min=0).mean()), abs=1e-5)
    assert cosines.std() > 0.01
