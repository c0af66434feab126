"""The recipe's parts that need no training: loop, losses, checkpoints, export."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from recipes.sprite import language, measures, stages, storage, train
from recipes.sprite.art import read_art
from recipes.sprite.compose import Composer
from recipes.sprite.loop import DECAY, LOWEST, Averaged, Budget, Loop, rate_at
from recipes.sprite.parts import FOLDERS, clip_encoder, dino_encoder, load_base_at, load_part, load_tokenizer
from recipes.sprite.score import table
from recipes.sprite.sizes import config_of, new_model
from symdream.diffusion.checks import check_sums
from symdream.diffusion.embedded import sprite_folder
from symdream.diffusion.int8 import read_int8
from symdream.errors import WorkError

TOY = Path(__file__).parent / "toy.safetensors"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def composer():
    return Composer(read_art(TOY).where(held_out=False), load_tokenizer())


@pytest.mark.parametrize("part", list(FOLDERS))
def test_the_full_models_have_the_names_and_shapes_that_are_stored_today(part):
    with torch.device("meta"):
        model = new_model(part, config_of(part, "full"))
    stored = {name: tensor.shape for name, tensor in read_int8(sprite_folder(FOLDERS[part])).items()}
    model = model.to_empty(device="cpu")
    assert {name: tensor.shape for name, tensor in storage.hub_state(model).items()} == stored


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny base of random weights, exported as a training would."""
    root = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    models = {part: new_model(part, config_of(part, "tiny")).eval() for part in FOLDERS}
    for part, model in models.items():
        storage.export_part(model, part, config_of(part, "tiny"), root)
    storage.finish_export(root)
    return root, models


def test_symdream_reads_what_was_exported(exported):
    root, models = exported
    assert all(finding.problem is None for finding in check_sums(root))
    assert len(check_sums(root)) == len([p for p in root.glob("sprite-*/**/*") if p.is_file()]) >= 14
    for part, model in models.items():
        again = load_part(root, part)
        for name, weight in model.state_dict().items():
            assert (again.state_dict()[name] - weight).abs().max() <= weight.abs().max() / 127 + 1e-6, (part, name)
    base = load_base_at(root)
    assert (base.family, base.resolution, base.prediction_type) == ("sd1", 128, "epsilon")
    with torch.inference_mode():
        text = base.text_encoder(base.tokenizer("a cow", return_tensors="pt").input_ids)[0]
        assert base.unet(torch.zeros(1, 4, 32, 32), 10, text).sample.shape == (1, 4, 32, 32)
        assert clip_encoder(root).texts(["a cow"]).shape == (1, 64)
        assert dino_encoder(root).features(torch.zeros(1, 3, 128, 128)).shape == (1, 96)


def test_the_artworks_credits_travel_with_an_export(exported):
    root, _ = exported
    assert "Twemoji" in (root / "LICENSES.md").read_text(encoding="utf-8")
    config = json.loads((root / "sprite-diffusion" / "vae" / "config.json").read_text(encoding="utf-8"))
    assert config["block_out_channels"] == config_of("vae", "tiny")["block_out_channels"]


def test_a_checkpoint_keeps_weights_in_fp16_and_the_step_in_files_of_at_most_15_mb(tmp_path):
    model = nn.ModuleList(nn.Linear(1000, 1000) for _ in range(20))
    paths = storage.write_checkpoint(model, 70, "unet", tmp_path)
    assert len(paths) == 3
    assert all(path.stat().st_size <= 15_000_000 for path in paths)
    with safe_open(paths[0], "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118 - no dict
    weights, step = storage.read_checkpoint("unet", tmp_path)
    assert step == 70
    for name, weight in model.state_dict().items():
        assert torch.equal(weights[name], weight.half().float())


def test_the_newest_complete_checkpoint_counts_and_older_ones_go(tmp_path):
    assert storage.read_checkpoint("vae", tmp_path) is None
    storage.write_checkpoint(nn.Linear(2, 2), 1, "vae", tmp_path)
    storage.write_checkpoint(nn.Linear(2, 2), 2, "vae", tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["vae-2-1-of-1.safetensors"]
    # A copy that was cut off: the part of a set of two, of a later step.
    (tmp_path / "checkpoints" / "vae-3-1-of-2.safetensors").write_bytes(b"")
    assert storage.read_checkpoint("vae", tmp_path)[1] == 2
    (tmp_path / "checkpoints" / "vae-2-1-of-1.safetensors").unlink()
    with pytest.raises(WorkError, match="incomplete"):
        storage.read_checkpoint("vae", tmp_path)


def test_the_rate_rises_holds_and_falls_within_the_budget():
    assert rate_at(0, 0.0, 100) == 0.01
    assert rate_at(100, 0.5, 100) == 1
    assert rate_at(10**6, 1 - DECAY, 100) == pytest.approx(1)
    assert rate_at(10**6, 1.0, 100) == pytest.approx(LOWEST)
    assert rate_at(10**6, 1 - DECAY / 2, 100) == pytest.approx((1 + LOWEST) / 2)


def test_a_budget_ends_at_the_first_of_time_and_steps():
    assert Budget(10.0).progress(5.0, 10**9) == 0.5
    assert Budget(10.0, 4).progress(5.0, 3) == 0.75
    assert Budget(10.0, 4).progress(11.0, 0) > 1


def test_the_average_follows_its_formula():
    module = nn.Linear(3, 2)
    average = Averaged(module, 0.5)
    expected = module.weight.detach().clone()
    for n in range(1, 30):
        with torch.no_grad():
            module.weight.add_(0.1)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    assert torch.allclose(average.module.weight, expected, atol=1e-5)
    assert not average.module.weight.requires_grad


def fit(steps, loss=None, dtype=None):
    torch.manual_seed(0)
    module, inputs = nn.Linear(4, 1), torch.randn(64, 4)
    target = inputs @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])
    loss = loss or (lambda model, _: (model(inputs.to(model.weight.dtype)) - target).float().square().mean())
    loop = Loop(module, loss, lr=0.05, ema=0.9, warmup=5, device=CPU, dtype=dtype)
    reached = loop.run("fit", Budget(1e6, steps), first=7)
    return loop, reached, target - loop.average.module(inputs)


