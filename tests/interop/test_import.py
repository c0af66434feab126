"""Files of every layout come in, with a report, and go out again as they were."""

from __future__ import annotations

import pytest
import torch
from helpers.original_names import original_unet_module
from helpers.tiny_bases import FAMILIES, adapted, base_answers, distance, pipe_answers, tiny_base
from safetensors.torch import load_file, save_file
from torch import nn

import symdream
from symdream.diffusion.adapters import attach, save_adapters
from symdream.errors import RequestError
from symdream.interop.attach import attach_adapter
from symdream.interop.collect import collect
from symdream.interop.export import export
from symdream.interop.inspect import inspect_adapter
from symdream.interop.lora_file import write_diffusers_lora, write_lora
from symdream.interop.read import read_adapter
from symdream.interop.warm_start import warm_start
from symdream.tuners import METHODS, set_ramp


def save_run(base, method: str, folder, u: float | None = None):
    """What the trainer leaves in adapter/."""
    metadata = {"method": method, "alpha": 2.0, "u": u, "family": base.family, "base": {"identity": base.identity}}
    save_adapters(base, list(base.components()), folder, metadata)
    return folder


def singlora_saved_at(u: float, folder):
    """A base with a SingLoRA whose ramp has come to `u`, saved in `folder`."""
    base = adapted("sd1", "singlora")
    for component in base.components().values():
        set_ramp(component, u)
    save_run(base, "singlora", folder)
    return base


