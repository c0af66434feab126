"""What ends a run before its first step, and what it leaves."""

import pytest
from helpers.runs import adapter_tensors, make_photos, tiny_config, train_tiny
from PIL import Image

from symdream.errors import Problems, RequestError
from symdream.train import run_training
from symdream.training import request
from symdream.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("few_denoising_steps")


@pytest.fixture
def misplaced(tmp_path):
    """Photos of which one has a mask that its square, the middle, shows nothing of."""
    folder = make_photos(tmp_path / "wide", size=(240, 64))
    mask = Image.new("L", (240, 64))
    mask.paste(255, (0, 0, 30, 64))
    mask.save(folder / "01_mask.png")
    return folder


def test_a_refusal_after_the_base_was_loaded_leaves_the_place_free(tmp_path, tiny_sd1, misplaced):
    with pytest.raises(RequestError, match="leaves nothing of the photo"):
        train_tiny(tmp_path / "run", tiny_sd1, misplaced, steps=1)
    assert not (tmp_path / "run").exists()
    train_tiny(tmp_path / "run", tiny_sd1, misplaced, steps=1, mask_strength=0)


def test_a_run_that_was_to_be_replaced_is_there_until_the_first_step(tmp_path, tiny_sd1, photos, misplaced):
    old = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1, rank=3)
    before = adapter_tensors(old)
    run = RunFolder.create(old.path, overwrite=True)
    with pytest.raises(RequestError, match="leaves nothing of the photo"):
        run_training(run, tiny_config(tiny_sd1, misplaced, steps=1))
    assert all((adapter_tensors(old)[name] == tensor).all() for name, tensor in before.items())
    assert old.read_state()["status"] == "finished"
    run_training(RunFolder.create(old.path, overwrite=True), tiny_config(tiny_sd1, photos, steps=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "wide"]


def test_a_broken_class_image_is_told_with_all_else(tmp_path, photos):
    folder = make_photos(tmp_path / "class")
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    argv = ["--images", photos, "--class-noun", "toy", "--class-images", folder, "--lora-plus-ratio", 3]
    with pytest.raises(Problems) as caught:
        request.read_request(request.parse([str(word) for word in argv], "symdream train", ""))
    assert {p.key for p in caught.value.problems} == {"training.lora_plus_ratio", "prior.class_images"}
    assert "01.png cannot be read" in str(caught.value)
