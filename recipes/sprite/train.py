"""Train a base of sprite's kind: VAE, CLIP, DINO and UNet, in pieces that each end in time and can be gone on from.

    python recipes/sprite/train.py --stage all  --minutes 25 --data sprites.safetensors --out base
    python recipes/sprite/train.py --stage vae  --minutes 5  --data sprites.safetensors --out base
    python recipes/sprite/train.py --stage unet --minutes 8  --data sprites.safetensors --out base2 --from base
    python recipes/sprite/train.py --stage all  --minutes 2  --data tests/recipes/toy.safetensors --out toy --size tiny

Each stage goes on from its checkpoint in OUT, else in --from, else from --from's exported weights, else from random
weights. The models it needs of other stages come from OUT, else --from, else the embedded base; it says from where.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for recipes.*, from any working folder

import torch  # noqa: E402
from torch import nn  # noqa: E402

import symdream.quiet  # noqa: E402, F401
from recipes.sprite import stages, storage  # noqa: E402
from recipes.sprite.art import read_art  # noqa: E402
from recipes.sprite.compose import Composer  # noqa: E402
from recipes.sprite.loop import Budget, Loop, computing_dtype  # noqa: E402
from recipes.sprite.parts import has, load_part, load_tokenizer  # noqa: E402
from recipes.sprite.sizes import SIZES, config_of, new_model  # noqa: E402
from symdream.diffusion.captured import Captured  # noqa: E402
from symdream.diffusion.embedded import load_transformers_part, sprite_folder  # noqa: E402
from symdream.errors import RequestError, SymdreamError, WorkError  # noqa: E402
from symdream.ui import say  # noqa: E402

# The order of --stage all, and what part of the minutes each takes.
SHARES = {"vae": 0.22, "clip": 0.12, "dino": 0.18, "unet": 0.48}
MEASURED = 512  # compositions that the latents' scale is measured on


@dataclass
class Workshop:
    """What all stages share."""

    out: Path
    source: Path | None
    size_name: str
    composer: Composer
    device: torch.device
    eager: bool
    batch_size: int | None

    @property
    def size(self):
        return SIZES[self.size_name]

    def batch(self, stage: str) -> int:
        return self.batch_size or self.size.batch[stage]

    def start(self, stage: str) -> tuple[nn.Module, int]:
        """The stage's model on the device, and the step it has reached."""
        model = new_model(stage, config_of(stage, self.size_name))
        roots = [root for root in (self.out, self.source) if root is not None]
        for root in roots:
            if (found := storage.read_checkpoint(stage, root)) is not None:
                weights, step = found
                try:
                    model.load_state_dict(weights)
                except RuntimeError as error:
                    where, fix = str(root / "checkpoints"), "give the --size it was trained with, or another --from"
                    raise WorkError(f"The checkpoint does not fit: {error}", where=where, fix=fix) from error
                say(f"{stage}: goes on from step {step} in {root}")
                return model.to(self.device), step
        if self.source is not None and has(self.source, stage):
            say(f"{stage}: starts from the weights in {self.source}")
            return load_part(self.source, stage).to(self.device), 0
        say(f"{stage}: starts from random weights")
        return model.to(self.device), 0

    def other(self, part: str) -> nn.Module:
        """A frozen model of another stage."""
        roots = [root for root in (self.out, self.source, sprite_folder()) if root is not None]
        model, _, root = storage.find_part(part, roots)
        say(f"the {part} is that of {'the embedded base' if root == sprite_folder() else root}")
        return nn.Module.to(model, self.device, computing_dtype(self.device))

    def loop(self, stage: str, module: nn.Module, loss: stages.Loss) -> Loop:
        size = self.size
        rates = {"lr": size.lr[stage], "ema": size.ema[stage], "warmup": size.warmup}
        return Loop(module, loss, device=self.device, eager=self.eager, **rates)

    def save(self, stage: str):
        return lambda average, step: storage.write_checkpoint(average, step, stage, self.out)

    def export(self, stage: str, model: nn.Module, config: dict) -> None:
        storage.export_part(model, stage, config, self.out)
        storage.finish_export(self.out)


def train_vae(shop: Workshop, budget: Budget) -> None:
    vae, step = shop.start("vae")
    from transformers import ViTModel

    # Always the embedded one: it is at hand everywhere, and its own training never saw a held-out subject.
    perceptual = load_transformers_part(ViTModel, sprite_folder("sprite-dino"), add_pooling_layer=False)
    perceptual = perceptual.to(shop.device, computing_dtype(shop.device)).requires_grad_(False)
    loss = stages.vae_loss(shop.composer, shop.batch("vae"), perceptual)
    loop = shop.loop("vae", vae, loss)
    step = loop.run("vae", budget, save=shop.save("vae"), first=step)
    shop.save("vae")(loop.average.module, step)
    config = config_of("vae", shop.size_name) | {"scaling_factor": latent_scale(loop.average.module, shop.composer)}
    shop.export("vae", loop.average.module, config)


