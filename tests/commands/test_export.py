"""symdream export, from a trained folder to files."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
import torch
from helpers.disk import file_size_limit
from helpers.tiny_bases import adapted, base_answers, distance, tiny_base, write_base
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from symdream.cli import run_command
from symdream.commands import export
from symdream.diffusion.adapters import save_adapters
from symdream.errors import RequestError
from symdream.interop.attach import attach_adapter
from symdream.interop.collect import collect
from symdream.interop.export import export as export_file
from symdream.interop.lora_file import write_lora
from symdream.interop.merge import merge_into
from symdream.interop.read import read_adapter


@pytest.fixture
def run(tmp_path):
    """A run folder as the trainer leaves it (its adapter, a sample), and what the adapted base answers."""
    return make_run(tmp_path / "runs" / "dog é", "symlora")


def make_run(folder, method: str):
    base = adapted("sd1", method)
    base.identity = f"folder:{folder.name}"
    metadata = {
        "method": method,
        "rank": 4,
        "alpha": 2.0,
        "u": 0.7 if method == "singlora" else None,
        "base": {"identity": base.identity, "hash": base.hash},
        "trigger": "sks",
        "class_noun": "dog",
        "prompts": ["a photo of a sks dog"],
    }
    save_adapters(base, list(base.components()), folder / "adapter", metadata)
    (folder / "samples").mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "samples" / "step-00010.png")
    return folder, base_answers(base)


def answers_of(path):
    fresh = tiny_base("sd1")
    attach_adapter(fresh.components(), read_adapter(path))
    return base_answers(fresh)


def test_a_file_comes_with_text_and_picture_and_the_paths_are_printed(run, tmp_path, capsys):
    folder, wanted = run
    path = tmp_path / "new folder" / "my dog.safetensors"
    assert run_command("export", [str(folder), "--to", "kohya", "-o", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [str(path.with_suffix(s)) for s in (".safetensors", ".txt", ".png")]
    assert "136 layers" in printed.err
    assert "<lora:my dog:1>" in path.with_suffix(".txt").read_text()
    assert Image.open(path.with_suffix(".png")).size == (8, 8)
    assert distance(answers_of(path), wanted) < 1e-5
    assert sorted(p.name for p in path.parent.iterdir()) == ["my dog.png", "my dog.safetensors", "my dog.txt"]


def test_rounding_and_compressing_tell_their_errors(run, tmp_path, capsys):
    folder, wanted = run
    path = tmp_path / "x.safetensors"
    arguments = ["--to", "diffusers", "-o", str(path), "--dtype", "fp16", "--compress", "3"]
    assert run_command("export", [str(folder), *arguments]) == 0
    said = capsys.readouterr().err
    assert "compressing changed the updates by" in said and "rounding to fp16 changed the updates by" in said
    tensors = load_file(path)
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert {t.shape[0] for name, t in tensors.items() if "lora_A" in name} == {3}
    assert 1e-3 < distance(answers_of(path), wanted) < 1


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
@pytest.mark.parametrize("size", [40_000, 90_000])
def test_a_size_is_kept_and_used(run, tmp_path, to, size):
    folder, _ = run
    path = tmp_path / "x.safetensors"
    flags = ["--compress", f"{size}B", "--dtype", "fp16"]
    assert run_command("export", [str(folder), "--to", to, "-o", str(path), *flags]) == 0
    assert 0.97 * size < path.stat().st_size <= size
    with safe_open(path, "pt") as file:
        assert 0 < json.loads(file.metadata()["symdream"])["compression_error"] < 1


@pytest.mark.parametrize("size", [60_000, 90_000, 120_000])
def test_a_size_is_kept_by_pefts_folder_with_its_configurations(run, tmp_path, size):
    folder, _ = run
    out = tmp_path / "peft"
    flags = ["--compress", f"{size}B", "--dtype", "fp16"]
    assert run_command("export", [str(folder), "--to", "peft", "-o", str(out), *flags]) == 0
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert 0.9 * size < written <= size


def test_a_dora_keeps_every_layer_in_a_size_or_says_which_size_that_takes(tmp_path, capsys):
    folder, wanted = make_run(tmp_path / "runs" / "dora", "dora")
    path = tmp_path / "x.safetensors"
    command = [str(folder), "--to", "diffusers", "--dtype", "fp16", "-o", str(path), "--compress"]
    assert run_command("export", [*command, "50KB"]) == 2
    said = capsys.readouterr().err
    assert "Not even one rank and the magnitudes of each layer fit into that size" in said and not path.exists()
    least = re.search(r"ask for at least (\d+KB)", said)[1]
    assert run_command("export", [*command, least]) == 0
    assert path.stat().st_size <= int(least[:-2]) * 1000
    magnitudes = {p: x.magnitude for p, x in read_adapter(folder).layers.items()}
    kept = read_adapter(path).layers
    assert kept.keys() == magnitudes.keys()
    assert all(torch.allclose(kept[p].magnitude.float(), m, rtol=1e-3) for p, m in magnitudes.items())
    assert run_command("export", [*command, "150KB", "--overwrite"]) == 0
    assert 149_000 < path.stat().st_size <= 150_000
    assert distance(answers_of(path), wanted) < 0.5


def test_the_error_of_compressing_counts_the_layers_that_are_left_out(run, tmp_path):
    folder, _ = run
    path = tmp_path / "x.safetensors"
    told = export_file(folder, "diffusers", path, compress="40KB", dtype=torch.float16)
    whole, kept = read_adapter(folder).plain().layers, read_adapter(path).layers
    assert len(kept) < len(whole)
    lost = total = 0.0
    for place, layer in whole.items():
        update = layer.scale * layer.B @ layer.A
        left = kept[place].scale * kept[place].B.float() @ kept[place].A.float() if place in kept else 0
        total += float((update**2).sum())
        lost += float(((update - left) ** 2).sum())
    assert told.compression_error == pytest.approx((lost / total) ** 0.5, rel=1e-2)


def test_the_error_told_of_a_small_dora_is_that_of_its_weights(tmp_path):
    """Half of its layers have a magnitude alone."""
    adapter = collect(adapted("sd1", "dora").components())
    for i, (place, layer) in enumerate(adapter.layers.items()):
        if i % 2:
            adapter.layers[place] = replace(layer, B=0 * layer.B, magnitude=1.3 * layer.magnitude)
    write_lora(adapter, tmp_path / "whole.safetensors", "diffusers")
    weights = {}
    for name, size in (("base", None), ("whole", None), ("small", "200KB"), ("smaller", "150KB")):
        path, base = tmp_path / f"{name}.safetensors", tiny_base("sd1")
        if size:
            told = export_file(tmp_path / "whole.safetensors", "diffusers", path, compress=size, dtype=torch.float16)
            assert told.report.layers == len(adapter.layers)
        if name != "base":
            attach_adapter(base.components(), read_adapter(path))
            merge_into(base)
        weights[name] = torch.cat([p.flatten() for m in base.components().values() for p in m.state_dict().values()])
        if size:
            changed = float((weights["whole"] - weights["base"]).norm())
            error = float((weights[name] - weights["whole"]).norm()) / changed
            assert error < told.compression_error + 0.01


def test_a_small_file_tells_diffusers_nothing_that_its_tensors_do_not(run, tmp_path):
    from helpers.tiny_bases import pipe_answers

    folder, _ = run
    path = tmp_path / "x.safetensors"
    flags = ["--compress", "90KB", "--dtype", "fp16", "-o", str(path)]
    assert run_command("export", [str(folder), "--to", "diffusers", *flags]) == 0
    with safe_open(path, "pt") as file:
        assert "lora_adapter_metadata" not in file.metadata()
    pipe = tiny_base("sd1").pipeline()
    pipe.load_lora_weights(path)
    assert distance(pipe_answers(pipe, "sd1"), answers_of(path)) < 1e-5


def test_calibrating_takes_the_base_and_the_words_of_the_adapter(run, tmp_path, capsys, few_denoising_steps):
    folder, wanted = run
    base = str(write_base(tiny_base("sd1"), tmp_path / "base"))
    path = tmp_path / "x.safetensors"
    flags = ["--dtype", "fp16", "--base", base, "--compress", "300KB", "--calibrate"]
    assert run_command("export", [str(folder), "--to", "diffusers", *flags, "-o", str(path)]) == 0
    assert "drawing 3 prompts" in capsys.readouterr().err
    assert path.stat().st_size <= 300_000
    assert distance(answers_of(path), wanted) < 0.5
    kohya = tmp_path / "nameless.safetensors"
    save_file(load_file(path), kohya)
    command = [str(kohya), "--to", "kohya", "-o", str(tmp_path / "y.safetensors"), "--compress", "2", "--calibrate"]
    assert run_command("export", command) == 2
    assert "nothing to calibrate on" in capsys.readouterr().err


def test_weight_and_add_are_exact(run, tmp_path):
    folder, _ = run
    other, _ = make_run(tmp_path / "other", "lora")
    path = tmp_path / "sum.safetensors"
    flags = ["--weight", "0.5", "--add", f"{other}:2", "-o", str(path)]
    assert run_command("export", [str(folder), "--to", "diffusers", *flags]) == 0
    one, two, total = (read_adapter(p).plain().layers for p in (folder, other, path))
    for place, layer in total.items():
        wanted = sum(w * x.scale * x.B @ x.A for w, x in ((0.5, one[place]), (2, two[place])))
        torch.testing.assert_close(layer.B @ layer.A, wanted, rtol=1e-4, atol=1e-5)


def test_merging_needs_its_base_and_takes_a_weight(run, tmp_path, capsys):
    folder, wanted = run
    path = tmp_path / "merged.safetensors"
    assert run_command("export", [str(folder), "--to", "merged", "-o", str(path)]) == 2
    assert "--base PATH/dog é" in capsys.readouterr().err
    # A symmetric update answers to its weight as any LoRA does.
    base = str(write_base(tiny_base("sd1"), tmp_path / "base"))
    arguments = ["--to", "merged", "-o", str(tmp_path / "m"), "--base", base]
    assert run_command("export", [str(folder), *arguments, "--weight", "0"]) == 0
    assert run_command("export", [str(folder), *arguments, "--overwrite"]) == 0
    from symdream.diffusion.base import load_base

    assert distance(base_answers(load_base(str(tmp_path / "m"))), wanted) < 1e-5
    assert "no tokenizer" not in capsys.readouterr().err
    assert run_command("export", [str(folder), "--to", "merged", "-o", str(path), "--base", base]) == 0
    told = capsys.readouterr().err  # the tiny base has sprite's tokenizer
    assert run_command("base", ["check", str(path)]) == 1
    assert "-o FOLDER" in told and "which the file does not carry" in capsys.readouterr().err


def test_the_weight_that_training_found_best_goes_along(run, tmp_path, capsys):
    folder, _ = run
    for file in (folder / "adapter").glob("*/*.safetensors"):
        with safe_open(file, "pt") as opened:
            metadata = json.loads(opened.metadata()["symdream"]) | {"recommended_weight": 0.8}
        save_file(load_file(file), file, {"symdream": json.dumps(metadata)})
    base = str(write_base(tiny_base("sd1"), tmp_path / "base"))

    def told(name: str, *flags: str) -> tuple[float | None, str]:
        path = tmp_path / f"{name}.safetensors"
        assert run_command("export", [str(folder), "--to", "kohya", *flags, "-o", str(path)]) == 0
        return read_adapter(path).metadata.get("recommended_weight"), path.with_suffix(".txt").read_text()

    weight, text = told("plain")
    assert weight == 0.8 and "<lora:plain:0.8>" in text and "found best" in text
    # Half of it needs twice the weight for the same pictures; of a sum nobody knows the best.
    weight, text = told("half", "--weight", "0.5")
    assert weight == pytest.approx(1.6) and "<lora:half:1.6>" in text
    weight, text = told("sum", "--add", str(folder))
    assert weight is None and "<lora:sum:1>" in text

    from symdream.diffusion.base import load_base

    merged = {}
    for name, flags in (("found", []), ("same", ["--weight", "0.8"]), ("whole", ["--weight", "1"])):
        out = str(tmp_path / name)
        assert run_command("export", [str(folder), "--to", "merged", "-o", out, "--base", base, *flags]) == 0
        assert ("weight 0.8, which its training found best" in capsys.readouterr().err) is (name == "found")
        merged[name] = base_answers(load_base(out))
    assert distance(merged["found"], merged["same"]) < 1e-6
    assert distance(merged["found"], merged["whole"]) > 1e-4


def test_an_adapter_that_tells_no_shapes_is_exported_by_way_of_its_base(run, tmp_path, capsys):
    folder, wanted = run
    for file in (folder / "adapter").glob("*/*.safetensors"):
        with safe_open(file, "pt") as opened:
            metadata = json.loads(opened.metadata()["symdream"])
        metadata.pop("shapes")
        save_file(load_file(file), file, {"symdream": json.dumps(metadata)})
    base = str(write_base(tiny_base("sd1"), tmp_path / "base"))
    path = tmp_path / "x.safetensors"
    assert run_command("export", [str(folder), "--to", "diffusers", "-o", str(path), "--base", base]) == 0
    assert "does not tell the shapes" in capsys.readouterr().err
    assert distance(answers_of(path), wanted) < 1e-5


def test_a_half_ramped_singlora_is_exported_with_a_warning(tmp_path, capsys):
    folder, wanted = make_run(tmp_path / "run", "singlora")
    path = tmp_path / "x.safetensors"
    assert run_command("export", [str(folder), "--to", "diffusers", "-o", str(path)]) == 0
    assert "u = 0.7" in capsys.readouterr().err
    assert distance(answers_of(path), wanted) < 1e-5


def test_all_problems_are_told_at_once(run, tmp_path, capsys):
    folder, _ = run
    (tmp_path / "there").mkdir()
    arguments = ["--to", "kohya", "-o", str(tmp_path / "there"), "--weight", "nan", "--add", "gone.safetensors:0.5"]
    assert run_command("export", [str(folder), *arguments, "--calibrate"]) == 2
    said = capsys.readouterr().err
    assert "5 problems" in said
    expected = ("end in .safetensors", "exists already", "must be a number", "gone.safetensors", "without --compress")
    for problem in expected:
        assert problem in said
    assert run_command("export", [str(folder), "--to", "peft", "-o", str(tmp_path / "p"), "--compress", "much"]) == 2
    assert "neither a rank nor a size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("to", "name", "flags", "told"),
    [
        ("peft", "x.safetensors", [], "must be a folder"),
        ("merged", "x", ["--compress", "4"], "--compress  does nothing with --to merged"),
        ("merged", "x", ["--calibrate"], "--calibrate  does nothing with --to merged"),
        ("merged", "x", ["--add", "RUN"], "--add  does nothing with --to merged"),
        ("kohya", "x.safetensors", ["--weight", "inf"], "--weight inf  must be a number"),
    ],
)
def test_what_an_export_could_not_take_up_is_refused(run, tmp_path, capsys, to, name, flags, told):
    flags = [str(run[0]) if flag == "RUN" else flag for flag in flags]
    assert run_command("export", [str(run[0]), "--to", to, "-o", str(tmp_path / name), *flags]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / name).exists()


@pytest.mark.parametrize("to", ["peft", "merged"])
def test_a_folder_of_another_kind_is_never_replaced(run, tmp_path, capsys, to):
    folder, _ = run
    (folder / "config.toml").write_text("")
    base = str(write_base(tiny_base("sd1"), tmp_path / "base"))
    flags = ["--to", to, "--base", base, "--overwrite"]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "1.jpg").write_text("mine")
    for place, told in ((folder, "is not a"), (photos, "is not a"), (photos / "1.jpg", "is a file")):
        assert run_command("export", [str(folder), *flags, "-o", str(place)]) == 2
        assert told in capsys.readouterr().err
    assert (photos / "1.jpg").read_text() == "mine" and (folder / "adapter").is_dir()
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        assert run_command("export", [str(folder), *flags, "-o", str(out)]) == 0
    assert (out / "unet").is_dir()
    # One that holds more than such an export, or is what the run itself has trained, stays.
    (out / "notes").mkdir()
    assert run_command("export", [str(folder), *flags, "-o", str(out)]) == 2
    assert "there is notes" in capsys.readouterr().err and (out / "notes").is_dir()
    assert run_command("export", [str(folder), *flags, "-o", str(folder / "adapter")]) == 2


def test_a_file_among_an_adapters_own_keeps_its_folder(run, tmp_path, capsys):
    folder, _ = run
    out = tmp_path / "out"
    assert run_command("export", [str(folder), "--to", "peft", "-o", str(out)]) == 0
    (out / "unet" / "1.jpg").write_text("mine")
    assert run_command("export", [str(folder), "--to", "peft", "-o", str(out), "--overwrite"]) == 2
    assert "there is unet/1.jpg" in capsys.readouterr().err and (out / "unet" / "1.jpg").read_text() == "mine"


def test_a_file_among_a_bases_own_keeps_its_folder(run, tmp_path, capsys):
    folder, _ = run
    write_base(tiny_base("sd1"), tmp_path / "base")
    out = tmp_path / "out"
    flags = ["--to", "merged", "--base", str(tmp_path / "base"), "-o", str(out), "--overwrite"]
    for name, told in {
        ".git/HEAD": ".git",
        ".gitattributes": ".gitattributes",
        "unet/1.jpg": "unet/1.jpg",
        "unet/my.safetensors": "unet/my.safetensors",
        "vae/.cache/x": "vae/.cache",
    }.items():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "base", out)
        mine = out / name
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        assert run_command("export", [str(folder), *flags]) == 2
        assert f"there is {told}" in capsys.readouterr().err and mine.read_text() == "mine"


def test_what_a_file_manager_leaves_does_not_keep_a_folder(run, tmp_path):
    folder, _ = run
    for part in ("", "unet"):
        (tmp_path / "out" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / part / ".DS_Store").write_text("")
    flags = ["--to", "peft", "-o", str(tmp_path / "out"), "--overwrite"]
    assert run_command("export", [str(folder), *flags]) == 0


@pytest.mark.parametrize(
    ("to", "name"),
    [("kohya", "x.safetensors"), ("merged", "x.safetensors"), ("peft", "x"), ("merged", "x")],
)
def test_a_full_disk_is_told_and_nothing_is_left(to, name, run, tmp_path, capsys):
    folder, _ = run
    base, out = str(write_base(tiny_base("sd1"), tmp_path / "base")), tmp_path / "out"
    out.mkdir()
    with file_size_limit(20_000):
        assert run_command("export", [str(folder), "--to", to, "--base", base, "-o", str(out / name)]) == 1
    said = capsys.readouterr().err
    assert f"Could not write {out / name}" in said and "ulimit -f" in said
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("to", "name"),
    [("kohya", "x.safetensors"), ("diffusers", "x.safetensors"), ("merged", "x.safetensors"), ("peft", "x")],
)
def test_two_exports_of_one_run_are_the_same_bytes(to, name, run, tmp_path):
    folder, _ = run
    base = str(write_base(tiny_base("sd1"), tmp_path / "base"))
    written = []
    for place in ("first", "second"):
        out = tmp_path / place / name
        assert run_command("export", [str(folder), "--to", to, "--base", base, "-o", str(out)]) == 0
        files = [file for file in sorted(out.parent.rglob("*")) if file.is_file()]
        written.append({str(file.relative_to(out.parent)): file.read_bytes() for file in files})
    assert written[0] == written[1]
    for config in (tmp_path / "first").rglob("adapter_config.json"):
        modules = json.loads(config.read_text())["target_modules"]
        assert modules == sorted(modules)


def test_a_path_that_is_no_unicode_is_told_as_such(run, tmp_path, capfd):
    foreign = os.fsdecode(os.fsencode(tmp_path) + b"/M\xe4use")
    request = [str(run[0]), "--to", "kohya", "-o", f"{foreign}/x.safetensors"]
    assert run_command("export", request) == 2 and "is not UTF-8; give it another name" in capfd.readouterr().err
    shutil.copytree(run[0], foreign)
    assert run_command("export", [foreign, "--to", "kohya", "-o", str(tmp_path / "x.safetensors")]) == 2
    told = capfd.readouterr().err
    assert "its path is not UTF-8" in told and "give the file or folder another name" in told
    assert "not an intact" not in told


@pytest.mark.parametrize(("name", "told"), [("x.ckpt", "end it in .safetensors"), ("x.SafeTensors", "in lower case")])
def test_no_folder_is_made_with_the_name_of_a_file(run, tmp_path, capsys, name, told):
    folder, _ = run
    assert run_command("export", [str(folder), "--to", "merged", "-o", str(tmp_path / name)]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / name).exists()


def test_what_lies_beside_the_file_counts_as_existing_too(run, tmp_path, capsys):
    folder, _ = run
    mine = [tmp_path / "owl.txt", tmp_path / "owl.png"]
    for file in mine:
        file.write_text("mine")
    command = [str(folder), "--to", "kohya", "-o", str(tmp_path / "owl.safetensors")]
    assert run_command("export", command) == 2
    said = capsys.readouterr().err
    assert all(f"{file}  exists already" in said for file in mine)
    assert all(file.read_text() == "mine" for file in mine) and not (tmp_path / "owl.safetensors").exists()
    assert run_command("export", [*command, "--overwrite"]) == 0
    assert "trigger  sks dog" in mine[0].read_text()


def test_a_dora_for_kohya_is_refused_with_the_way_out(tmp_path, capsys):
    folder, _ = make_run(tmp_path / "run", "dora")
    assert run_command("export", [str(folder), "--to", "kohya", "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "--to merged" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "path", "weight"), [("a:0.5", "a", 0.5), ("a", "a", 1.0), ("c:d", "c:d", 1.0), ("a:-1", "a", -1.0)]
)
def test_an_added_adapter_has_a_weight_or_none(text, path, weight):
    assert [str(export.split(text)[0]), export.split(text)[1]] == [path, weight]


def test_a_checkpoint_is_no_adapter_whether_its_folder_or_its_file_is_named(run, tmp_path, capsys):
    folder, _ = run
    step = folder / "checkpoints" / "step-6"
    step.mkdir(parents=True)
    (step / "state.json").write_text("{}")
    save_file({"a.lora_A.default.weight": torch.zeros(1, 2)}, step / "adapter-unet.safetensors")
    for path in (step, step / "adapter-unet.safetensors"):
        assert run_command("export", [str(path), "--to", "kohya", "-o", str(tmp_path / "x.safetensors")]) == 2
        assert f"give the run {folder}" in capsys.readouterr().err


def test_a_small_file_of_several_ranks_tells_which_diffusers_reads_it(run, tmp_path, capsys):
    folder, _ = run
    for to, told in (("diffusers", True), ("kohya", False)):
        output = str(tmp_path / f"{to}.safetensors")
        assert run_command("export", [str(folder), "--to", to, "--compress", "60KB", "-o", output]) == 0
        assert ("since 0.40" in capsys.readouterr().err) == told


def test_magnitudes_on_some_layers_alone_are_refused_in_every_layout(tmp_path):
    adapter = collect(adapted("sd1", "dora").components())
    place = next(iter(adapter.layers))
    adapter.layers[place] = replace(adapter.layers[place], magnitude=None)
    for layout, name in (("diffusers", "x.safetensors"), ("peft", "x")):
        with pytest.raises(RequestError, match="mixes LoRA with DoRA"):
            write_lora(adapter, tmp_path / name, layout)
    assert not list(tmp_path.iterdir())
