"""The app as a process of its own, and the small adapters that its tests load."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 180  # far more than it takes; a busy machine must not fail a test


@dataclass
class Server:
    url: str
    runs: Path
    log: Path
    process: subprocess.Popen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(runs: Path, *flags: str, env: dict[str, str] | None = None, port: int | None = None) -> Server:
    """`symdream app` on a port of loopback (None: a free one), ready to answer."""
    runs.mkdir(parents=True, exist_ok=True)
    port, log = port or free_port(), runs.parent / f"{runs.name}-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "symdream.cli", "app", "--port", str(port), "--runs", str(runs), *flags],
            stdout=output,
            stderr=output,
            cwd=runs.parent,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
        )
    server = Server(f"http://127.0.0.1:{port}", runs, log, process)
    for _ in range(START_SECONDS * 10):
        if process.poll() is not None:
            raise AssertionError(f"the app ended:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(server.url, timeout=5):
                return server
        except OSError as error:
            if getattr(error, "code", None) is not None:
                return server  # it answers, and asks who is there
            time.sleep(0.1)
    stop(server)
    raise AssertionError(f"the app does not answer:\n{log.read_text()}")


def stop(server: Server) -> int:
    """End it as Ctrl-C does; its exit code."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGINT)
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
    return server.process.returncode


def write_adapter(
    path: Path,
    *,
    seed: int = 0,
    noun: str = "bird",
    trigger: str = "sks",
    strength: float = 1.0,
    width: int = 0,
    base: str | None = "sprite",
) -> Path:
    """A native LoRA of rank 2 for sprite's attention, random, strong enough to be seen, as a run folder at `path`.

    width: another width than sprite's layers have, for an adapter of another architecture. base: what it says that it
    was trained on.
    """
    import json

    import torch
    from safetensors.torch import save_file

    from symdream.diffusion.embedded import sprite_folder

    config = json.loads((sprite_folder("sprite-diffusion") / "unet" / "config.json").read_text())
    blocks = config["block_out_channels"]
    layer = f"down_blocks.{config['down_block_types'].index('CrossAttnDownBlock2D')}.attentions.0.transformer_blocks.0"
    channels = width or blocks[config["down_block_types"].index("CrossAttnDownBlock2D")]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in ("to_q", "to_v", "to_out.0"):
        stem = f"base_model.model.{layer}.attn1.{name}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(2, channels, generator=generator) * strength / channels**0.5
        tensors[f"{stem}.lora_B.weight"] = torch.randn(channels, 2, generator=generator) * strength / 2**0.5
    told = {
        "format": 1, "method": "lora", "rank": 2, "alpha": 2, "trigger": trigger, "class_noun": noun,
        "base": {"identity": base},
    }  # fmt: skip
    folder = path / "adapter" / "unet"
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt", "symdream": json.dumps(told)})
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["to_q", "to_v", "to_out.0"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return path


def write_run(path: Path, *, photos: Path, **options) -> Path:
    """`write_adapter`, with the config.toml of a run that learned from `photos`."""
    write_adapter(path, **options)
    noun, trigger = options.get("noun", "bird"), options.get("trigger", "sks")
    (path / "config.toml").write_text(
        f'[subject]\nimages = "{photos}"\nclass_noun = "{noun}"\ntrigger = "{trigger}"\n\n[model]\nbase = "sprite"\n'
    )
    return path