@pytest.mark.parametrize("method", METHODS)
def test_the_trainers_folder_comes_back_as_it_was(method, tmp_path):
    base = adapted("sd1", method)
    save_run(base, method, tmp_path)
    fresh = tiny_base("sd1")
    match = attach_adapter(fresh.components(), read_adapter(tmp_path))
    assert distance(base_answers(fresh), base_answers(base)) < 1e-6
    assert not match.unmatched and not match.ignored and len(match.matched) == 128 + 8


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_a_native_folder_exports_without_its_base(method, tmp_path):
    base = adapted("sd1", method)
    adapter = read_adapter(save_run(base, method, tmp_path))
    wanted = collect(base.components())
    for place, layer in adapter.plain().layers.items():
        torch.testing.assert_close(layer.B @ layer.A, wanted.layers[place].B @ wanted.layers[place].A)


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_one_native_file_alone_comes_back(method, tmp_path):
    base = adapted("sd1", method)
    save_run(base, method, tmp_path / "a", u=0.7 if method == "singlora" else None)
    alone = tmp_path / "alone.safetensors"
    (tmp_path / "a" / "unet" / "adapter_model.safetensors").rename(alone)
    fresh = tiny_base("sd1")
    attach_adapter(fresh.components(), read_adapter(alone))
    assert distance(base_answers(fresh)[:1], base_answers(base)[:1]) < 1e-6


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft"])
def test_exported_files_come_back(layout, tmp_path):
    base = adapted("sdxl", "symlora")
    path = tmp_path / ("x" if layout == "peft" else "x.safetensors")
    write_lora(collect(base.components(), metadata={"family": "sdxl"}), path, layout)
    fresh = tiny_base("sdxl")
    attach_adapter(fresh.components(), read_adapter(path))
    assert distance(base_answers(fresh), base_answers(base)) < 1e-5


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_kohya_to_us_to_kohya_is_identical(family, dtype, tmp_path):
    base = adapted(family, "lora", alpha=3.0)
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    write_lora(collect(base.components(), metadata={"family": family}), first, "kohya", dtype=dtype)
    fresh = tiny_base(family)
    attach_adapter(fresh.components(), read_adapter(first))
    write_lora(collect(fresh.components(), metadata={"family": family}), second, "kohya", dtype=dtype)
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    assert all(one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
def test_an_alpha_that_is_a_whole_number_counts_as_diffusers_takes_it(dtype, tmp_path):
    path = tmp_path / "x.safetensors"
    write_lora(collect(adapted("sd1", "lora", alpha=3.0).components()), path, "kohya")
    tensors = load_file(path)
    save_file({k: torch.tensor(3, dtype=dtype) if k.endswith(".alpha") else t for k, t in tensors.items()}, path)
    pipe, fresh = tiny_base("sd1").pipeline(), tiny_base("sd1")
    pipe.load_lora_weights(path)
    attach_adapter(fresh.components(), read_adapter(path))
    assert distance(base_answers(fresh), pipe_answers(pipe, "sd1")) < 1e-6
    norms = [float((x.folded().B @ x.A).norm()) for x in read_adapter(path).layers.values()]
    assert [x["norm"] for x in inspect_adapter(path)["layers"]] == pytest.approx(norms)


def test_a_dora_of_kohyas_layout_comes_in_and_leaves_for_diffusers(tmp_path):
    base = adapted("sd1", "dora")
    tensors = {}
    for place, layer in collect(base.components()).layers.items():
        name = ("lora_unet_" if place.component == "unet" else "lora_te_") + place.module.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": layer.A, f"{name}.lora_up.weight": layer.B}
        tensors |= {f"{name}.alpha": torch.tensor(2.0), f"{name}.dora_scale": layer.magnitude[:, None].contiguous()}
    save_file(tensors, tmp_path / "k.safetensors")
    fresh = tiny_base("sd1")
    attach_adapter(fresh.components(), read_adapter(tmp_path / "k.safetensors"))
    assert distance(base_answers(fresh), base_answers(base)) < 1e-6
    write_diffusers_lora(fresh, tmp_path / "d.safetensors", {})
    pipe = tiny_base("sd1").pipeline()
    pipe.load_lora_weights(tmp_path / "d.safetensors")
    assert distance(pipe_answers(pipe, "sd1"), base_answers(base)) < 1e-5


def test_a_file_that_diffusers_saved_with_its_metadata_keeps_its_alpha(tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    base = adapted("sd1", "lora", alpha=7.0)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(base.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(base.text_encoder),
        unet_lora_adapter_metadata=base.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=base.text_encoder.peft_config["default"].to_dict(),
    )
    fresh = tiny_base("sd1")
    attach_adapter(fresh.components(), read_adapter(tmp_path / "pytorch_lora_weights.safetensors"))
    assert distance(base_answers(fresh), base_answers(base)) < 1e-6


def test_what_a_unet_saved_by_itself_comes_in(tmp_path):
    base = adapted("sd1", "lora", alpha=7.0)
    base.unet.save_lora_adapter(tmp_path, adapter_name="default")
    saved = tmp_path / "pytorch_lora_weights.safetensors"
    assert not any(key.startswith("unet.") for key in load_file(saved))
    fresh = tiny_base("sd1")
    attach_adapter(fresh.components(), read_adapter(saved))
    assert distance(base_answers(fresh)[:1], base_answers(base)[:1]) < 1e-6


def test_a_convolutions_lora_comes_in_like_in_diffusers(tmp_path):
    # kohya's default for SD 1.x trains proj_in and proj_out, which are 1x1 convolutions there.
    name, module = "lora_unet_down_blocks_0_attentions_0_proj_in", "down_blocks.0.attentions.0.proj_in"
    down, up = torch.randn(2, 32, 1, 1), torch.randn(32, 2, 1, 1)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    fresh = tiny_base("sd1")
    before = fresh.unet.get_submodule(module).weight.detach().clone()
    attach_adapter(fresh.components(), read_adapter(tmp_path / "x.safetensors"))
    layer = fresh.unet.get_submodule(module)
    layer.merge()
    update = 0.5 * (up.flatten(1) @ down.flatten(1))[:, :, None, None]
    torch.testing.assert_close(layer.get_base_layer().weight, before + update)


@torch.no_grad()
def originally_named(family: str, path, prefix: str, *, without: tuple[str, ...] = ()):
    """A LoRA of every layer of the UNet under its original name, and what the base answers with it: dense sums."""
    base, tensors = tiny_base(family), {}
    generator = torch.Generator().manual_seed(2)
    for name, layer in base.unet.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d) or name.startswith(without):
            continue
        weight = layer.weight
        down = 0.1 * torch.randn(2, *weight.shape[1:], generator=generator)
        up = 0.1 * torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=generator)
        weight += 0.5 * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        original = original_unet_module(name, base.unet)
        key = prefix + (original if prefix.endswith(".") else original.replace(".", "_"))
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(tensors, path)
    return base_answers(base)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
