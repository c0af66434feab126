"""The whole recipe at toy size: narrow models, eight things, a few steps, in two pieces.

VAE and CLIP score better than at their start; DINO and UNet are better at what they were asked in training. So short a
training does not move the scores of DINO and of drawn pictures to the better: those are only asked to be there.
"""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from recipes.sprite import score, stages, storage, train
from recipes.sprite.art import read_art
from recipes.sprite.compose import Composer
from recipes.sprite.parts import FOLDERS, load_part, load_tokenizer
from recipes.sprite.sizes import config_of, new_model
from symdream.diffusion.checks import check_sums
from symdream.diffusion.embedded import sprite_folder

TOY = Path(__file__).parent / "toy.safetensors"


def run_train(stage: str, steps: int, out: Path) -> None:
    command = ["--stage", stage, "--minutes", "60", "--steps", str(steps), "--size", "tiny", "--data", str(TOY)]
    assert train.main([*command, "--out", str(out)]) == 0


def scores_of(base: Path, out: Path, *parts: str) -> dict:
    words = ["--data", str(TOY), "--base", str(base), "--out", str(out), "--images", "10", "--pairs", "64"]
    args = score.parse([*words, "--subjects", "fox", "--subject-steps", "2", "--only", *parts])
    return score.score(args, torch.device("cpu"))


def random_base(root: Path) -> Path:
    torch.manual_seed(0)
    for part in FOLDERS:
        storage.export_part(new_model(part, config_of(part, "tiny")).eval(), part, config_of(part, "tiny"), root)
    storage.finish_export(root)
    return root


@torch.no_grad()
def instance_error(root: Path, others: Path) -> float:
    """DINO's contrastive loss on fresh compositions, the mean of eight batches."""
    torch.manual_seed(1)
    composer = Composer(read_art(TOY).where(held_out=False), load_tokenizer())
    vit = load_part(root, "dino")
    loss = stages.instance_loss(composer, 16, load_part(others, "vae"))
    return sum(loss(vit, vit).item() for _ in range(8)) / 8


@torch.no_grad()
def noise_error(unet: Path, others: Path) -> float:
    """The UNet's loss on fresh compositions, as the VAE and the text encoder of `others` tell them."""
    torch.manual_seed(1)
    composer = Composer(read_art(TOY).where(held_out=False), load_tokenizer())
    pool = stages.LatentPool(load_part(others, "vae"), composer, size=32, refill=32)
    pool.fill()
    alphas = DDIMScheduler.from_pretrained(sprite_folder("sprite-diffusion") / "scheduler").alphas_cumprod
    text_encoder = load_part(others, "text_encoder")
    model = load_part(unet, "unet")
    loss = stages.unet_loss(text_encoder, pool, composer.tables, alphas, 32)
    return loss(model, model).item()


@pytest.mark.slow
def test_the_whole_recipe_runs_in_two_pieces_and_improves_its_models(tmp_path, capsys):
    start = random_base(tmp_path / "start")
    before = scores_of(start, tmp_path / "before", "vae", "clip")

    first, second = tmp_path / "first", tmp_path / "second"
    run_train("all", 40, first)
    shutil.copytree(first, second)  # as to the next machine
    run_train("dino", 80, second)
    run_train("unet", 120, second)
    told = capsys.readouterr().err
    assert f"dino: goes on from step 40 in {second}" in told
    assert f"unet: goes on from step 40 in {second}" in told
    assert storage.read_checkpoint("unet", second)[1] == 160
    assert all(finding.problem is None for finding in check_sums(second))

    after = scores_of(second, tmp_path / "after", *score.PARTS)
    assert after["vae"]["psnr"] > before["vae"]["psnr"] + 1
    assert after["clip"]["retrieval"] > before["clip"]["retrieval"] + 0.1
    assert instance_error(second, second) < instance_error(start, second) - 0.1
    assert 0 <= after["dino"]["retrieval"] <= 1
    assert noise_error(second, second) < 0.5 * noise_error(start, second)
    assert all(0 <= after["draws"][word] <= 1 for word in ("thing", "colour", "pattern", "style", "two things"))
    assert -1 <= after["dreambooth"]["before"] <= 1
    assert (tmp_path / "after" / "drawn.png").is_file()
