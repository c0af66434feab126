"""What others run, written from the structure of diffusers' DreamBooth-LoRA script, to compare with.

That script: PEFT's LoRA on the UNet's attention projections, fp32, over a frozen base in half precision under
accelerate's autocast; noise and timesteps from the device's generator; gradient clipping; torch's AdamW; a learning
rate schedule; `loss.item()` for the progress bar at every step.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rows import Setting
from symdream.data.images import read_image

TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]
RANK = 8


def accelerator(setting: Setting):
    from accelerate import Accelerator

    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}[setting.dtype]
    return Accelerator(mixed_precision=mixed, cpu=setting.device.type == "cpu")


def add_lora(unet: nn.Module, dora: bool) -> list[nn.Parameter]:
    """PEFT's LoRA or DoRA on the UNet; returns what it trains, in fp32."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    start = True if dora else "gaussian"
    unet.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights=start, use_dora=dora)
    )
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return trained


class ScriptStep:
    """One step of the script over latents and text that are at hand: `step()` -> the loss, read from the device.

    latents (B, 4, h, w) scaled; text (B, 77, D); extra: SDXL's added conditions.
    """

    def __init__(self, setting: Setting, unet: nn.Module, latents: Tensor, text: Tensor, extra: dict, *, dora: bool):
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler

        self.accelerator = accelerator(setting)
        self.parameters = add_lora(unet, dora)
        optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=1e-2)
        schedule = get_scheduler("constant", optimizer=optimizer, num_warmup_steps=0, num_training_steps=400)
        self.unet, self.optimizer, self.schedule = self.accelerator.prepare(unet, optimizer, schedule)
        self.unet.train()
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear")
        self.latents, self.text, self.extra = latents, text, extra

    def step(self) -> float:
        return self.train_on(self.latents, self.text)

    def train_on(self, latents: Tensor, text: Tensor) -> float:
        noise = torch.randn_like(latents)
        count = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, count, (len(latents),), device=latents.device).long()
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        with self.accelerator.accumulate(self.unet):
            prediction = self.unet(noisy, timesteps, text, **self.extra, return_dict=False)[0]
            loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        return loss.detach().item()


def train_script(folder: Path, photos: Path, steps: int, output: Path, setting: Setting, prompt: str) -> None:
    """The whole script: load the parts, then encode the photo and the prompt anew at every step, as it does by default.

    folder: a base in diffusers' layout. Writes pytorch_lora_weights.safetensors into `output`.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict
    from PIL import Image
    from transformers import AutoTokenizer, CLIPTextModel

    device, dtype = setting.device, setting.dtype
    tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="tokenizer", use_fast=False)
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder")
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    for module in (text_encoder, vae, unet):
        module.requires_grad_(False)
        module.to(device, dtype=dtype)
    trainer = ScriptStep(setting, unet, torch.empty(0), torch.empty(0), {}, dora=False)
    size = unet.config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    files = sorted(photos.glob("*.png"))
    for _ in range(steps):
        image = read_image(random.choice(files)).resize((size, size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = vae.encode(pixels.to(device, dtype)).latent_dist.sample() * vae.config.scaling_factor
        ids = tokenizer(
            prompt, truncation=True, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        trainer.train_on(latents, text_encoder(ids.to(device))[0])
    trained = trainer.accelerator.unwrap_model(trainer.unet).to(torch.float32)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(trained))
    StableDiffusionPipeline.save_lora_weights(save_directory=output, unet_lora_layers=layers)


class Floor:
    """What no adapter can beat: the frozen UNet's forward, and its backward to its input, by PyTorch's own kernels.

    ours: by those that a recording of ours takes (symdream/diffusion/lean_unet.py).
    """

    def __init__(self, unet: nn.Module, latents: Tensor, text: Tensor, extra: dict, *, graph: bool, ours: bool = False):
        from symdream.diffusion.captured import Captured

        unet.requires_grad_(False)
        x = torch.randn_like(latents).requires_grad_()
        timesteps = torch.randint(0, 1000, (len(x),), device=x.device)
        target, gradient = torch.randn_like(latents), torch.zeros_like(latents)

        def pass_() -> None:
            loss = F.mse_loss(unet(x, timesteps, text, **extra, return_dict=False)[0].float(), target.float())
            gradient.copy_(torch.autograd.grad(loss, x)[0])

        device = x.device if graph else torch.device("cpu")
        self.step = Captured(pass_, device, unet=unet if ours else None)
