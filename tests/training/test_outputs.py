"""What a run writes for people: notes on the photos at its start, its adapter at its end."""

import errno
import hashlib
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers.icc import DISPLAY_P3, profile
from helpers.runs import make_photos, tiny_config, train_tiny
from helpers.tiny_models import write_tiny_sd
from PIL import Image

import symdream
from symdream import settings
from symdream.data.class_images import from_base
from symdream.data.left_out import unread_folders, unread_pictures
from symdream.data.samples import sample_data
from symdream.diffusion import sampling_engine
from symdream.diffusion.adapters import attach, read_metadata
from symdream.diffusion.base import load_base
from symdream.diffusion.grid import make_grid
from symdream.diffusion.machine import PACKAGES
from symdream.diffusion.sampling import sample
from symdream.errors import RequestError, WorkError
from symdream.files import read_json, write_json
from symdream.training.defaults import resolve
from symdream.training.outputs import adapter_metadata, sample_prompts, save_adapter, warn_about_trigger, write_samples
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training

OWL = sample_data() / "owl"
P3 = profile(DISPLAY_P3)


def test_pictures_of_kinds_that_are_not_read_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    for name in ("IMG_1.DNG", "clip.mov", "notes.md", "00.txt", ".hidden"):
        (photos / name).write_bytes(b"sks x")
    for name in ("one.ppm", "two"):
        Image.new("RGB", (40, 40)).save(photos / name, format="PPM" if name == "one.ppm" else "JPEG")
    make_photos(photos / "more"), make_photos(photos / ".thumbs"), (photos / "texts").mkdir()
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert f"left out of {photos}: IMG_1.DNG, clip.mov, one.ppm, …;" in said
    assert f"left out of {photos}: pictures in more; sub-folders" in said
    assert [path.name for path in unread_pictures(photos)][3:] == ["two"]
    assert "from 3 photos" in said and "notes.md" not in said and "not used" not in said
    assert not unread_pictures(OWL) and not unread_folders(OWL), "what prompts.toml lays out is no oversight"


