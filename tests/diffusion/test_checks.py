"""`symdream base check`: what cannot be loaded is told, and what can be is not blamed."""

import pytest
import torch
from helpers.tiny_bases import FAMILIES, tiny_base, write_base
from helpers.tiny_models import write_tiny_sd
from safetensors.torch import load_file, save_file

from symdream.diffusion.base import load_base
from symdream.diffusion.checks import AGAIN, check_folder, check_source
from symdream.diffusion.export_base import export_base
from symdream.diffusion.fitting import misfit
from symdream.diffusion.folders import weight_components
from symdream.diffusion.names import resolve_name
from symdream.errors import RequestError

OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def problems(base):
    return [finding.problem for finding in check_source(resolve_name(str(base))) if finding.problem]


def rewrite(file, change):
    """Store in a safetensors file what `change` makes of its state dict."""
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def set_weight(name, value):
    """A change of a state dict; None takes the weight out."""
    return lambda state: {k: v for k, v in {**state, name: value}.items() if v is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_whole_folders_are_right(tmp_path, family, variant):
    assert problems(write_tiny_sd(tmp_path / "tiny", family, variant=variant)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_that_diffusers_writes_are_right(tmp_path, family):
    assert problems(write_base(tiny_base(family), tmp_path / "tiny")) == []


def test_sprite_is_right_as_it_comes_and_as_a_folder(tmp_path):
    assert problems("sprite") == []
    export_base(load_base("sprite"), tmp_path / "sprite")
    assert problems(tmp_path / "sprite") == []


def in_shards(folder):
    base = load_base(str(folder))
    for component in weight_components(base.family):
        for file in (folder / component).glob("*.safetensors"):
            file.unlink()
        model = base.vae if component == "vae" else base.components()[component]
        model.save_pretrained(folder / component, max_shard_size="200KB")
    return folder


def test_shards_are_right_together_and_each_told_if_a_weight_lacks(tmp_path):
    folder = in_shards(write_tiny_sd(tmp_path / "tiny", "sdxl"))
    assert len(list(folder.glob("*/*-of-*.safetensors"))) > 4
    assert problems(folder) == []
    shards = sorted((folder / "unet").glob("*.safetensors"))
    [shard] = [shard for shard in shards if "conv_in.bias" in load_file(shard)]
    rewrite(shard, set_weight("conv_in.bias", None))
    assert problems(folder) == [f"the unet lacks 1 of its weights, conv_in.bias first; {AGAIN}"] * len(shards)


def test_names_and_extras_that_loading_knows_are_right(tmp_path):
    folder = write_tiny_sd(tmp_path / "tiny", "sdxl")

    def old(state):
        def name(key):
            for new, old in OLD_NAMES.items():
                key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
            return key

        return {name(key): tensor for key, tensor in state.items()} | {"model_ema.decay": torch.zeros(1)}

    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    rewrite(vae, old)
    assert "decoder.mid_block.attentions.0.query.weight" in load_file(vae)
    # As the hub's older files are: every name below text_model, and the positions counted.
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    rewrite(folder / "text_encoder_2" / "model.safetensors", lambda state: state | positions)
    first = folder / "text_encoder" / "model.safetensors"
    rewrite(first, lambda state: {f"text_model.{key}": tensor for key, tensor in state.items()} | positions)
    assert problems(folder) == []
    load_base(str(folder))


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ("unet", "conv_in.bias"),
        ("vae", "decoder.conv_in.weight"),
        ("text_encoder", "final_layer_norm.bias"),
        ("text_encoder_2", "text_model.final_layer_norm.bias"),
        ("text_encoder_2", "text_projection.weight"),
    ],
)
def test_a_weight_that_lacks_or_has_another_shape_is_named_and_loading_says_the_same(tmp_path, capfd, part, weight):
    folder = write_tiny_sd(tmp_path / "tiny", "sdxl")
    [file] = (folder / part).glob("*.safetensors")
    shape = list(load_file(file)[weight].shape)
    for value, told in (
        (torch.zeros(5), f"has 1 of its weights in a wrong shape, {weight} first: [5] instead of {shape}"),
        (None, f"lacks 1 of its weights, {weight} first"),
    ):
        rewrite(file, set_weight(weight, value))
        capfd.readouterr()
        [bad] = [finding for finding in check_folder(folder) if finding.problem]
        assert (bad.file, bad.problem) == (f"{part}/{file.name}", f"the {part} {told}; {AGAIN}")
        with pytest.raises(RequestError) as refused:
            load_base(str(folder))
        assert refused.value.what == f"The {part} of this base {told}."
        assert "get it again" in refused.value.fix
        assert capfd.readouterr() == ("", "")  # nothing of what the libraries would say of it


def test_a_config_that_no_model_is_built_from_is_told(tmp_path):
    folder = write_tiny_sd(tmp_path / "tiny")
    (folder / "unet" / "config.json").write_text(
        '{"_class_name": "UNet2DConditionModel", "in_channels": 4, "down_block_types": ["Unknown"]}'
    )
    [problem] = problems(folder)
    assert problem.startswith("the unet cannot be built from its config.json: ")


@pytest.mark.parametrize(
    ("missing", "mismatched", "told"),
    [
        ([], [], None),
        ({"b", "a"}, [("c", (1,), (2,))], "lacks 2 of its weights, a first"),
        (
            [],
            [("b", (1,), (2,)), ("a", (3, 4), (5,))],
            "has 2 of its weights in a wrong shape, a first: [3, 4] instead of [5]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_counted(missing, mismatched, told):
    assert misfit(missing, mismatched) == told
