"""CLIP's maps and configs: both directions, every dialect, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from marmo.models.clip import RN50, VIT_B_32, VIT_L_14, Clip, ClipConfig
from marmo.models.clip_resnet import RN50_IMAGE
from marmo.models.clip_text import VIT_B_32_TEXT, VIT_BIGG_14_TEXT, VIT_H_14_TEXT, VIT_L_14_TEXT, ClipText
from marmo.models.clip_vision import VIT_L_14_IMAGE
from marmo.weights.keymap import Constant, fill, shapes, to_ours, to_theirs
from marmo.weights.kinds import SD2
from marmo.weights.maps.clip import compvis_text, huggingface, huggingface_text, openai, openclip_text
from marmo.weights.maps.clip_config import (
    clip_config_from_json,
    clip_config_from_openai,
    clip_config_to_json,
    projected_text_config_from_json,
    text_config_from,
    text_config_from_json,
    text_config_from_openclip,
    text_config_to_json,
)
from marmo.weights.store import Tensors, from_state

TEXT = replace(VIT_L_14_TEXT, width=128, num_layers=2, num_heads=2, vocab_size=50, context_length=7)
OPENCLIP = replace(TEXT, num_layers=3, activation="gelu", embed_width=128)
VISION = replace(VIT_L_14_IMAGE, width=64, num_layers=1, num_heads=1, patch_size=8, embed_width=10, image_size=32)
RESNET = replace(RN50_IMAGE, width=4, depths=(1, 2, 1, 1), embed_width=10, image_size=64)
WITH_VISION, WITH_RESNET = ClipConfig(text=TEXT, image=VISION), ClipConfig(text=TEXT, image=RESNET)

CASES = {
    "huggingface text": (ClipText, TEXT, huggingface_text),
    "compvis text": (ClipText, TEXT, compvis_text),
    "openclip text": (ClipText, OPENCLIP, openclip_text),
    "projected text": (ClipText, OPENCLIP, huggingface_text),
    "huggingface": (Clip, WITH_VISION, huggingface),
    "openai vision": (Clip, WITH_VISION, openai),
    "openai resnet": (Clip, WITH_RESNET, openai),
}


def random(tensors: Tensors) -> Tensors:
    """The same names and shapes, other numbers."""
    draw = torch.Generator().manual_seed(0)
    return from_state({name: torch.randn(info.shape, generator=draw) for name, info in tensors.infos.items()})


def same(left: Tensors, right: Tensors) -> bool:
    return left.infos == right.infos and all(torch.equal(left.read(name), right.read(name)) for name in left.infos)


def changed(tensors: Tensors, **extra: torch.Tensor | None) -> Tensors:
    """With more tensors, or without one where the value is None; `__` stands for a dot."""
    state = {name: tensors.read(name) for name in tensors.infos}
    state |= {name.replace("__", "."): tensor for name, tensor in extra.items() if tensor is not None}
    gone = {name.replace("__", ".") for name, tensor in extra.items() if tensor is None}
    return from_state({name: tensor for name, tensor in state.items() if name not in gone})


def bare(tensors: Tensors) -> Tensors:
    return from_state({name.removeprefix("text_model."): tensors.read(name) for name in tensors.infos})


def meta(network: type[nn.Module], config: object) -> Tensors:
    with torch.device("meta"):
        return from_state(network(config).state_dict())


@pytest.mark.parametrize("case", CASES)
def test_round_trips_are_identical(case):
    network, config, rules = CASES[case]
    ours = random(from_state(network(config).state_dict()))
    theirs = to_theirs(rules(config), ours)
    again = to_ours(rules(config), theirs, shapes(network(config)), case)
    assert same(again, ours)
    assert same(to_theirs(rules(config), again), theirs)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_both_directions_are_strict(case):
    network, config, rules = CASES[case]
    ours = from_state(network(config).state_dict())
    theirs = to_theirs(rules(config), ours)
    constants = {rule.theirs for rule in rules(config) if isinstance(rule, Constant)}
    names = [name for name in theirs.infos if name not in constants]
    expected = shapes(network(config))

    def read(tensors: Tensors) -> Tensors:
        return to_ours(rules(config), tensors, expected, "the CLIP")

    with pytest.raises(ValueError, match=r"not the CLIP: 1 left over \(stranger\.weight\)"):
        read(changed(theirs, stranger__weight=torch.zeros(1)))
    with pytest.raises(ValueError, match="of another shape"):
        read(changed(theirs, **{names[0]: torch.zeros(3, 5, 7)}))
    for name in names:
        with pytest.raises(ValueError, match="missing"):
            read(changed(theirs, **{name: None}))
    with pytest.raises(AssertionError, match="stranger"):
        to_theirs(rules(config), changed(ours, stranger=torch.zeros(1)))


@pytest.mark.parametrize(("config", "count"), [(VIT_L_14, 446), (VIT_B_32, 302), (RN50, 489)])
def test_openai_names_are_as_many_as_in_the_published_code(config, count):
    theirs = to_theirs(openai(config), meta(Clip, config))
    assert len(theirs.infos) == count
    assert theirs.infos["text_projection"].shape == (config.text.width, config.image.embed_width)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
@pytest.mark.parametrize("rules", [huggingface_text, compvis_text])
@pytest.mark.parametrize(
    "ids", [None, torch.arange(7)[None], torch.arange(7).float()[None], torch.arange(7).half()[None] * 0.999]
)
def test_every_form_of_the_text_encoder_opens(prefix, rules, ids):
    ours = random(from_state(ClipText(TEXT).state_dict()))
    theirs = to_theirs(huggingface_text(TEXT), ours)
    theirs = theirs if prefix else bare(theirs)
    theirs = changed(theirs, **{f"{prefix}embeddings.position_ids": ids})
    assert same(to_ours(rules(TEXT), theirs, shapes(ClipText(TEXT)), "the text encoder"), ours)


def test_what_is_written_has_the_prefix_and_only_single_files_the_positions():
    ours = from_state(ClipText(TEXT).state_dict())
    folder, single = to_theirs(huggingface_text(TEXT), ours), to_theirs(compvis_text(TEXT), ours)
    assert all(name.startswith("text_model.") for name in single.infos)
    assert set(single.infos) - set(folder.infos) == {"text_model.embeddings.position_ids"}
    ids = single.read("text_model.embeddings.position_ids")
    assert ids.dtype == torch.int64
    assert ids.tolist() == [list(range(7))]


def test_openai_scalars_are_dropped():
    ours = random(from_state(Clip(WITH_VISION).state_dict()))
    scalars = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    theirs = changed(to_theirs(openai(WITH_VISION), ours), **scalars)
    assert same(to_ours(openai(WITH_VISION), theirs, shapes(Clip(WITH_VISION)), "the CLIP"), ours)


def test_a_projection_that_is_not_square_is_transposed():
    ours = random(from_state(Clip(WITH_VISION).state_dict()))
    peers, openais = to_theirs(huggingface(WITH_VISION), ours), to_theirs(openai(WITH_VISION), ours)
    assert torch.equal(peers.read("text_projection.weight"), openais.read("text_projection").T)
    assert torch.equal(peers.read("visual_projection.weight"), openais.read("visual.proj").T)


def test_transformers_has_no_resnet():
    with pytest.raises(ValueError, match="cannot hold a ResNet"):
        huggingface(WITH_RESNET)
    with pytest.raises(ValueError, match="cannot hold a ResNet"):
        clip_config_to_json(WITH_RESNET)


def test_openclip_text_towers_of_any_form_come_back():
    for config in (OPENCLIP, replace(OPENCLIP, embed_width=None), replace(OPENCLIP, num_cut=1, embed_width=None)):
        ours = from_state(ClipText(config).state_dict())
        theirs = to_theirs(openclip_text(config), ours)
        assert "transformer.resblocks.2.ln_1.weight" in theirs.infos and "text_projection" in theirs.infos
        told = text_config_from_openclip(theirs.infos)
        assert told == replace(OPENCLIP, embed_width=128)  # what was left out is filled in
        filled = ClipText(told)
        fill(filled, to_ours(openclip_text(told), theirs, shapes(filled), "a text"), torch.float32, torch.device("cpu"))
        ids = torch.tensor([[48, 3, 5, 49, 0, 0, 0]])
        whole = ClipText(config).eval()
        whole.load_state_dict({name: ours.read(name) for name in ours.infos})
        with torch.no_grad():
            assert torch.equal(filled(ids, 2), whole(ids, 2))
            if config.num_cut:  # the filler passes its input on, to the bit
                assert torch.equal(filled.hidden(ids, 1), whole.hidden(ids, 2))


def test_a_projection_is_a_matrix_of_its_own_in_a_folder():
    ours = from_state(ClipText(OPENCLIP).state_dict())
    theirs = to_theirs(huggingface_text(OPENCLIP), ours)
    assert torch.equal(theirs.read("text_projection.weight"), ours.read("proj.weight"))
    assert torch.equal(to_theirs(openclip_text(OPENCLIP), ours).read("text_projection"), ours.read("proj.weight").T)


@pytest.mark.long
@pytest.mark.parametrize(("num_layers", "activation"), [(12, "quick_gelu"), (13, "gelu"), (24, "gelu"), (32, "gelu")])
def test_openais_towers_have_12_layers_and_taller_ones_are_openclips(num_layers, activation):
    config = replace(TEXT, num_layers=num_layers)
    whole = replace(WITH_VISION, text=config)
    assert text_config_from(to_theirs(huggingface_text(config), meta(ClipText, config)).infos).activation == activation
    assert clip_config_from_openai(to_theirs(openai(whole), meta(Clip, whole)).infos).text.activation == activation


def test_published_configs_of_stable_diffusion_2_and_sdxl():
    """The text_encoder/config.json of 2.1, which lacks the last of 24 layers, and text_encoder_2/config.json."""
    h = {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096}
    g = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120}
    both = {"hidden_act": "gelu", "model_type": "clip_text_model", "eos_token_id": 2}
    config = text_config_from_json({**both, **h, "projection_dim": 512, "architectures": ["CLIPTextModel"]})
    assert SD2.folder_config(config) == replace(VIT_H_14_TEXT, num_cut=1)
    assert SD2.for_folder(VIT_H_14_TEXT) == replace(VIT_H_14_TEXT, num_cut=1)
    config = projected_text_config_from_json({**both, **g, "projection_dim": 1280})
    assert config == VIT_BIGG_14_TEXT
    assert projected_text_config_from_json(text_config_to_json(config)) == config


def test_two_spellings_at_once_are_refused():
    theirs = to_theirs(huggingface_text(TEXT), from_state(ClipText(TEXT).state_dict()))
    both = changed(theirs, final_layer_norm__weight=torch.ones(128))
    with pytest.raises(ValueError, match=r"1 given twice \(norm.weight\)"):
        to_ours(huggingface_text(TEXT), both, shapes(ClipText(TEXT)), "the text encoder")


@pytest.mark.parametrize("config", [VIT_L_14_TEXT, VIT_B_32_TEXT, TEXT, replace(TEXT, mlp_ratio=2)])
def test_the_text_config_is_found_from_shapes(config):
    theirs = to_theirs(compvis_text(config), meta(ClipText, config))
    assert text_config_from(theirs.infos) == config
    assert text_config_from(bare(theirs).infos, "gelu") == replace(config, activation="gelu")


@pytest.mark.parametrize("config", [VIT_L_14, VIT_B_32, RN50, WITH_VISION, WITH_RESNET])
def test_the_config_is_found_from_openai_shapes(config):
    assert clip_config_from_openai(to_theirs(openai(config), meta(Clip, config)).infos) == config


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("text_model.embeddings.token_embedding.weight", None, "token_embedding.weight is missing"),
        ("text_model.embeddings.token_embedding.weight", (5,), r"is of shape \[5\]"),
        ("text_model.embeddings.token_embedding.weight", (5, 0), r"is of shape \[5, 0\]"),
        ("text_model.embeddings.token_embedding.weight", (5, 200), "200 channels do not divide into heads of 64"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", None, "is missing"),
    ],
)
def test_shapes_that_are_no_text_encoder_are_refused(name, shape, words):
    theirs = to_theirs(huggingface_text(TEXT), from_state(ClipText(TEXT).state_dict()))
    with pytest.raises(ValueError, match=words):
        text_config_from(changed(theirs, **{name: None if shape is None else torch.zeros(shape)}).infos)


@pytest.mark.parametrize(("name", "count"), [("visual.positional_embedding", 16), ("visual.positional_embedding", 1)])
def test_positions_that_make_no_square_are_refused(name, count):
    theirs = to_theirs(openai(WITH_VISION), from_state(Clip(WITH_VISION).state_dict()))
    with pytest.raises(ValueError, match=f"{name} has {count} rows, no square and 1"):
        clip_config_from_openai(changed(theirs, **{name: torch.zeros(count, 64)}).infos)


@pytest.mark.parametrize("config", [VIT_L_14_TEXT, TEXT, replace(TEXT, activation="gelu", mlp_ratio=2)])
def test_json_round_trip(config):
    assert text_config_from_json(json.loads(json.dumps(text_config_to_json(config)))) == config


@pytest.mark.parametrize("config", [VIT_L_14, VIT_B_32, WITH_VISION])
def test_json_round_trip_of_the_whole(config):
    assert clip_config_from_json(json.loads(json.dumps(clip_config_to_json(config)))) == config


def test_json_without_fields_means_what_transformers_assumes():
    assert text_config_from_json({}) == VIT_B_32_TEXT
    assert clip_config_from_json({}) == VIT_B_32


# What transformers 4.16 wrote into `text_config` and `vision_config` beside CLIP's own options.
INHERITED_2022 = json.loads("""{
    "add_cross_attention": false, "architectures": null, "attention_dropout": 0.0, "bad_words_ids": null,
    "bos_token_id": 0, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": null,
    "decoder_start_token_id": null, "diversity_penalty": 0.0, "do_sample": false, "dropout": 0.0,
    "early_stopping": false, "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2, "finetuning_task": null,
    "forced_bos_token_id": null, "forced_eos_token_id": null, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_factor": 1.0, "initializer_range": 0.02, "is_decoder": false, "is_encoder_decoder": false,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20,
    "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": false, "output_hidden_states": false, "output_scores": false, "pad_token_id": 1,
    "prefix": null, "problem_type": null, "projection_dim": 768, "pruned_heads": {}, "remove_invalid_values": false,
    "repetition_penalty": 1.0, "return_dict": true, "return_dict_in_generate": false, "sep_token_id": null,
    "task_specific_params": null, "temperature": 1.0, "tie_encoder_decoder": false, "tie_word_embeddings": true,
    "tokenizer_class": null, "top_k": 50, "top_p": 1.0, "torch_dtype": null, "torchscript": false,
    "transformers_version": "4.16.0.dev0", "typical_p": 1.0, "use_bfloat16": false
}""")


def test_a_config_of_2022_says_some_things_twice():
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    image = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    obj = {
        "_name_or_path": "clip-vit-large-patch14/",
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": INHERITED_2022 | text | {"model_type": "clip_text_model", "vocab_size": 49408},
        "text_config_dict": text | {"projection_dim": 768},
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": INHERITED_2022 | image | {"model_type": "clip_vision_model", "patch_size": 14},
        "vision_config_dict": image | {"patch_size": 14, "projection_dim": 768},
    }
    assert clip_config_from_json(obj) == VIT_L_14
    assert clip_config_from_json(obj | {"text_config_dict": None, "vision_config_dict": None}) == VIT_L_14


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": 5}, "text_config in the config.json is 5; it must be an object"),
        ({"vision_config": {"num_channels": 4}}, r"num_channels 4 \(only 3\)"),
        ({"vision_config": {"patch_size": [14, 14]}}, "patch_size"),
        ({"model_type": "siglip"}, "model_type 'siglip'"),
    ],
)
def test_json_of_the_whole_that_cannot_be_expressed_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        clip_config_from_json(clip_config_to_json(VIT_L_14) | change)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("hidden_act", "silu", "hidden_act .* is 'silu'; it must be quick_gelu or gelu"),
        ("hidden_act", ["gelu"], "hidden_act"),
        ("model_type", "t5", r"model_type 't5' \(only 'clip_text_model'\)"),
        ("layer_norm_eps", 1e-6, r"layer_norm_eps 1e-06 \(only 1e-05\)"),
        ("intermediate_size", 3000, "intermediate_size 3000 .* no multiple of hidden_size 768"),
        ("num_attention_heads", 7, "num_attention_heads 7 .* does not divide hidden_size 768"),
        ("num_hidden_layers", 0, "num_hidden_layers .* a whole number from 1 to 128"),
        ("num_hidden_layers", 10**9, "num_hidden_layers"),
        ("vocab_size", True, "vocab_size"),
        ("rotary", "yes", "asks for what Marmo's network does not have: rotary 'yes'"),
        ("hidden_size", "768", "hidden_size"),
        ("max_position_embeddings", None, "max_position_embeddings"),
    ],
)
def test_json_that_cannot_be_expressed_is_refused(field, value, words):
    with pytest.raises(ValueError, match=words):
        text_config_from_json({**text_config_to_json(VIT_L_14_TEXT), field: value})


@torch.no_grad()
@pytest.mark.parametrize("config", [WITH_VISION, WITH_RESNET])
def test_a_filled_network_is_the_one_that_was_written(config):
    torch.manual_seed(0)
    written = Clip(config).eval()
    theirs = to_theirs(openai(config), from_state(written.state_dict()))
    with torch.device("meta"):
        opened = Clip(config).eval()
    fill(opened, to_ours(openai(config), theirs, shapes(opened), "the CLIP"), torch.float32, torch.device("cpu"))
    ids, pixels = torch.tensor([[48, 3, 49]]), torch.randn(2, 3, config.image.image_size, config.image.image_size)
    assert torch.equal(opened(ids, pixels), written(ids, pixels))