@torch.no_grad()
def latent_scale(vae: nn.Module, composer: Composer) -> float:
    """1 / standard deviation of the latents: what the UNet sees then has a deviation of one."""
    latents = [vae.encode(composer.render(composer.draw(64))).latent_dist.mode() for _ in range(MEASURED // 64)]
    return 1 / torch.cat(latents).std().item()


def train_clip(shop: Workshop, budget: Budget) -> None:
    clip, step = shop.start("clip")
    loop = shop.loop("clip", clip, stages.clip_loss(shop.composer, shop.batch("clip")))
    step = loop.run("clip", budget, save=shop.save("clip"), first=step)
    shop.save("clip")(loop.average.module, step)
    shop.export("clip", loop.average.module, config_of("clip", shop.size_name))
    # The pipeline's text encoder is CLIP's text tower, weight for weight.
    config = config_of("text_encoder", shop.size_name)
    encoder = new_model("text_encoder", config)
    tower = {name.removeprefix("text_model."): w for name, w in loop.average.module.text_model.state_dict().items()}
    encoder.load_state_dict(tower)
    shop.export("text_encoder", encoder, config)


def train_dino(shop: Workshop, budget: Budget) -> None:
    vit, step = shop.start("dino")
    vae = shop.other("vae")
    batch = shop.batch("dino")
    fresh = step == 0 and not (shop.source is not None and has(shop.source, "dino"))
    if fresh:
        student = stages.SelfDistilled(vit).to(shop.device)
        loss = stages.distillation_loss(shop.composer, batch)
        part = shop.size.distilled
        first = Budget(part * budget.seconds, budget.steps and max(1, round(part * budget.steps)))
        loop = shop.loop("dino", student, loss)
        step = loop.run("dino (self-distillation)", first, first=step)
        vit = loop.average.module.vit.requires_grad_(True)
        budget = Budget((1 - part) * budget.seconds, budget.steps and max(1, budget.steps - first.steps))
    loop = shop.loop("dino", vit, stages.instance_loss(shop.composer, batch, vae))
    step = loop.run("dino (instances)", budget, save=shop.save("dino"), first=step)
    shop.save("dino")(loop.average.module, step)
    shop.export("dino", loop.average.module, config_of("dino", shop.size_name))


def train_unet(shop: Workshop, budget: Budget) -> None:
    from diffusers import DDIMScheduler

    started = time.perf_counter()
    unet, step = shop.start("unet")
    size = shop.size
    pool = stages.LatentPool(shop.other("vae"), shop.composer, size.pool, size.refill)
    refill = pool.fill if shop.eager else Captured(pool.fill, shop.device)
    for _ in range(pool.refills):
        refill()
    scheduler = DDIMScheduler.from_pretrained(sprite_folder("sprite-diffusion") / "scheduler", local_files_only=True)
    alphas = scheduler.alphas_cumprod.to(shop.device)
    encoder = shop.other("text_encoder")
    loss = stages.unet_loss(encoder, pool, shop.composer.tables, alphas, shop.batch("unet"))
    loop = shop.loop("unet", unet, loss)

    def between(done: int) -> None:
        if done % size.refill_every == 0:
            refill()

    left = Budget(max(1.0, budget.seconds - (time.perf_counter() - started)), budget.steps)
    step = loop.run("unet", left, between=between, save=shop.save("unet"), first=step)
    shop.save("unet")(loop.average.module, step)
    shop.export("unet", loop.average.module, config_of("unet", shop.size_name))


STAGES = {"vae": train_vae, "clip": train_clip, "dino": train_dino, "unet": train_unet}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("all", *STAGES), required=True)
    parser.add_argument("--minutes", type=float, required=True, help="of training; loading and exports come on top")
    parser.add_argument("--data", type=Path, required=True, help="the packed art, made by data.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the exported base")
    parser.add_argument("--from", dest="source", type=Path, help="folder of an earlier piece to go on from")
    parser.add_argument("--size", choices=tuple(SIZES), default="full", help="tiny: narrow models, for tests on a CPU")
    parser.add_argument("--steps", type=int, help="at most so many steps a stage (default: time alone decides)")
    parser.add_argument("--batch-size", type=int, help="of every stage (default: each stage's own)")
    parser.add_argument("--eager", action="store_true", help="record no CUDA graph, should that fail on your machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.minutes <= 0 or (args.steps is not None and args.steps < 1):
        parser.error("--minutes and --steps must be above 0")
    if args.batch_size is not None and args.batch_size < 4:
        parser.error("--batch-size must be at least 4")
    return args


def check_folders(source: Path | None, out: Path) -> None:
    """Make `out`. Raises: RequestError if it cannot be made, or if there is nothing in `source` to go on from."""
    if source is not None and not (
        any(has(source, stage) for stage in STAGES) or any((source / "checkpoints").glob("*.safetensors"))
    ):
        fix = "give --out of an earlier piece, or leave --from out to start anew"
        raise RequestError("There is no checkpoint and no part of a base.", where=str(source), fix=fix)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "give --out another folder"
        raise RequestError(f"The folder cannot be made: {error}.", where=str(out), fix=fix) from None


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        check_folders(args.source, args.out)
        # Held-out subjects end here: no stage ever holds their pixels.
        composer = Composer(read_art(args.data).where(held_out=False), load_tokenizer(), device)
        shop = Workshop(args.out, args.source, args.size, composer, device, args.eager, args.batch_size)
        for stage, share in SHARES.items() if args.stage == "all" else [(args.stage, 1.0)]:
            STAGES[stage](shop, Budget(60 * args.minutes * share, args.steps))
            say(f"{stage}: exported to {args.out}")
    except SymdreamError as error:
        say(str(error))
        return error.exit_code
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