def test_every_layer_comes_in_under_its_original_name_and_leaves_for_diffusers(family, prefix, tmp_path):
    path, exported = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    wanted = originally_named(family, path, prefix)
    fresh = tiny_base(family)
    match = attach_adapter(fresh.components(), read_adapter(path))
    assert not match.unmatched and not match.ignored
    assert distance(base_answers(fresh), wanted) < 1e-5
    export(path, "diffusers", exported)
    pipe = tiny_base(family).pipeline()
    pipe.load_lora_weights(exported)
    assert distance(pipe_answers(pipe, family), wanted) < 1e-5


def test_sdxls_original_names_mean_what_diffusers_takes_them_for(tmp_path):
    # diffusers puts label_emb on no layer.
    path = tmp_path / "x.safetensors"
    originally_named("sdxl", path, "lora_unet_", without=("add_embedding",))
    pipe, fresh = tiny_base("sdxl").pipeline(), tiny_base("sdxl")
    pipe.load_lora_weights(path)
    attach_adapter(fresh.components(), read_adapter(path))
    assert distance(base_answers(fresh), pipe_answers(pipe, "sdxl")) < 1e-6


def test_names_that_lead_to_no_layer_are_told_and_not_exported(tmp_path, capsys):
    path, exported = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    originally_named("sd1", path, "lora_unet_")
    tensors = load_file(path)
    name = "lora_unet_input_blocks_1_0_in_layers_7"
    tensors |= {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(32, 2)}
    save_file(tensors, path)
    export(path, "diffusers", exported)
    assert f"2 keys of {path} are not used, such as {name}.lora_down.weight" in capsys.readouterr().err
    assert not [key for key in load_file(exported) if "layers" in key]
    assert len(inspect_adapter(path)["unknown_keys"]) == 2


def test_a_layer_of_comfyui_with_a_bias_of_its_own_is_left_out_whole(tmp_path):
    name = "diffusion_model.middle_block.1.proj_in"
    other = name.replace("proj_in", "proj_out")
    tensors = {f"{n}.lora_{s}.weight": torch.ones(2, 2) for n in (name, other) for s in ("up", "down")}
    save_file(tensors | {f"{name}.diff_b": torch.ones(2)}, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    assert [place.module for place in adapter.layers] == ["mid_block.attentions.0.proj_out"]
    assert len(adapter.ignored) == 3


def test_the_report_names_what_did_not_fit(tmp_path):
    base = adapted("sd1", "lora")
    path = tmp_path / "x.safetensors"
    write_diffusers_lora(base, path, {})
    tensors = load_file(path)
    place = "unet.down_blocks.9.attentions.0.to_q"
    tensors |= {f"{place}.lora_A.weight": torch.ones(2, 32), f"{place}.lora_B.weight": torch.ones(32, 2)}
    tensors["lora_unet_x.hada_w1_a"] = torch.ones(2, 2)
    save_file(tensors, path)
    match = attach_adapter(tiny_base("sd1").components(), read_adapter(path))
    assert [str(place) for place in match.unmatched] == [place]
    assert match.ignored == ["lora_unet_x.hada_w1_a"]
    assert "136 layers matched, 1 unmatched" in str(match)


def test_a_layer_with_a_part_that_is_not_understood_is_left_out_whole(tmp_path):
    tensors = {}
    for name in ("lora_unet_mid_block_attentions_0_proj_in", "lora_unet_mid_block_attentions_0_proj_out"):
        tensors |= {f"{name}.lora_down.weight": torch.ones(2, 64), f"{name}.lora_up.weight": torch.ones(64, 2)}
    tensors["lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight"] = torch.ones(2, 2)
    save_file(tensors, tmp_path / "x.safetensors")
    adapter = read_adapter(tmp_path / "x.safetensors")
    assert [place.module for place in adapter.layers] == ["mid_block.attentions.0.proj_out"]
    assert len(adapter.ignored) == 3


def test_zero_matches_and_other_architectures_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"unet.none.lora_A.weight": torch.ones(2, 4), "unet.none.lora_B.weight": torch.ones(4, 2)}, path)
    fresh = tiny_base("sd1")
    with pytest.raises(RequestError, match="0 of 1 layers fit"):
        attach_adapter(fresh.components(), read_adapter(path))
    write_diffusers_lora(adapted("sd1", "lora"), path, {})
    other = tiny_base("sd1")
    other.unet = type(other.unet).from_config(dict(other.unet.config) | {"cross_attention_dim": 48})
    with pytest.raises(RequestError, match="another architecture") as error:
        attach_adapter(other.components(), read_adapter(path))
    assert "32 -> 32 in the file and 48 -> 32 in this model" in str(error.value)
    for base in (fresh, other):
        assert not any("lora" in name for m in base.components().values() for name, _ in m.named_parameters())


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A trained SingLoRA's folder, and what its base answers with it."""
    base = adapted("sd1", "singlora")
    return save_run(base, "singlora", tmp_path_factory.mktemp("native") / "adapter"), base_answers(base)


