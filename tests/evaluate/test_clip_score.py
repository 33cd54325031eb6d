"""CLIP score, retrieval and R-precision: closed forms on vectors, and a CLIP with its own tokenizer from a folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from marmo.evaluate.clip_score import Pairs, clip_cosine, clip_score, encode_pairs, open_clip, r_precision, retrieval
from marmo.evaluate.features import Space
from marmo.evaluate.pictures import in_memory
from marmo.models.clip import Clip, ClipConfig
from marmo.models.clip_text import VIT_L_14_TEXT_TOY
from marmo.models.clip_vision import VIT_L_14_IMAGE
from marmo.text.bpe import clip_tokenizer
from marmo.weights.keymap import to_theirs
from marmo.weights.maps.clip import huggingface
from marmo.weights.maps.clip_config import clip_config_to_json
from marmo.weights.store import from_state, write

SPACE = Space(network="clip", sha256="c" * 64, resize="clip 32", width=8)


def pairs(pictures: Tensor, texts: Tensor, prompts: tuple[str, ...] | None = None) -> Pairs:
    prompts = prompts or tuple(f"prompt {number}" for number in range(len(texts)))
    return Pairs(SPACE, F.normalize(pictures, dim=1), F.normalize(texts, dim=1), prompts)


def drawn(n: int, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


# --- the score --------------------------------------------------------------------------------------------------------


def test_the_score_stretches_cosines_and_forgives_negative_ones() -> None:
    """Cosines 1, 0, -1 and 0.6: the mean of 2.5, 0, 0 and 1.5."""
    pictures = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])
    some = pairs(pictures, torch.tensor([[1.0, 0.0]]).expand(4, 2))
    assert clip_score(some).value.value == pytest.approx((2.5 + 1.5) / 4)
    assert clip_cosine(some).value.value == pytest.approx(100 * 0.6 / 4)
    assert clip_cosine(some).value.n == clip_score(some).n == 4


def test_scores_carry_space_and_interval() -> None:
    score = clip_score(pairs(drawn(50), drawn(50)), seed=3)
    assert score.value.low < score.value.value < score.value.high
    assert str(score) == f"CLIP score {score.value}, 50 pictures, in clip (cccccccc) clip 32, seed 3"


def test_pictures_of_one_prompt_are_one_witness() -> None:
    """Four times the same four pictures make no interval narrower."""
    pictures, texts = drawn(20), drawn(20, seed=1)
    prompts = tuple(f"prompt {number}" for number in range(20))
    once = clip_score(pairs(pictures, texts, prompts)).value
    often = clip_score(pairs(pictures.repeat(4, 1), texts.repeat(4, 1), prompts * 4)).value
    apart = clip_score(pairs(pictures.repeat(4, 1), texts.repeat(4, 1))).value
    assert often.value == pytest.approx(once.value)
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)
    assert apart.high - apart.low < 0.7 * (once.high - once.low)


# --- retrieval --------------------------------------------------------------------------------------------------------


def shares(some: Pairs, ks: tuple[int, ...] = (1, 5)) -> list[tuple[float, float]]:
    return [(part.text_of_picture.value, part.picture_of_text.value) for part in retrieval(some, ks).value.parts]


def test_equal_vectors_are_always_found_and_unrelated_ones_by_chance() -> None:
    vectors = drawn(400, 32)
    assert shares(pairs(vectors, vectors)) == [(1.0, 1.0)] * 2
    (first, _), (fifth, back) = shares(pairs(vectors, drawn(400, 32, seed=1)))
    assert first < 0.02
    assert 0 < fifth < 0.04
    assert 0 < back < 0.04


def test_both_ways_are_counted_by_themselves() -> None:
    """Pictures 0 and 1 both lie at text 0: one of two texts is found, and of two pictures one finds the right text."""
    pictures, texts = torch.tensor([[1.0, 0.0], [0.9, 0.1]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert shares(pairs(pictures, texts), (1, 2)) == [(0.5, 1.0), (1.0, 1.0)]


def test_a_collapsed_tower_finds_nothing() -> None:
    """Everything is as near as the right one."""
    same = torch.tensor([[1.0, 0.0]]).expand(9, 2)
    assert shares(pairs(same, same), (1, 8, 9)) == [(0.0, 0.0), (0.0, 0.0), (1.0, 1.0)]


def test_any_picture_of_a_prompt_is_right() -> None:
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pictures = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    assert shares(pairs(pictures, texts, ("a", "a", "b")), (1,)) == [(1.0, 1.0)]


# --- R-precision ------------------------------------------------------------------------------------------------------


def test_r_precision_of_right_and_of_unrelated_pictures() -> None:
    vectors = drawn(300, 32)
    assert r_precision(pairs(vectors, vectors)).value.value == 1.0
    chance = r_precision(pairs(vectors, drawn(300, 32, seed=1)), num_false=9)
    assert chance.value.covers(0.1)
    assert chance.metric == "R-precision among 10"
    assert r_precision(pairs(vectors, drawn(300, 32, seed=1)), 9, seed=0).value == chance.value
    assert r_precision(pairs(vectors, drawn(300, 32, seed=1)), 9, seed=1).value != chance.value


def test_its_own_prompt_is_never_among_the_false_ones() -> None:
    """With all others drawn, R-precision is R@1 among the different prompts."""
    pictures, texts = drawn(40), drawn(40) + 0.5 * drawn(40, seed=1)
    some = pairs(pictures, texts)
    assert r_precision(some, num_false=39).value.value == shares(some, (1,))[0][0]


def test_too_few_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="with 99 others needs more than 2 different prompts"):
        r_precision(pairs(drawn(50), drawn(50), ("a", "b") * 25))


# --- a CLIP from a file -----------------------------------------------------------------------------------------------

IMAGE = replace(VIT_L_14_IMAGE, width=16, num_layers=1, num_heads=1, patch_size=8, image_size=32, embed_width=8)
CONFIG = ClipConfig(text=replace(VIT_L_14_TEXT_TOY, num_layers=1), image=IMAGE)


def saved(folder: Path, config: ClipConfig = CONFIG) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    write(folder / "model.safetensors", to_theirs(huggingface(config), from_state(Clip(config).state_dict())))
    (folder / "config.json").write_text(json.dumps(clip_config_to_json(config)))
    return folder


def pictures(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_pairs_of_pictures_that_have_prompts(tmp_path: Path) -> None:
    encoder = open_clip(saved(tmp_path / "clip"))
    some = encode_pairs(encoder, in_memory(pictures(4), ["a fox", "", "a wolf", "a fox"]), batch_size=2)
    assert some.prompts == ("a fox", "a wolf", "a fox")
    assert some.groups.tolist() == [0, 1, 0]
    assert torch.allclose(some.texts[0], some.texts[2], atol=1e-6)
    assert torch.allclose(some.pictures, encoder.pictures(pictures(4)[[0, 2, 3]]), atol=1e-6)
    assert some.space == encoder.space
    assert str(encoder.space).endswith("clip 32")


def test_what_stands_before_every_prompt_stands_in_the_result(tmp_path: Path) -> None:
    encoder = open_clip(saved(tmp_path / "clip"))
    some = encode_pairs(encoder, in_memory(pictures(2), ["a fox", "a wolf"]), prefix="A photo depicts ")
    assert torch.allclose(some.texts, encoder.texts(["A photo depicts a fox", "A photo depicts a wolf"]), atol=1e-6)
    assert some.prompts == ("a fox", "a wolf")
    assert str(clip_score(some)).startswith('CLIP score with "A photo depicts "')


def test_no_prompts_are_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no picture has a prompt"):
        encode_pairs(open_clip(saved(tmp_path / "clip")), in_memory(pictures(2)))


@pytest.mark.long
def test_the_tokenizer_in_the_folder_is_used(tmp_path: Path) -> None:
    """Here it differs in its padding, which the text tower reads."""
    plain, padded = saved(tmp_path / "plain"), saved(tmp_path / "padded")
    replace(clip_tokenizer(), pad=0).save(padded)
    first, second = open_clip(plain), open_clip(padded)
    assert (first.tokenizer.pad, second.tokenizer.pad) == (49407, 0)


def test_long_prompts_are_cut_and_counted(tmp_path: Path) -> None:
    encoder = open_clip(saved(tmp_path / "clip"))
    long = "fox " * 100
    assert encoder.num_cut(["a fox", long]) == 1
    assert torch.allclose(*encoder.texts([long, long + "wolf"]), atol=1e-6)


def test_another_vocabulary_needs_its_own_tokenizer(tmp_path: Path) -> None:
    few = saved(tmp_path / "few", replace(CONFIG, text=replace(CONFIG.text, vocab_size=600)))
    with pytest.raises(
        ValueError, match="knows 600 tokens, and the tokenizer has 49408; its own must lie in the folder"
    ):
        open_clip(few)


def test_half_a_clip_is_refused(stand_in: Path) -> None:
    with pytest.raises(ValueError, match="scores need a whole CLIP"):
        open_clip(stand_in)