def test_photos_that_are_enlarged_much_cut_by_half_or_there_twice_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos", 2)  # 80 × 64, of which the middle square of 64 is trained on
    shutil.copy(photos / "00.png", photos / "again.png")
    for name, size in (("small", (40, 90)), ("small enough", (43, 43)), ("wide", (260, 100)), ("half", (192, 96))):
        Image.effect_noise(size, 50).save(photos / f"{name}.png")
    train_tiny(tmp_path / "square", tiny_sd1, photos, steps=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "scaled up: small.png 1.6 times; larger" in said
    assert "less than half of a photo is trained on: small.png 44%, wide.png 38%, around its middle" in said
    assert "copies of other photos: again.png of 00.png;" in said
    train_tiny(tmp_path / "shapes", tiny_sd1, photos, steps=1, buckets=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "scaled up" not in said
    assert "less than half" not in said, "shapes are kept up to 1 : 2"


def test_captions_that_do_not_ask_for_the_subject_or_are_too_long_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    (photos / "00.txt").write_text("a toy on a table, skseries")
    (photos / "01.txt").write_text("\ufeffSKS toy on " + "very " * 90 + "red", encoding="utf-8")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert 'the captions of 00.png do not say the trigger "sks"' in said
    assert "the caption of 01.png is longer" in said and said.count("Cut off") == 1


def test_what_the_trigger_means_is_drawn_by_the_base_alone(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    taught = train_tiny(tmp_path / "taught", tiny_sd1, photos, cache_dir=tmp_path / "cache", lr=0.05)
    new = train_tiny(tmp_path / "new", tiny_sd1, photos, cache_dir=tmp_path / "other", start_from=taught.adapter)
    base = load_base(str(tiny_sd1))
    (expected,) = sample(base, ["a photo of a sks"], [0])
    for run in (taught, new):
        drawn = Image.open(run.samples / "trigger-before-training.png")
        assert drawn.tobytes() == expected.tobytes()


def test_pictures_of_the_base_are_not_drawn_through_an_adapter(tmp_path, tiny_sd1):
    base = load_base(str(tiny_sd1))
    attach(base, "singlora", 4, 4.0, "qkvo", ["unet"], 0.0, 0)
    with pytest.raises(ValueError, match="an adapter that is on"):
        from_base(base, "a toy", 1, base.resolution, tmp_path)


def test_graphs_that_drew_pictures_are_gone_before_training(tmp_path, tiny_sd1, photos, monkeypatch):
    base = load_base(str(tiny_sd1))
    sampling_engine._KEPT_BY[base.unet] = sampling_engine.DenoisingSteps()  # as on a GPU
    run_training(RunFolder.create(tmp_path / "run"), tiny_config(tiny_sd1, photos, steps=1), base=base)
    assert base.unet not in sampling_engine._KEPT_BY


def test_an_adapter_file_tells_its_bases_licence_where_it_is_known(tmp_path, photos):
    def told(base):
        loaded = load_base(str(base))
        return adapter_metadata(resolve(tiny_config(base, photos), loaded), loaded, 1, None).get("licence")

    folder = write_tiny_sd(tmp_path / "base")
    assert told("sprite") == "Apache-2.0" and told(folder) is None
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert told(folder) == "mit"


def test_a_trigger_of_several_tokens_is_told_with_its_pieces(tiny_sd1, capsys):
    base = load_base(str(tiny_sd1))
    warn_about_trigger(base, "sks")
    assert capsys.readouterr().err == ""
    warn_about_trigger(base, "sks-7")
    assert 'the trigger "sks-7" is 3 tokens to this base (sks + - + 7)' in " ".join(capsys.readouterr().err.split())


def test_photos_are_counted_subject_by_subject(tmp_path, tiny_sd1, capsys):
    folders = [make_photos(tmp_path / "one", 2), make_photos(tmp_path / "two", 3)]
    tables = [
        {"images": str(folder), "trigger": trigger, "class_noun": "toy"}
        for folder, trigger in zip(folders, ("sks", "zwx"), strict=True)
    ]
    given = {"base": str(tiny_sd1), "steps": 1, "batch_size": 1, "rank": 2, "tensorboard": False, "device": "cpu"}
    config = settings.build(settings.merge({"subjects": tables}, given))
    run_training(RunFolder.create(tmp_path / "run"), config)
    said = capsys.readouterr().err
    assert "of sks toy there are 2." in said and "of zwx toy" not in said


@pytest.mark.parametrize(
    ("key", "other", "told"),
    [
        ("base", {"identity": "folder:tiny-sd1", "hash": "00"}, "The base of"),
        ("class_images", "00", "The class images of"),
    ],
)
def test_a_run_does_not_go_on_with_another_base_or_other_class_images(tmp_path, tiny_sd1, photos, key, other, told):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    config, env = tiny_config(tiny_sd1, photos, steps=1), read_json(run.env)
    before = {path: path.read_bytes() for path in run.adapter.rglob("*.*")}
    write_json(run.env, {**env, key: other})
    with pytest.raises(RequestError, match=f"{told} .* are not those the run was started with"):
        run_training(RunFolder.open(run.path), config, resume=True)
    assert {path: path.read_bytes() for path in run.adapter.rglob("*.*")} == before


def test_a_run_notes_what_it_was_computed_with_and_from_which_photos(tmp_path, tiny_sd1, photos):
    env = read_json(train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1, dtype="auto").env)
    assert (env["dtype"], env["device"]) == ("float32", f"cpu ({platform.machine()})")
    assert (env["symdream"], env["python"]) == (symdream.__version__, platform.python_version())
    assert env["packages"] == {name: version(name) for name in PACKAGES} and "torch" in env["packages"]
    assert env["photo_files"] == [{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in photos.glob("*.png")}]


@pytest.mark.parametrize("icc", [P3, None], ids=["wide", "plain"])
def test_a_run_of_a_version_that_took_all_colours_for_srgb_is_told_where_that_matters(tmp_path, tiny_sd1, capsys, icc):
    photos = make_photos(tmp_path / "photos")
    if icc:
        Image.open(photos / "01.png").save(photos / "01.png", icc_profile=icc)
    run, config = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1), tiny_config(tiny_sd1, photos, steps=1)

    def told():
        capsys.readouterr()
        run_training(RunFolder.open(run.path), config.model_copy(deep=True), resume=True)
        return "as if they were sRGB" in capsys.readouterr().err

    whole = read_json(run.env)
    assert not told()
    write_json(run.env, {key: value for key, value in whole.items() if key != "photo_files"})
    assert told() is bool(icc)
    assert read_json(run.env) == whole and not told()


def test_a_damaged_note_of_what_a_run_began_with_is_told_and_written_anew(tmp_path, tiny_sd1, photos, capsys):
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    whole = read_json(run.env)
    run.env.write_text("{")
    run_training(RunFolder.open(run.path), tiny_config(tiny_sd1, photos, steps=1), resume=True)
    assert f"{run.env} is damaged" in capsys.readouterr().err and read_json(run.env) == whole


def test_sample_prompts_are_drawn_from_the_same_seeds_at_every_step(tmp_path, tiny_sd1, photos, few_denoising_steps):
    base, run = load_base(str(tiny_sd1)), RunFolder.create(tmp_path / "run")
    asked = ["a {subject} in snow", "a red {subject}"]
    config = resolve(tiny_config(tiny_sd1, photos, sample_prompts=asked, seed=5), base)
    assert sample_prompts(config) == ["a sks toy in snow", "a red sks toy"]
    expected = sample(base, sample_prompts(config), [5, 6])
    for step in (0, 5):
        drawn = make_grid([expected], column_labels=sample_prompts(config), row_labels=[f"step {step}"])
        assert Image.open(write_samples(run, config, base, step)).tobytes() == drawn.tobytes()


def test_sample_prompts_that_are_not_given_are_each_subjects_template(tmp_path, tiny_sd1, photos):
    base = load_base(str(tiny_sd1))
    config = resolve(tiny_config(tiny_sd1, photos, template="my {subject}"), base)
    assert sample_prompts(config) == ["my sks toy"]


def test_an_adapter_file_tells_how_far_its_ramp_and_its_steps_came_and_what_it_is_for(tmp_path, tiny_sd1, photos):
    base = load_base(str(tiny_sd1))
    flags = {"method": "singlora", "ramp": 0.5, "steps": 10, "rank": 2, "alpha": 3, "seed": 7, "resolution": 96}
    config = resolve(tiny_config(tiny_sd1, photos, **flags), base)
    run = RunFolder.create(tmp_path / "run")
    attach(base, "singlora", 2, 3.0, "qkvo", ["unet"], 0.0, 0)
    for step, u in ((2, 0.4), (10, 1.0)):
        save_adapter(run, config, base, ["unet"], step=step, weight=0.8 if step == 10 else None)
        told = read_metadata(run.adapter / "unet" / "adapter_model.safetensors")
        wanted = {"method": "singlora", "rank": 2, "alpha": 3, "seed": 7, "resolution": 96, "steps": 10, "step": step}
        wanted |= {"u": u, "trigger": "sks", "class_noun": "toy", "prediction_type": "epsilon", "family": "sd1"}
        assert {key: told[key] for key in wanted} == wanted
        assert told.get("recommended_weight") == (0.8 if step == 10 else None)


def test_captions_from_files_are_counted_and_files_that_only_look_like_captions_named(
    tmp_path, tiny_sd1, capsys, few_denoising_steps
):
    photos = make_photos(tmp_path / "photos", 4)
    for name in ("00.TXT", "01.Txt", "02.png.txt", "3.txt", "02.caption"):
        (photos / name).write_text("a {subject} at night")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert "captions: 2 of 4 from files" in said
    assert f"not used in {photos}: 02.caption, 02.png.txt, 3.txt; the caption of NAME.png" in said


def test_an_adapter_that_cannot_take_its_place_leaves_the_one_before(tmp_path, tiny_sd1, photos, monkeypatch):
    config = tiny_config(tiny_sd1, photos, steps=2, sample_prompts=["a {subject}"])
    base, run, rename = load_base(str(tiny_sd1)), RunFolder.create(tmp_path / "run"), os.rename
    attach(base, "singlora", 2, 2.0, "qkvo", ["unet"], 0.0, 0)
    save_adapter(run, config, base, ["unet"], step=1)
    before = {path.relative_to(run.path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()}

    def failing(source, target, **_):
        if Path(target) == run.adapter and Path(source).name.endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(WorkError, match="Could not write .*/adapter: Input/output error"):
        save_adapter(run, config, base, ["unet"], step=2)
    assert {path.relative_to(run.path): path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