def test_a_loop_learns_stops_at_its_steps_and_counts_on():
    loop, reached, error = fit(300)
    assert reached == 307
    assert error.square().mean() < 1e-3
    assert not loop.average.module.training


def test_a_model_that_computes_in_bf16_moves_weights_in_fp32():
    loop, _, error = fit(300, dtype=torch.bfloat16)
    assert error.square().mean() < 1e-3
    assert loop.model.weight.dtype == torch.bfloat16
    assert loop.module.weight.dtype == loop.average.module.weight.dtype == torch.float32
    assert torch.equal(loop.model.weight, loop.module.weight.bfloat16())
    assert not torch.equal(loop.model.weight.float(), loop.module.weight)


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(ValueError, match="not a number"):
        fit(40, loss=lambda *_: torch.full((), math.nan, requires_grad=True))


class Echo(nn.Module):
    """Stands for the VAE: latents are every eighth pixel's first four channels (RGB and a one)."""

    dtype = torch.float32

    class Latents:
        def __init__(self, value):
            self.value = value

        def mode(self):
            return self.value

    def __init__(self):
        super().__init__()
        self.config = type("C", (), {"scaling_factor": 2.0, "sample_size": 128, "block_out_channels": (1, 1, 1)})()
        self.config.latent_channels = 4

    def encode(self, pictures):
        small = pictures[:, :, ::4, ::4]
        value = torch.cat([small, torch.ones_like(small[:, :1])], 1)
        return type("Encoded", (), {"latent_dist": self.Latents(value)})()


def test_the_pool_replaces_its_oldest_latents_and_keeps_them_with_their_captions(composer):
    torch.manual_seed(0)
    pool = stages.LatentPool(Echo(), composer, size=12, refill=4)
    assert pool.refills == 3
    for _ in range(pool.refills):
        pool.fill()
    assert (pool.latents[:, 3] == 2).all()  # scaled
    before = pool.latents.clone()
    pool.fill()
    changed = (pool.latents != before).flatten(1).any(1)
    assert changed.tolist() == [True] * 4 + [False] * 8
    latents, ids = pool.draw(50)
    for row, tokens in zip(latents, ids, strict=True):
        place = (pool.latents == row).flatten(1).all(1).nonzero()[0, 0]
        assert torch.equal(pool.ids[place].long(), tokens)


def test_captions_that_are_equal_are_no_negatives_of_each_other(composer):
    clip = new_model("clip", config_of("clip", "tiny"))
    one_thing = Composer(read_art(TOY).where(held_out=True), load_tokenizer())
    scene = one_thing.draw(1)
    one_thing.draw = lambda count: scene[torch.zeros(count, dtype=torch.long)]
    assert stages.clip_loss(one_thing, 6)(clip, clip).item() == pytest.approx(0, abs=1e-6)


def test_a_unet_that_names_the_noise_has_no_loss(composer, monkeypatch):
    pool = stages.LatentPool(Echo(), composer, size=8, refill=8)
    pool.fill()
    noise = torch.randn(5, 4, 32, 32)
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    heard = []

    def unet(noisy, timesteps, hidden):
        heard.append(hidden)
        return type("Prediction", (), {"sample": noise})()

    unet.dtype = torch.float32
    encoder = lambda input_ids: type("Text", (), {"last_hidden_state": input_ids})()
    alphas = torch.linspace(0.99, 0.01, 1000)
    loss = stages.unet_loss(encoder, pool, composer.tables, alphas, 5)
    assert loss(unet, None) == 0
    for _ in range(60):
        loss(unet, None)
    silent = torch.cat(heard)[:, 1] == composer.tables.end
    assert 0.03 < silent.float().mean() < 0.2  # a tenth without a caption


