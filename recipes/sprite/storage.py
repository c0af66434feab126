"""What a training leaves: checkpoints to go on from, and the base as symdream reads it.

OUT/checkpoints/STAGE-I-of-N.safetensors    EMA weights in fp16, at most 15 MB a file; metadata: the step
OUT/sprite-diffusion, sprite-clip, sprite-dino, SHA256SUMS    int8 shards and configs, as in symdream/assets/sprite
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.sprite.parts import FOLDERS, has, load_part
from symdream.diffusion.embedded import sprite_folder
from symdream.diffusion.hashes import file_sha256
from symdream.diffusion.int8 import write_int8
from symdream.diffusion.quiet import quiet_loading
from symdream.errors import WorkError

FILE_BYTES = 14_900_000  # of tensors: with its header a file stays under 15 MB


def write_checkpoint(model: nn.Module, step: int, stage: str, root: Path) -> list[Path]:
    """Replaces the stage's checkpoint; an interruption leaves the old one or the new one."""
    files: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        value = value.half().contiguous() if value.is_floating_point() else value.contiguous()
        size = value.numel() * value.element_size()
        if files[-1] and used + size > FILE_BYTES:
            files.append({})
            used = 0
        files[-1][name] = value
        used += size
    folder = root / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stage}-{step}-{i}-of-{len(files)}.safetensors" for i in range(1, len(files) + 1)]
    old = set(folder.glob(f"{stage}-*.safetensors")) - set(paths)
    for path, content in zip(paths, files, strict=True):
        partial = path.with_name(path.name + ".partial")
        save_file(content, partial, metadata={"step": str(step), "stage": stage})
        partial.rename(path)
    for path in old:
        path.unlink()
    return paths


def read_checkpoint(stage: str, root: Path) -> tuple[dict[str, Tensor], int] | None:
    """The newest complete checkpoint: weights in fp32, and its step; None if there is none.

    Raises: WorkError if there are files, but no complete set of them.
    """
    sets: dict[tuple[int, int], list[Path]] = {}
    for path in (root / "checkpoints").glob(f"{stage}-*.safetensors"):
        step, _, number = map(int, re.fullmatch(rf"{stage}-(\d+)-(\d+)-of-(\d+)", path.stem).groups())
        sets.setdefault((step, number), []).append(path)
    complete = [(step, paths) for (step, number), paths in sorted(sets.items()) if len(paths) == number]
    if not complete:
        if sets:
            where = str(root / "checkpoints")
            raise WorkError(f"The checkpoint of {stage} is incomplete.", where=where, fix="copy all of its files")
        return None
    step, paths = complete[-1]
    weights: dict[str, Tensor] = {}
    for path in paths:
        with safe_open(path, "pt") as file:
            assert int(file.metadata()["step"]) == step
        weights |= load_file(path)
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}, step


def export_part(model: nn.Module, part: str, config: dict, root: Path) -> None:
    """Write one model as int8 shards with its config, under the names that are stored today."""
    folder = root / FOLDERS[part]
    shutil.rmtree(folder, ignore_errors=True)
    write_int8(hub_state(model), folder)
    _write_json(folder / "config.json", config)


def hub_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights by the hub's names: only save_pretrained maps transformers' own names to them."""
    with tempfile.TemporaryDirectory() as temporary, quiet_loading():
        model.save_pretrained(temporary, safe_serialization=True)
        [path] = Path(temporary).glob("*.safetensors")
        return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}


def finish_export(root: Path) -> None:
    """Put the parts beside the models that never change (scheduler, tokenizer, index), and the checksums."""
    source, target = sprite_folder("sprite-diffusion"), root / "sprite-diffusion"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)
    shutil.copyfile(source / "model_index.json", target / "model_index.json")
    shutil.copyfile(sprite_folder("LICENSES.md"), root / "LICENSES.md")  # the artwork's credits travel with the weights
    files = sorted((p for p in root.glob("sprite-*/**/*") if p.is_file()), key=lambda p: p.relative_to(root).as_posix())
    lines = [f"{file_sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in files]
    (root / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def find_part(part: str, roots: list[Path]) -> tuple[nn.Module, dict, Path]:
    """A part that another stage made, from the first of `roots` that has it: model in eval mode, config, where."""
    for root in roots:
        if has(root, part):
            config = json.loads((root / FOLDERS[part] / "config.json").read_text(encoding="utf-8"))
            return load_part(root, part).requires_grad_(False), config, root
    raise WorkError(f"None of the folders has a {part}.", where=", ".join(map(str, roots)))


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