class TestLoadAdapter:
    """symdream.load_adapter: native files in any diffusers pipeline, driven as a LoRA is."""

    def test_loads_weighs_disables_fuses_and_unloads(self, native):
        path, wanted = native
        pipe = tiny_base("sd1").pipeline()
        plain = pipe_answers(pipe, "sd1")
        match = symdream.load_adapter(pipe, path, "dog")
        assert len(match.matched) == 136
        assert distance(pipe_answers(pipe, "sd1"), wanted) < 1e-6
        pipe.disable_lora()
        assert distance(pipe_answers(pipe, "sd1"), plain) == 0
        pipe.enable_lora()
        pipe.set_adapters(["dog"], [0.0])
        assert distance(pipe_answers(pipe, "sd1"), plain) < 1e-6
        pipe.set_adapters(["dog"], [{"unet": 1.0, "text_encoder": 0.0}])
        unet, text = pipe_answers(pipe, "sd1")
        assert distance([unet], wanted[:1]) < 1e-6 and distance([text], plain[1:]) < 1e-6
        pipe.set_adapters(["dog"], [1.0])
        pipe.fuse_lora()
        assert distance(pipe_answers(pipe, "sd1"), wanted) < 1e-5
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
        assert distance(pipe_answers(pipe, "sd1"), plain) < 1e-5

    @pytest.mark.parametrize("method", METHODS)
    def test_weight_0_is_the_base_until_diffusers_sets_another(self, method, tmp_path):
        base = adapted("sd1", method)
        pipe = tiny_base("sd1").pipeline()
        plain = pipe_answers(pipe, "sd1")
        symdream.load_adapter(pipe, save_run(base, method, tmp_path), "dog", 0.0)
        assert distance(pipe_answers(pipe, "sd1"), plain) == 0
        pipe.set_adapters(["dog"], [1.0])
        assert distance(pipe_answers(pipe, "sd1"), base_answers(base)) < 1e-6

    def test_the_weight_scales_the_update(self, native, tmp_path):
        path, _ = native
        pipe = tiny_base("sd1").pipeline()
        symdream.load_adapter(pipe, path, "dog", 0.5)
        adapter = read_adapter(path).plain()
        place, layer = next(iter(adapter.layers.items()))
        module = getattr(pipe, place.component).get_submodule(place.module)
        torch.testing.assert_close(module.get_delta_weight("dog"), 0.5 * layer.B @ layer.A)

    def test_lives_beside_a_lora(self, native, tmp_path):
        path, wanted = native
        lora = adapted("sd1", "lora")
        write_diffusers_lora(lora, tmp_path / "l.safetensors", {})
        pipe = tiny_base("sd1").pipeline()
        pipe.load_lora_weights(tmp_path / "l.safetensors", adapter_name="style")
        symdream.load_adapter(pipe, path, "dog")
        pipe.set_adapters(["dog", "style"], [1.0, 0.0])
        assert distance(pipe_answers(pipe, "sd1"), wanted) < 1e-5
        pipe.set_adapters(["dog", "style"], [0.0, 1.0])
        assert distance(pipe_answers(pipe, "sd1"), base_answers(lora)) < 1e-5

    def test_refuses_a_name_that_is_taken(self, native):
        path, _ = native
        pipe = tiny_base("sd1").pipeline()
        symdream.load_adapter(pipe, path, "dog")
        with pytest.raises(RequestError, match="has an adapter called 'dog'"):
            symdream.load_adapter(pipe, path, "dog")