def test_both_views_of_the_self_distillation_show_all_of_their_things(composer, monkeypatch):
    torch.manual_seed(0)
    scenes, render = [], composer.render
    monkeypatch.setattr(composer, "render", lambda scene: scenes.append(scene) or render(scene))
    stages.distillation_loss(composer, 48)(*[lambda view: torch.zeros(len(view), stages.PROTOTYPES)] * 2)
    for scene in scenes:
        pairs = scene[scene.things[:, 1] >= 0]
        assert len(pairs.things) > 4
        swapped = replace(pairs, things=pairs.things.flip(1), scale=pairs.scale.flip(1), centre=pairs.centre.flip(1),
                          angle=pairs.angle.flip(1), flip=pairs.flip.flip(1))  # fmt: skip
        # Which one lies on top is all but invisible.
        assert (render(swapped) - render(pairs)).abs().mean() < 0.01


class Blind(nn.Module):
    """A ViT, and a VAE, to which all pictures are one."""

    dtype = torch.float32

    def forward(self, pictures):
        return type("Seen", (), {"last_hidden_state": torch.ones(len(pictures), 1, 8)})()

    def encode(self, pictures):
        return type("Encoded", (), {"latent_dist": type("Latents", (), {"mode": lambda _: pictures})()})()

    def decode(self, latents):
        return type("Decoded", (), {"sample": latents})()


def test_two_styles_of_one_drawing_are_no_negatives_of_each_other():
    torch.manual_seed(0)
    one_thing = Composer(read_art(TOY).where(held_out=True), load_tokenizer())
    one_thing.things = one_thing.things[:1]
    loss = stages.instance_loss(one_thing, 2, Blind())
    losses = torch.stack([loss(Blind(), Blind()) for _ in range(150)])
    none, one = (torch.isclose(losses, torch.tensor(value), atol=1e-4) for value in (0.0, math.log(2)))
    assert (none | one).all()
    assert 0.03 < none.float().mean() < 0.2  # a tenth of the pairs of styles: 3d render and glossy icon


def test_a_dino_that_takes_two_styles_of_one_drawing_for_one_is_told_apart_from_a_worse_one(composer):
    def seen(pictures):  # the sprites follow each other, five styles of each thing
        style = language.drawing_of(torch.arange(len(pictures)) % 5)
        return torch.eye(len(pictures))[torch.arange(len(pictures)) // 5 * 5 + style]

    encoder = type("Encoder", (), {"features": staticmethod(seen)})
    found = measures.dino_instance(encoder, load_part(sprite_folder(), "vae"), composer, 0)
    assert found["drawing"] == 1
    assert found["retrieval"] == pytest.approx(0.8)


@pytest.mark.parametrize(("flags", "said"), [(["--from", "nowhere"], "no checkpoint"), (["--out", "file"], "be made")])
def test_folders_that_cannot_be_meant_are_refused_before_anything_is_trained(
    tmp_path, monkeypatch, capsys, flags, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words = ["--stage", "vae", "--minutes", "1", "--size", "tiny", "--data", str(TOY), "--out", "out"]
    monkeypatch.setattr(train, "STAGES", {"vae": lambda *_: pytest.fail("was trained")})
    assert train.main([*words, *flags]) == 2
    assert said in capsys.readouterr().err


def test_the_blur_keeps_means_and_leaves_half_of_the_pictures(composer):
    torch.manual_seed(0)
    pictures = composer.render(composer.draw(40))
    soft = stages.blurred(pictures)
    same = (soft - pictures).abs().flatten(1).amax(1) < 1e-6
    assert 8 < same.sum() < 32
    assert torch.allclose(soft.mean((1, 2, 3)), pictures.mean((1, 2, 3)), atol=0.02)
    assert (soft.diff(dim=-1).abs().mean((1, 2, 3)) <= pictures.diff(dim=-1).abs().mean((1, 2, 3)) + 1e-6).all()


def test_the_table_puts_todays_column_first_and_the_goals_last():
    today = {"vae": {"psnr": 26.74}, "draws": {"colour": 0.5, "colour, ceiling": 0.97}}
    lines = table({"today": today, "mine": {"vae": {"psnr": 31.2}}}).splitlines()
    assert lines[0] == "| | today | mine | ceiling | goal |"
    assert "| 26.7 | 31.2 |  | ≥ 31 |" in lines[2]
    assert "| 0.50 |  |" in lines[3]
