"""symdream evaluate, as a person runs it: on folders of images, and on a run."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.encoder_folders import picture, write_clip, write_vit
from helpers.runs import train_tiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from symdream.cli import main
from symdream.commands import evaluate
from symdream.diffusion.adapters import attach_saved, read_metadata, set_weight
from symdream.diffusion.base import load_base
from symdream.diffusion.grid import save_grid
from symdream.diffusion.png import read_settings, save_png
from symdream.diffusion.sampling import sample
from symdream.metrics.encoders import load_dino
from symdream.metrics.run_scores import evaluate_run
from symdream.metrics.scores import drift, subject_fidelity
from symdream.training.run_folder import RunFolder

PROMPTS = ["a flat icon of a sks bird", "a flat icon of a sks bird on a red background"]


@pytest.fixture
def folders(tmp_path):
    """Two images without metadata and two photos, in folders with a space and an accent."""
    for name, seeds in (("made images", (0, 1)), ("phôtos", (10, 11))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            picture(seed, (128, 128)).save(tmp_path / name / f"{seed:02d}.png")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return tmp_path


def arguments(root, *more):
    return ["evaluate", "--images", f"{root}/made images", "--reference", f"{root}/phôtos", *map(str, more)]


def save_generated(folder, number, prompt, base="sprite"):
    settings = {"prompt": prompt, "seed": number, "steps": 1, "guidance": 1, "sampler": "ddim", "width": 128}
    save_png(picture(number, (128, 128)), folder / f"{number:02d}.png", settings | {"height": 128, "base": base})


def scored(capsys, argv):
    """The JSON that the command prints, and its messages."""
    code = main([*argv, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out), captured.err


def refused(capsys, argv):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_folder_is_scored_in_the_order_of_its_names(folders, capsys):
    result, _ = scored(capsys, arguments(folders, "--prompts", folders / "prompts.txt"))
    other, _ = scored(capsys, arguments(folders, "--prompts", folders / "prompts.txt", "--trigger", "flat"))
    assert [entry["text"] for entry in other["images"]] == [p.replace("flat ", "") for p in PROMPTS]
    assert [entry["file"] for entry in result["images"]] == ["00.png", "01.png"]
    assert [entry["text"] for entry in result["images"]] == [p.replace("sks ", "") for p in PROMPTS]
    assert result["references"] == ["10.png", "11.png"]
    assert result["encoders"]["dino"]["model"] == "sprite-dino"
    assert -1 <= result["dino"] <= 1


def test_the_table_shows_the_scores_and_the_encoders(folders, capsys):
    picture(12, (128, 128)).save(folders / "phôtos" / "12.png")
    result, _ = scored(capsys, arguments(folders, "--prompts", folders / "prompts.txt"))
    assert main(arguments(folders, "--prompts", folders / "prompts.txt")) == 0
    table = capsys.readouterr().out
    counts = {line.split("│")[1].strip(): line.split("│")[-2].strip() for line in table.splitlines() if line[0] == "│"}
    assert (counts["images"], counts["photos among themselves"]) == ("2", "3")
    for expected in (f"{result['dino']:.3f}", f"{result['clip_t']:.3f}", "CLIP-I", "sprite-clip", "photos among"):
        assert expected in table


def test_generated_images_carry_their_prompts_and_their_grid_is_left_out(folders, capsys):
    made = folders / "made images"
    for number, prompt in enumerate([PROMPTS[1], PROMPTS[0], PROMPTS[1]]):
        save_generated(made, number, prompt)
    save_grid(made / "grid.png", [[Image.open(made / "00.png")]])
    expected = [p.replace("sks ", "") for p in (PROMPTS[1], PROMPTS[0], PROMPTS[1])]
    for more in ((), ("--prompts", folders / "prompts.txt")):
        result, messages = scored(capsys, arguments(folders, *more))
        assert [entry["text"] for entry in result["images"]] == expected
        assert "grid.png is an overview" in messages


def test_a_prompts_toml_puts_the_noun_in_place(folders, capsys):
    toml = 'class_noun = "bird"\n[[prompt]]\ntext = "a {subject} on blue"\n[[prompt]]\ntext = "a {subject} on red"\n'
    (folders / "prompts.toml").write_text(toml)
    result, _ = scored(capsys, arguments(folders, "--prompts", folders / "prompts.toml"))
    assert [entry["text"] for entry in result["images"]] == ["a bird on blue", "a bird on red"]


def test_photographs_by_embedded_encoders_are_warned_about_and_own_encoders_are_not(folders, capsys):
    prompts = ("--prompts", folders / "prompts.txt")
    _, messages = scored(capsys, arguments(folders, *prompts))
    assert "know emoji art only" not in messages  # the blotches are flat, as drawings are
    for path in (folders / "phôtos").iterdir():
        Image.effect_noise((128, 128), 60).convert("RGB").save(path)
    _, messages = scored(capsys, arguments(folders, *prompts))
    assert "know emoji art only" in messages
    own = ("--dino", write_vit(folders / "vit"), "--clip", write_clip(folders / "clip"))
    result, messages = scored(capsys, arguments(folders, *prompts, *own))
    assert "warning" not in messages
    assert "note: these encoders" not in messages
    assert result["encoders"]["dino"]["model"] == "folder:vit"
    assert result["encoders"]["clip"]["preprocessing"]["crop"] == 224


def test_images_of_another_base_ask_for_encoders_of_photographs(folders, capsys):
    for number, prompt in enumerate(PROMPTS):
        save_generated(folders / "made images", number, prompt, base="owner/sd@abc")
    assert "facebook/dino-vits16 is not on this machine" in refused(capsys, arguments(folders))


def test_a_folder_with_one_image_of_another_base_asks_for_encoders_of_photographs(folders, capsys):
    made = folders / "made images"
    save_generated(made, 0, PROMPTS[0])
    save_generated(made, 1, PROMPTS[1], base="owner/sd@abc")
    assert "facebook/dino-vits16 is not on this machine" in refused(capsys, arguments(folders))


def test_the_nearest_photo_of_each_image_is_named(folders, capsys):
    for image, photo in (("00", "11"), ("01", "10")):
        shutil.copy(folders / "phôtos" / f"{photo}.png", folders / "made images" / f"{image}.png")
    result, _ = scored(capsys, arguments(folders, "--prompts", folders / "prompts.txt"))
    assert [(e["file"], e["nearest_reference"]) for e in result["images"]] == [
        ("00.png", "11.png"),
        ("01.png", "10.png"),
    ]
    assert all(e["nearest_cosine"] == pytest.approx(1, abs=1e-5) for e in result["images"])


def test_scores_are_written_once_and_replaced_only_on_request(folders, capsys):
    argv = arguments(folders, "--prompts", folders / "prompts.txt", "-o", folders / "scores")
    (folders / "scores").mkdir()  # an empty folder is nobody's
    result, _ = scored(capsys, argv)
    assert json.loads((folders / "scores" / "scores.json").read_text()) == result
    assert "never writes over another" in refused(capsys, argv)
    scored(capsys, [*argv, "--overwrite"])
    assert "is not an evaluation" in refused(capsys, [*argv[:-1], str(folders / "phôtos"), "--overwrite"])


def test_the_cache_folder_is_used(folders, capsys):
    argv = arguments(folders, "--prompts", folders / "prompts.txt", "--cache", folders / "cache")
    first, _ = scored(capsys, argv)
    assert len(list((folders / "cache").glob("*.safetensors"))) == 2
    assert scored(capsys, argv)[0] == first


def test_all_that_is_wrong_with_the_folders_is_told_at_once(folders, capsys):
    made, photos = folders / "made images", folders / "phôtos"
    (made / "02.png").write_bytes(b"no image")
    Image.new("RGB", (1, 1)).save(made / "03.png")
    for path in photos.iterdir():
        path.rename(path.with_suffix(".txt"))
    told = refused(capsys, arguments(folders, "--prompts", folders / "none.txt"))
    for part in ("4 problems", "02.png", "03.png is 1 × 1", "--reference", "No images in", "No prompts file"):
        assert part in told


def test_odd_images_are_read(folders, capsys):
    made = folders / "made images"
    for path in made.iterdir():
        path.unlink()
    picture(1).convert("CMYK").save(made / "cmyk.jpg")
    picture(2).convert("L").save(made / "grey.png")
    picture(3).convert("P").save(made / "palette.gif", save_all=True, append_images=[picture(4).convert("P")])
    picture(5).convert("RGBA").save(made / "alpha.webp")
    (folders / "prompts.txt").write_text("a bird\n" * 4)
    result, _ = scored(capsys, arguments(folders, "--prompts", folders / "prompts.txt"))
    assert [e["file"] for e in result["images"]] == ["alpha.webp", "cmyk.jpg", "grey.png", "palette.gif"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--run, --adapter or --images  is needed"),
        (["--adapter", "x", "--images", "y"], "--adapter and --images  do not go together"),
        (["--adapter", "x"], "2 problems"),
        (["--images", "x"], "--reference  is needed"),
        (["--run", "x", "--trigger", "z", "--class-noun", "y"], "2 problems"),
        (["--images", "x", "--reference", "y", "--count", "2"], "made already"),
        (["--images", "x", "--reference", "y", "--overwrite"], "only with --output"),
        (["--images", "x", "--reference", "y", "--seed", "2"], "made already"),
        (["--images", "x", "--reference", "y", "--base", "sprite"], "--base  goes only with --adapter"),
        (["--run", "x", "--reference", "y"], "--reference  does not go with --run"),
        (["--run", "x", "--count", "0", "--seed", "-1"], "2 problems"),
        (["--run", "no such run"], "No run folder"),
    ],
)
def test_flags_that_do_not_go_together_are_told(argv, message, capsys):
    assert message in refused(capsys, ["evaluate", *argv])


def test_photos_that_lie_there_twice_are_named(folders, capsys):
    shutil.copy(folders / "phôtos" / "10.png", folders / "phôtos" / "again.png")
    result, told = scored(capsys, arguments(folders, "--prompts", folders / "prompts.txt"))
    assert "nearly the same photos: 10.png and again.png;" in told
    assert result["memorisation"]["copies"] == [[0, 2]] and result["memorisation"]["threshold"] < 0.999


def test_images_without_prompts_are_refused(folders, capsys):
    assert "2 of 2 images do not say" in refused(capsys, arguments(folders))
    (folders / "prompts.txt").write_text("one")
    assert "2 images but 1 prompts" in refused(capsys, arguments(folders, "--prompts", folders / "prompts.txt"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_sd1):
    """A tiny run on its own photos, whose folder has prompts and an ideal picture, and tiny encoders."""
    root = tmp_path_factory.mktemp("evaluate")
    photos = root / "photos"
    (photos / "ideal").mkdir(parents=True)
    for seed in range(3):
        picture(seed).save(photos / f"{seed}.png")
    picture(7).save(photos / "ideal" / "00.png")
    (photos / "prompts.toml").write_text(
        'class_noun = "toy"\n'
        '[[prompt]]\ntext = "a {subject} on red"\nheld_out = true\nideal = "ideal/00.png"\n'
        '[[prompt]]\ntext = "a {subject} on blue"\nheld_out = true\n'
        '[[prompt]]\ntext = "a tuning {subject}"\nheld_out = false\n'
    )
    run = train_tiny(root / "run", tiny_sd1, photos, steps=6, lr=3e-2)
    return run, ["--dino", str(write_vit(root / "vit")), "--clip", str(write_clip(root / "clip")), "--device", "cpu"]


@pytest.mark.slow
def test_a_run_is_scored_before_and_after_and_against_its_ceiling(trained, capsys, tmp_path):
    run, encoders = trained
    argv = ["evaluate", "--run", str(run.path), *encoders, "--seed", "3", "--count", "2"]
    result, _ = scored(capsys, argv)
    assert result["prompts"] == ["a {subject} on red", "a {subject} on blue"]
    assert result["seeds"] == [3, 4]
    assert [entry["text"] for entry in result["after"]["images"]] == ["a toy on red"] * 2 + ["a toy on blue"] * 2
    assert [entry["text"] for entry in result["ceiling"]["images"]] == ["a toy on red"]
    assert result["before"]["pairs"] == {"dino": 12, "clip_i": 12, "clip_t": 4}

    folder = run.path / "evaluation"
    assert json.loads((folder / "scores.json").read_text()) == result
    assert (folder / "grid.png").is_file()
    names = ["00-3.png", "00-4.png", "01-3.png", "01-4.png"]
    for side in ("before", "after"):
        assert sorted(p.name for p in (folder / side).iterdir()) == names
    assert read_settings(folder / "after" / "01-4.png")["prompt"] == "a sks toy on blue"
    assert (folder / "before" / "00-3.png").read_bytes() != (folder / "after" / "00-3.png").read_bytes()

    scores = run.read_summary()["scores"]
    assert set(scores) == {"before", "after", "ceiling"}
    for row, values in scores.items():
        assert values == {name: result[row][name] for name in ("dino", "clip_i", "clip_t")}
    assert run.read_summary()["method"] == "singlora"  # the rest of the summary is kept

    assert "never writes over another" in refused(capsys, argv)
    elsewhere = tmp_path / "again"
    again, _ = scored(capsys, [*argv, "-o", str(elsewhere)])
    assert again == result
    # The images it wrote score the same as a folder of images.
    toml = ["--prompts", str(run.path.parent / "photos" / "prompts.toml")]
    after, photos = str(elsewhere / "after"), str(run.path.parent / "photos")
    alone, _ = scored(capsys, ["evaluate", "--images", after, "--reference", photos, *toml, *encoders])
    assert alone["dino"] == pytest.approx(result["after"]["dino"], abs=1e-6)
    assert alone["clip_t"] == pytest.approx(result["after"]["clip_t"], abs=1e-6)


def recommending(run, weight, place):
    """A copy of `run` whose training found this weight best."""
    copy = RunFolder(shutil.copytree(run.path, place))
    for file in copy.adapter.glob("*/*.safetensors"):
        about = json.dumps(read_metadata(file) | {"recommended_weight": weight})
        save_file(load_file(file), file, {"format": "pt", "symdream": about})
    return copy


def test_a_base_that_is_at_hand_has_its_adapter_as_trained_afterwards(trained, tiny_sd1, tmp_path, few_denoising_steps):
    run, (_, dino, _, clip, *_) = trained
    copy = recommending(run, 0.5, tmp_path / "run")
    base = load_base(str(tiny_sd1), device="cpu")
    attach_saved(base, copy.adapter)
    before = sample(base, ["a sks toy"], [0])[0].tobytes()
    assert evaluate_run(copy, base=base, dino=dino, clip=clip, output=tmp_path / "out")["weight"] == 0.5
    assert sample(base, ["a sks toy"], [0])[0].tobytes() == before


def test_pictures_are_drawn_at_the_recommended_weight_and_the_grid_shows_the_first_of_each_prompt(
    trained, tiny_sd1, capsys, tmp_path, few_denoising_steps
):
    run, encoders = trained
    copy, output = recommending(run, 0.5, tmp_path / "run"), tmp_path / "out"
    argv = ["evaluate", "--run", str(copy.path), *encoders, "--count", "2", "--seed", "3", "-o", str(output)]
    result, _ = scored(capsys, argv)
    assert result["weight"] == 0.5
    told = {side: read_settings(output / side / "00-3.png") for side in ("before", "after")}
    assert told["after"]["adapter"] and told["after"]["weight"] == 0.5 and told["before"]["adapter"] is None

    def drawn(side, name):
        with Image.open(output / side / name) as image:
            return np.asarray(image.convert("RGB"), int)

    base = load_base(str(tiny_sd1), device="cpu")
    attach_saved(base, copy.adapter)
    texts = [f"a sks toy on {colour}" for colour in ("red", "red", "blue", "blue")]
    names = ["00-3.png", "00-4.png", "01-3.png", "01-4.png"]
    apart = {}
    for weight in (0.5, 1.0):
        set_weight(base, weight)
        pictures = sample(base, texts, [3, 4, 3, 4])
        apart[weight] = max(
            np.abs(np.asarray(image, int) - drawn("after", name)).max()
            for image, name in zip(pictures, names, strict=True)
        )
    assert apart[0.5] <= 1 < apart[1.0]

    first = [[Image.open(output / side / name) for name in names[::2]] for side in ("before", "after")]
    rows, columns = ["the base", "the adapter"], texts[::2]
    save_grid(tmp_path / "grid.png", first, row_labels=rows, column_labels=columns)
    expected, found = (Image.open(folder / "grid.png").tobytes() for folder in (tmp_path, output))
    assert found == expected


def test_an_evaluation_says_which_photos_it_was_against_and_that_they_changed(
    trained, capsys, tmp_path, few_denoising_steps
):
    run, encoders = trained
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    photos = Path(shutil.copytree(run.path.parent / "photos", tmp_path / "photos"))
    copy.config.write_text(copy.config.read_text().replace(str(run.path.parent / "photos"), str(photos)))
    argv = ["evaluate", "--run", str(copy.path), *encoders, "--cache", str(tmp_path / "cache"), "--overwrite"]

    def note():
        result, told = scored(capsys, argv)
        hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(photos.glob("*.png"))}
        assert result["reference_sha256"] == hashes
        return [line for line in told.splitlines() if "scored on those of now" in line]

    assert not note()
    (photos / "0.png").rename(photos / "renamed.png")
    (photos / "1.txt").write_text("a sks toy, as somebody writes later")
    assert not note(), "neither a name nor a caption makes other photos"
    env = json.loads(copy.env.read_text())
    copy.env.write_text(json.dumps({name: value for name, value in env.items() if name != "photo_files"}))
    assert "photos, masks or captions changed" in note()[0], "a run of a former version hashed all of them as one"
    copy.env.write_text(json.dumps(env))
    picture(9).save(photos / "2.png")
    picture(8).save(photos / "3.png")
    [said] = note()
    assert f"photos in {photos} are not those" in said and "(new: 2.png, 3.png; gone: 2.png)" in said


def test_what_makes_the_scores_of_a_run_doubtful_is_told(trained, capsys, tmp_path, few_denoising_steps):
    run, _ = trained
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "run"))
    photos = Path(shutil.copytree(run.path.parent / "photos", tmp_path / "photos"))
    copy.config.write_text(copy.config.read_text().replace(str(run.path.parent / "photos"), str(photos)))
    copy.update_summary(base={"identity": "folder:tiny-sd1", "hash": "0" * 64})
    for path in photos.glob("*.png"):
        Image.effect_noise((128, 128), 60).convert("RGB").save(path)
    argv = ["evaluate", "--run", str(copy.path), "--dino", "sprite", "--clip", "sprite", "-o", str(tmp_path / "out")]
    _, told = scored(capsys, argv)
    assert "weights are not those that this run was trained on" in told and "know emoji art only" in told
    photos.rename(tmp_path / "elsewhere")
    assert "The photos of this run are gone: " in refused(capsys, [*argv[:-1], str(tmp_path / "again")])


def test_a_stopped_evaluation_goes_on_where_it_was(trained, capsys, tmp_path):
    run, encoders = trained
    argv = ["evaluate", "--run", str(run.path), *encoders, "--count", "10", "-o", str(tmp_path / "cut short")]
    process = subprocess.Popen([sys.executable, "-m", "symdream.cli", *argv], stderr=subprocess.PIPE, text=True)
    kept = tmp_path / ".cut short.drawing"
    while not list(kept.glob("*/00007.png")):  # two whole batches of four
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "are kept" in told and "go on with symdream evaluate --run" in told
    assert 8 <= len(list(kept.glob("*/*.png"))) < 40 and not (tmp_path / "cut short").exists()

    again = [*argv[:-1], str(tmp_path / "whole")]
    whole, _ = scored(capsys, again)
    result, told = scored(capsys, argv)
    assert "are there already" in told and result == whole
    assert not kept.exists() and (tmp_path / "cut short" / "grid.png").is_file()


def test_the_base_alone_is_drawn_once_for_several_adapters(trained, capsys, tmp_path):
    run, encoders = trained
    other = RunFolder(shutil.copytree(run.path, tmp_path / "other"))
    shutil.rmtree(other.path / "evaluation", ignore_errors=True)
    for file in other.adapter.glob("*/*.safetensors"):
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata()
        save_file({name: 2 * weight for name, weight in load_file(file).items()}, file, metadata)
    cache = ["--cache", str(tmp_path / "cache")]
    alone, _ = scored(capsys, ["evaluate", "--run", str(other.path), *encoders, "-o", str(tmp_path / "alone")])
    scored(capsys, ["evaluate", "--run", str(run.path), *encoders, *cache, "-o", str(tmp_path / "first")])
    result, told = scored(capsys, ["evaluate", "--run", str(other.path), *encoders, *cache])
    assert "without the adapter: 2 of 2 pictures are there already" in told
    assert "with the adapter: 2 of 2" not in told
    assert result == alone
    assert 'drawing any "toy" without the adapter: 4 of 4 pictures are there already' in told
    assert 'drawing any "toy" with the adapter: 4 of 4' not in told
    assert len(list((tmp_path / "cache" / "pictures").glob("*/*.png"))) == 2 + 4


def test_a_run_is_told_how_its_class_drifts(trained, capsys, tmp_path, few_denoising_steps):
    """Against the cosines of the very pictures that lie in its folder."""
    run, encoders = trained
    argv = ["evaluate", "--run", str(run.path), *encoders, "--seed", "3", "--cache", str(tmp_path / "cache")]
    result, messages = scored(capsys, [*argv, "-o", str(tmp_path / "scores")])
    assert "weights are not those" not in messages
    found, folder = result["class_drift"], tmp_path / "scores" / "class"
    asked = [("a toy on red", 3), ("a toy on blue", 3), ("a toy on red", 4), ("a toy on blue", 4)]
    assert [(entry["text"], entry["seed"]) for entry in found["images"]] == asked

    sides = {side: sorted((folder / side).iterdir()) for side in ("before", "after")}
    settings = [read_settings(file) for file in sides["after"]]
    assert [(drawn["prompt"], drawn["seed"]) for drawn in settings] == asked
    dino = load_dino(encoders[1], device="cpu")
    rows = {side: dino.images([Image.open(file) for file in files]) for side, files in sides.items()}
    photos = dino.images([Image.open(file) for file in sorted((run.path.parent / "photos").glob("*.png"))])
    assert found["drift"] == pytest.approx(drift(rows["before"], rows["after"])) and found["drift"] > 0
    for side, pictures in rows.items():
        assert found["pres"][side] == pytest.approx(subject_fidelity(pictures, photos))
    short = {"drift": found["drift"], "pres": found["pres"]}
    assert run.read_summary()["class_drift"] == short

    assert main([*argv, "-o", str(tmp_path / "again")]) == 0
    told = capsys.readouterr().out
    pres = found["pres"]
    assert f'any "toy": drift {found["drift"]:.3f} (0: unchanged); ' in told
    assert f"(PRES) {pres['before']:.3f} before, {pres['after']:.3f} after" in told
    like = {side: (pictures @ photos.T).mean(1) for side, pictures in rows.items()}
    nearer = int((like["after"] > like["before"]).sum())
    assert f"{nearer} of 4 pictures without the trigger look more like the subject than before." in told
    assert ("or a lower weight" in told) == (nearer > 2)


@pytest.mark.parametrize("nearer", [2, 3])
def test_a_way_out_is_told_where_most_pictures_of_the_class_became_the_subject(nearer, capsys):
    images = [{"pres_before": 0.5, "pres_after": 0.6 if i < nearer else 0.4} for i in range(4)]
    found = {"class_noun": "toy", "drift": 0.1, "pres": {"before": 0.5, "after": 0.5}, "images": images}
    evaluate.print_class_drift({"class_drift": found})
    told = capsys.readouterr().out
    assert f"{nearer} of 4 pictures" in told and ("or a lower weight" in told) == (nearer > 2)


def test_prompts_that_do_not_ask_for_the_subject_are_refused(trained, capsys, tmp_path):
    run, encoders = trained
    (tmp_path / "prompts.txt").write_text("a {subject} here\na sks toy there\na car\n")
    argv = ["evaluate", "--run", str(run.path), *encoders, "--prompts", str(tmp_path / "prompts.txt")]
    told = refused(capsys, [*argv, "-o", str(tmp_path / "out")])
    assert '1 prompts do not ask for the subject, "a car"' in told
    assert not (tmp_path / "out").exists()


def test_a_file_that_holds_no_prompt_out_is_told(trained, capsys, tmp_path):
    run, encoders = trained
    file = tmp_path / "prompts.toml"
    file.write_text('class_noun = "toy"\n[[prompt]]\ntext = "a {subject} on green"\nheld_out = false\n')
    argv = ["evaluate", "--run", str(run.path), *encoders, "--prompts", str(file), "-o", str(tmp_path / "other")]
    _, told = scored(capsys, argv)
    assert f"no prompt in {file} is held out" in told


def test_a_run_in_training_or_without_an_adapter_is_refused(trained, capsys, tmp_path):
    run, encoders = trained
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
    shutil.rmtree(copy.path / "evaluation", ignore_errors=True)
    copy.acquire()
    assert "another process" in refused(capsys, ["evaluate", "--run", str(copy.path), *encoders])
    copy.release()
    shutil.rmtree(copy.adapter)
    assert "has no adapter yet" in refused(capsys, ["evaluate", "--run", str(copy.path), *encoders])


@pytest.mark.slow
def test_an_adapter_file_of_another_tool_is_scored_as_its_run_is(trained, tiny_sd1, capsys, tmp_path):
    run, encoders = trained
    file, photos = tmp_path / "toy.safetensors", str(run.path.parent / "photos")
    assert main(["export", str(run.path), "--to", "kohya", "-o", str(file)]) == 0
    capsys.readouterr()
    of_run, _ = scored(capsys, ["evaluate", "--run", str(run.path), *encoders, "-o", str(tmp_path / "of-run")])
    argv = ["evaluate", "--adapter", str(file), "--reference", photos, "--base", str(tiny_sd1), *encoders]
    of_file, _ = scored(capsys, [*argv, "-o", str(tmp_path / "of-file")])
    assert of_file["before"]["images"] == of_run["before"]["images"]
    assert of_file["ceiling"] == of_run["ceiling"]
    # The file holds the same update in closed form: to rounding, its pictures are the run's.
    for name in ("dino", "clip_i", "clip_t"):
        assert of_file["after"][name] == pytest.approx(of_run["after"][name], abs=2e-3)
    assert of_file["after"]["dino"] != of_file["before"]["dino"]
    assert {path.name for path in (tmp_path / "of-file").iterdir()} == {
        "before",
        "after",
        "class",
        "grid.png",
        "scores.json",
    }
    assert "never writes over another" in refused(capsys, [*argv, "-o", str(tmp_path / "of-file")])


@pytest.mark.parametrize(
    ("adapter", "name"),
    [("there/owl.safetensors", "owl"), ("runs/owl", "owl"), ("runs/owl-v1.5", "owl-v1.5"), (".", "here"), ("..", "é")],
)
def test_an_adapters_scores_lie_here_under_its_name(adapter, name, tmp_path, monkeypatch):
    (tmp_path / "é" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "é" / "here")
    assert evaluate.adapter_output(evaluate.Args(adapter=Path(adapter))) == Path(f"{name}-evaluation")


def test_an_adapter_that_does_not_name_its_subject_asks_for_the_words(
    trained, tiny_sd1, capsys, tmp_path, few_denoising_steps
):
    from safetensors.torch import load_file, save_file

    (tmp_path / "photos").mkdir()
    picture(1).save(tmp_path / "photos" / "1.png")
    run = train_tiny(tmp_path / "run", tiny_sd1, tmp_path / "photos", steps=1)
    assert main(["export", str(run.path), "--to", "diffusers", "-o", str(tmp_path / "a.safetensors")]) == 0
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "bare.safetensors")
    capsys.readouterr()
    argv = ["evaluate", "--adapter", str(tmp_path / "bare.safetensors"), "--reference", str(tmp_path / "photos")]
    argv += ["--base", str(tiny_sd1), "-o", str(tmp_path / "out")]
    told = refused(capsys, argv)
    assert "--trigger" in told and "--class-noun" in told
    assert not (tmp_path / "out").exists()
    (tmp_path / "prompts.txt").write_text("a {subject} on red\n")
    words = ["--trigger", "zwx", "--class-noun", "hen", "--prompts", str(tmp_path / "prompts.txt")]
    result, _ = scored(capsys, [*argv, *trained[1], *words, "--seed", "5", "--count", "2"])
    assert [entry["text"] for entry in result["after"]["images"]] == ["a hen on red"] * 2
    drawn = [read_settings(tmp_path / "out" / "after" / f"00-{seed}.png") for seed in (5, 6)]
    assert [(one["prompt"], one["seed"]) for one in drawn] == [("a zwx hen on red", 5), ("a zwx hen on red", 6)]