class TestWarmStart:
    @pytest.mark.parametrize(
        ("trained", "method", "rank"),
        [
            ("lora", "lora", 4),
            ("lora", "lora+", 6),
            ("lora", "dora", 6),
            ("dora", "dora", 4),
            ("singlora", "symlora", 4),
            ("symlora", "symlora", 6),
        ],
    )
    def test_training_starts_where_the_file_left(self, trained, method, rank, tmp_path):
        source = adapted("sd1", trained)
        save_run(source, trained, tmp_path)
        base = tiny_base("sd1")
        attach(base, method, rank, 8.0, "qkvo", list(base.components()), 0.0, 1)
        match = warm_start(base, tmp_path)
        assert len(match.matched) == 136
        assert distance(base_answers(base), base_answers(source)) < 1e-5
        assert any(p.requires_grad for p in base.unet.parameters())

    def test_singlora_that_was_saved_after_its_ramp_is_taken_bit_for_bit(self, tmp_path):
        source = singlora_saved_at(1.0, tmp_path)
        base = tiny_base("sd1")
        attach(base, "singlora", 4, 2.0, "qkvo", list(base.components()), 0.0, 1)
        warm_start(base, tmp_path)
        trained = dict(source.unet.named_parameters())
        assert all(torch.equal(p, trained[n]) for n, p in base.unet.named_parameters() if "singlora_A" in n)
        other = tiny_base("sd1")
        attach(other, "singlora", 6, 2.0, "qkvo", list(other.components()), 0.0, 1)
        with pytest.raises(RequestError, match="same rank: 4 in the file"):
            warm_start(other, tmp_path)

    @pytest.mark.parametrize(("u", "alpha"), [(0.3, 2.0), (1.0, 8.0), (0.04, 3.0)])
    def test_singlora_starts_at_the_strength_that_its_own_kind_was_saved_with(self, tmp_path, u, alpha):
        source = singlora_saved_at(u, tmp_path)
        base = tiny_base("sd1")
        attach(base, "singlora", 4, alpha, "qkvo", list(base.components()), 0.0, 1)
        warm_start(base, tmp_path)
        assert distance(base_answers(base), base_answers(source)) < 1e-5
        name = next(n for n, m in source.unet.named_modules() if hasattr(m, "singlora_A"))
        ours, theirs = (one.unet.get_submodule(name).get_delta_weight("default") for one in (base, source))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)

    def test_singlora_that_was_saved_before_its_ramp_began_is_refused(self, tmp_path):
        singlora_saved_at(0.0, tmp_path)
        base = tiny_base("sd1")
        attach(base, "singlora", 4, 2.0, "qkvo", list(base.components()), 0.0, 1)
        with pytest.raises(RequestError, match="no update to go on from"):
            warm_start(base, tmp_path)

    @pytest.mark.parametrize(
        ("trained", "method", "rank", "message"),
        [
            ("lora", "lora", 2, "has rank 4, this run trains rank 2"),
            ("lora", "singlora", 4, "SingLora cannot start from a LoRA"),
            ("lora", "symlora", 4, "SymLora cannot start from a LoRA"),
            ("dora", "lora", 4, "LoRA cannot start from a DoRA"),
            ("symlora", "lora", 4, "cannot start from a SymLoRA"),
        ],
    )
    def test_what_cannot_be_expressed_is_refused_and_changes_nothing(self, trained, method, rank, message, tmp_path):
        save_run(adapted("sd1", trained), trained, tmp_path)
        base = tiny_base("sd1")
        attach(base, method, rank, 2.0, "qkvo", list(base.components()), 0.0, 1)
        before = {name: p.detach().clone() for name, p in base.unet.named_parameters()}
        with pytest.raises(RequestError, match=message):
            warm_start(base, tmp_path)
        assert all(torch.equal(p, before[name]) for name, p in base.unet.named_parameters())


def test_a_linear_layer_on_a_convolution_of_the_same_size_is_told_apart(tmp_path):
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 64), f"{name}.lora_up.weight": torch.ones(64, 2)}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(RequestError, match="another architecture") as error:
        attach_adapter(tiny_base("sd1").components(), read_adapter(tmp_path / "x.safetensors"))
    assert "64 -> 64 in the file and 64 -> 64 (a convolution, 1 × 1) in this model" in str(error.value)
