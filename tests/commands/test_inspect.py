from __future__ import annotations

import builtins
import json

import pytest
import torch
from helpers.tiny_bases import adapted
from PIL import Image
from safetensors.torch import load_file, save_file

from symdream.cli import run_command
from symdream.diffusion.adapters import save_adapters
from symdream.interop.collect import collect
from symdream.interop.inspect import inspect_adapter
from symdream.interop.lora_file import write_lora

OURS = {"base": {"identity": "sprite"}, "trigger": "sks", "class_noun": "dog"}


@pytest.fixture(scope="module", params=["lora", "dora", "singlora", "symlora"])
def native(request, tmp_path_factory):
    base = adapted("sd1", request.param)
    folder = tmp_path_factory.mktemp(request.param)
    save_adapters(base, list(base.components()), folder, {**OURS, "method": request.param})
    return request.param, folder, base


def test_it_tells_method_rank_trigger_base_and_the_true_norms(native):
    method, folder, base = native
    facts = inspect_adapter(folder)
    layout = "peft" if method in ("lora", "dora") else "native"
    assert (facts["method"], facts["format"], facts["ranks"]) == (method, layout, [4])
    assert (facts["trigger"], facts["base"]) == ("sks dog", "sprite")
    assert facts["components"] == {"unet": 128, "text_encoder": 8}
    for layer in facts["layers"]:
        module = base.components()[layer["component"]].get_submodule(layer["layer"].removeprefix("text_model."))
        if method == "dora":
            # Its own delta has the magnitudes in it; told is B A.
            update = 0.5 * module.lora_B.default.weight @ module.lora_A.default.weight
        else:
            update = module.get_delta_weight("default")
        update = update.detach().double()
        assert layer["norm"] == pytest.approx(float(update.norm()), rel=1e-5)
        assert layer["spectrum"] == pytest.approx(torch.linalg.svdvals(update)[:4].tolist(), rel=1e-4, abs=1e-7)
        assert layer["shape"] == list(update.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_number_format_is_read_without_torch(dtype, tmp_path):
    adapter = collect(adapted("sd1", "symlora").components(), metadata=OURS)
    path = tmp_path / "x.safetensors"
    write_lora(adapter, path, "kohya", dtype=dtype)
    facts = inspect_adapter(path)
    assert facts["format"] == "kohya" and not facts["unknown_keys"]
    norms = {f"{x['component']}.{x['layer']}": x["norm"] for x in facts["layers"]}
    for place, layer in adapter.layers.items():
        assert norms[str(place)] == pytest.approx(float((layer.B @ layer.A).norm()), rel=1e-2)


def test_warnings_name_a_low_ramp_a_zero_update_and_unknown_keys(tmp_path, capsys):
    base = adapted("sd1", "singlora")
    save_adapters(base, ["unet"], tmp_path / "a", {**OURS, "method": "singlora"})
    assert any("u = 0.7" in w for w in inspect_adapter(tmp_path / "a")["warnings"])
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    zero = {f"{place}.lora_A.weight": torch.ones(2, 8), f"{place}.lora_B.weight": torch.zeros(8, 2)}
    save_file(zero | {"strange": torch.ones(1)}, tmp_path / "z.safetensors")
    assert run_command("inspect", [str(tmp_path / "z.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "the update is zero" in printed and "1 unknown keys, such as strange" in printed


def test_the_table_and_the_json_tell_the_same(native, capsys):
    _, folder, _ = native
    assert run_command("inspect", [str(folder)]) == 0
    table = capsys.readouterr().out
    assert run_command("inspect", [str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert f"{facts['parameters']:,}" in table
    lines = {line.split()[0]: line.split()[1:] for line in table.splitlines()[table.splitlines().index("") + 2 :]}
    assert len(lines) == len(facts["layers"])
    for layer in facts["layers"]:
        out, into = layer["shape"]
        share = f"{layer['spectrum'][0] ** 2 / sum(value**2 for value in layer['spectrum']):.0%}"
        told = [*f"{layer['rank']} {into} -> {out} {layer['norm']:.3g} {layer['spectrum'][0]:.3g} {share}".split()]
        assert lines[f"{layer['component']}.{layer['layer']}"] == told


def test_a_file_of_several_ranks_tells_the_least_and_the_largest_and_what_it_was_trained_as(tmp_path, capsys):
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_"
    tensors = {}
    for name, rank in (("q", 2), ("k", 3), ("v", 7)):
        tensors |= {
            f"{place}{name}.lora_A.weight": torch.ones(rank, 8),
            f"{place}{name}.lora_B.weight": torch.ones(8, rank),
        }
    told = json.dumps({"method": "singlora", "trigger": "sks", "class_noun": "dög", "shapes": {}})
    save_file(tensors, tmp_path / "x.safetensors", {"symdream": told})
    assert run_command("inspect", [str(tmp_path / "x.safetensors")]) == 0
    printed = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in printed.split("\n\n")[0].splitlines())
    assert "symdream.shapes" not in printed, "which the table shows"
    assert (lines["rank"], lines["method"], lines["trigger"]) == ("2 to 7", "lora (trained as singlora)", "sks dög")
    save_file(tensors, tmp_path / "x.safetensors", {"symdream": told.replace("singlora", "lora")})
    assert run_command("inspect", [str(tmp_path / "x.safetensors")]) == 0
    assert "trained as" not in capsys.readouterr().out
    assert run_command("inspect", [str(tmp_path / "x.safetensors"), "--json"]) == 0
    assert "dög" in capsys.readouterr().out


def test_a_plot_is_drawn(native, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    _, folder, _ = native
    assert run_command("inspect", [str(folder), "--plot", str(tmp_path / "p.PNG")]) == 0
    assert Image.open(tmp_path / "p.PNG").width > 500
    assert run_command("inspect", [str(folder), "--plot", str(tmp_path / "p.jpg")]) == 2
    assert "p.jpg must end in .png" in capsys.readouterr().err


def test_a_plot_replaces_no_picture_unasked(native, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    _, folder, _ = native
    preview = tmp_path / "owl.png"
    preview.write_bytes(b"the picture of the run")
    assert run_command("inspect", [str(folder), "--plot", str(preview)]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert preview.read_bytes() == b"the picture of the run"
    assert run_command("inspect", [str(folder), "--plot", str(preview), "--overwrite"]) == 0
    assert preview.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_says_what_to_install(native, tmp_path, capsys, monkeypatch):
    _, folder, _ = native
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert run_command("inspect", [str(folder), "--plot", str(tmp_path / "p.png")]) == 2
    assert 'pip install "symdream[bench]"' in capsys.readouterr().err


def test_parameters_are_counted_over_all_files(native):
    _, folder, _ = native
    counted = sum(t.numel() for file in folder.glob("*/*.safetensors") for t in load_file(file).values())
    assert inspect_adapter(folder)["parameters"] == counted


EVIL, SHOWN = (
    "\x1b[2Jé 日本 👨‍👩‍👧\nbase    sprite\r\x9b1m\u202e",
    r"\x1b[2Jé 日本 👨‍👩‍👧\nbase    sprite\r\x9b1m\u202e",
)


def test_what_a_file_says_can_neither_clear_the_screen_nor_forge_a_line(tmp_path, capsys):
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{place}.lora_A.weight": torch.ones(2, 8), f"{place}.lora_B.weight": torch.ones(8, 2)}
    path = tmp_path / "x.safetensors"
    texts = {"modelspec.trigger_phrase": EVIL, "ss_sd_model_name": EVIL, "note": EVIL, EVIL: "x"}
    save_file(tensors, path, texts)
    assert run_command("inspect", [str(path)]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert f"trigger     {SHOWN}" in lines and f"base        {SHOWN}" in lines
    assert f"metadata    note = {SHOWN}" in lines and f"metadata    {SHOWN} = x" in lines
    assert run_command("inspect", [str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["trigger"] == EVIL, "JSON has escapes of its own"


def test_a_file_whose_names_would_move_the_cursor_is_refused(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    save_file({f"unet.{EVIL}.lora_A.weight": torch.ones(2, 8), f"unet.{EVIL}.lora_B.weight": torch.ones(8, 2)}, path)
    assert run_command("inspect", [str(path)]) == 2
    assert "its header cannot be read" in capsys.readouterr().err
