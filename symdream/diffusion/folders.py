"""Bases from folders in diffusers' layout, local or in the hub's cache: first checked, then loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from symdream.diffusion.architecture import family_of_folder, wrong_architecture
from symdream.diffusion.base import SAMPLING_DEFAULTS, Base
from symdream.diffusion.fitting import Shape, diffusers_misfit, misfit, transformers_misfit
from symdream.diffusion.hashes import weights_hash
from symdream.diffusion.headers import read_header
from symdream.diffusion.names import pickle_refused
from symdream.diffusion.quiet import quiet_loading
from symdream.diffusion.resolution import folder_resolution
from symdream.errors import RequestError, WorkError

# Per component, the stem of its weight files; sharded ones have an index beside them.
STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
PREDICTIONS = ("epsilon", "v_prediction")
CLIP_KINDS = ("clip_text_model", "clip")
VARIANTS = ("", "fp16")  # full precision first
# What diffusers and transformers raise about files that they cannot load.
LIBRARY_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError)


class MissingPart(RequestError):
    """A file of the base is not there: a download may have been interrupted."""


@dataclass(frozen=True)
class FolderPlan:
    """A diffusers folder found complete: its family, each component's variant, and the weight files with the shapes
    of each component's tensors.

    `force_zeros_for_empty_prompt`: see Base.
    """

    folder: Path
    family: str
    variants: dict[str, str]
    weights: list[Path]
    shapes: dict[str, dict[str, Shape]]
    force_zeros_for_empty_prompt: bool


def weight_components(family: str) -> list[str]:
    return [name for name in STEMS if family == "sdxl" or name != "text_encoder_2"]


def read_json(path: Path) -> dict:
    """Raises: MissingPart if the file is not there, RequestError if it is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingPart(f"{path.name} is missing.", where=str(path.parent)) from None
    except ValueError as error:
        raise RequestError(f"{path.name} is not valid JSON: {error}.", where=str(path)) from error
    if not isinstance(content, dict):
        raise RequestError(f"{path.name} holds no JSON object.", where=str(path))
    return content


def plan_folder(folder: Path) -> FolderPlan:
    """Check that `folder` is a base which can be loaded, reading configs and headers only.

    Raises: RequestError if it is of another architecture, incomplete, truncated, or holds pickles only.
    """
    if not (folder / "model_index.json").is_file():
        raise RequestError(
            "This folder is no diffusers model: it has no model_index.json.",
            where=str(folder),
            fix="give the folder that holds unet/, vae/, text_encoder/, or a .safetensors checkpoint file",
        )
    model_index = read_json(folder / "model_index.json")
    family = family_of_folder(model_index, _unet_config(folder, model_index), str(folder))
    variants, files = {}, {}
    prediction = read_json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise wrong_architecture(f"one that predicts {prediction!r}, not {' or '.join(PREDICTIONS)}", str(folder))
    for component in weight_components(family):
        config = read_json(folder / component / "config.json")
        if component.startswith("text_encoder"):
            if (kind := config.get("model_type") or CLIP_KINDS[0]) not in CLIP_KINDS:
                raise wrong_architecture(f"one whose {component} is a {kind}, not CLIP's", str(folder))
            _check_tokenizer(folder / component.replace("text_encoder", "tokenizer"))
        shifted = _other_than(0, config.get("latents_mean")) or _other_than(1, config.get("latents_std"))
        if component == "vae" and shifted:
            raise wrong_architecture("one whose VAE shifts its latents (latents_mean, latents_std)", str(folder))
        variants[component], files[component] = _weight_files(folder / component, STEMS[component])
    return FolderPlan(
        folder=folder,
        family=family,
        variants=variants,
        weights=[path for paths in files.values() for path in paths],
        shapes={component: _shapes(paths) for component, paths in files.items()},
        # True is the default of SDXL's pipeline.
        force_zeros_for_empty_prompt=bool(model_index.get("force_zeros_for_empty_prompt", True)),
    )


def _shapes(paths: Sequence[Path]) -> dict[str, Shape]:
    return {name: shape for path in paths for name, shape in read_header(path).shapes.items()}


def _other_than(usual: float, values: Sequence[float] | None) -> bool:
    return any(value != usual for value in values or ())


def _check_tokenizer(folder: Path) -> None:
    if not (folder / "tokenizer.json").is_file() and not (
        (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    ):
        raise MissingPart(
            f"{folder.name} is incomplete: it needs tokenizer.json, or vocab.json and merges.txt.", where=str(folder)
        )


def _unet_config(folder: Path, model_index: dict) -> dict:
    # Flux, SD 3 and others have a transformer instead: they are refused by their pipeline's name.
    return read_json(folder / "unet" / "config.json") if "unet" in model_index else {}


def _weight_files(folder: Path, stem: str) -> tuple[str, list[Path]]:
    """(variant, files) of one component."""
    for variant in VARIANTS:
        infix = f".{variant}" if variant else ""
        whole = folder / f"{stem}{infix}.safetensors"
        if whole.is_file():
            return variant, [whole]
        index = folder / f"{stem}.safetensors.index{infix}.json"
        if index.is_file():
            shards = [folder / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
            if missing := [shard.name for shard in shards if not shard.is_file()]:
                raise MissingPart(f"The weight shard {missing[0]} is missing.", where=str(folder))
            return variant, shards
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.ckpt"))
    if pickles:
        raise pickle_refused(pickles[0])
    raise MissingPart(
        f"{folder.name} has no weights: {stem}.safetensors is missing.",
        where=str(folder),
        fix="download the base again (`symdream base get NAME` resumes)",
    )


def misfits(plan: FolderPlan) -> dict[str, str]:
    """By component, what is wrong with its weights, as `misfit` words it; told from configs and headers."""
    problems = {}
    for component, shapes in plan.shapes.items():
        compare = transformers_misfit if component.startswith("text_encoder") else diffusers_misfit
        try:
            problem = compare(_model_class(component), plan.folder / component, shapes)
        except LIBRARY_ERRORS as error:
            problem = f"cannot be built from its config.json: {error}"
        if problem:
            problems[component] = problem
    return problems


def load_folder(folder: Path, name: str, identity: str, dtype: torch.dtype) -> Base:
    """Load a diffusers folder of any of the families.

    Raises: RequestError as `plan_folder` does or if the weights do not fit, WorkError if the libraries cannot load what
    it holds.
    """
    plan = plan_folder(folder)
    try:
        with quiet_loading():
            parts = _load_parts(plan, dtype)
    except LIBRARY_ERRORS as error:
        for component, problem in misfits(plan).items():
            raise _unfit(folder / component, problem) from error
        raise WorkError(f"This base cannot be loaded: {error}", where=str(folder)) from error
    scheduler = parts["scheduler"]
    encoders = [name for name in weight_components(plan.family) if name.startswith("text_encoder")]
    unet, vae = parts["unet"], parts["vae"]
    if not hasattr(scheduler, "alphas_cumprod"):
        # EDM's and flow matching's: the losses and the previews of pictures are written in alphas.
        raise wrong_architecture(f"one on the noise schedule of {type(scheduler).__name__}", str(folder))
    card = folder / "README.md"
    return Base(
        name=name,
        identity=identity,
        family=plan.family,
        unet=unet,
        vae=vae,
        text_encoders=[parts[part] for part in encoders],
        tokenizers=[parts[part.replace("text_encoder", "tokenizer")] for part in encoders],
        scheduler=scheduler,
        prediction_type=scheduler.config.prediction_type,
        resolution=folder_resolution(unet.config, vae.config, folder),
        defaults=dict(SAMPLING_DEFAULTS),
        hasher=lambda: weights_hash(folder, plan.weights),
        force_zeros_for_empty_prompt=plan.force_zeros_for_empty_prompt,
        licence=licence_of(folder),
        card=card if card.is_file() else None,
    )


def licence_of(folder: Path) -> str | None:
    """The one word after `license:` in the front matter of a model card (README.md), as the hub has it; None where
    there is none, or one that names no licence."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return None
    for line in lines[1 : lines.index("---", 1)]:
        if found := re.fullmatch(r"""license:\s*["']?([\w.+-]+)["']?\s*""", line):
            return None if found[1].lower() in ("other", "unknown", "null") else found[1]
    return None


def _unfit(folder: Path, problem: str) -> RequestError:
    return RequestError(
        f"The {folder.name} of this base {problem}.",
        where=str(folder),
        fix="get it again, or choose another base: its weight files are not whole, or do not belong to its config.json",
    )


def corrected(scheduler_config: dict, family: str) -> dict:
    """A scheduler's config with what old files leave out, stated, so that schedulers made from it inherit it.

    As StableDiffusionPipeline corrects it. SDXL's pipeline trusts the file, so its offset stays.
    """
    # Latents are not confined to -1..1, as the pixels were that DDIM's default is for.
    fixed = {"clip_sample": False}
    if family != "sdxl":
        fixed["steps_offset"] = 1
    return {**scheduler_config, **fixed}


def _model_class(component: str) -> type:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }[component]


def _load_parts(plan: FolderPlan, dtype: torch.dtype) -> dict:
    import diffusers
    from transformers import CLIPTokenizer

    parts = {}
    for component, variant in plan.variants.items():
        options = {"subfolder": component, "local_files_only": True, "use_safetensors": True}
        number_format = "torch_dtype" if component in ("unet", "vae") else "dtype"
        parts[component], found = _model_class(component).from_pretrained(
            plan.folder, variant=variant or None, output_loading_info=True, **options, **{number_format: dtype}
        )
        # The libraries fill what is missing with random numbers.
        if problem := misfit(found["missing_keys"]):
            raise _unfit(plan.folder / component, problem)
        parts[component].eval()
        if component.startswith("text_encoder"):
            tokenizer = component.replace("text_encoder", "tokenizer")
            parts[tokenizer] = CLIPTokenizer.from_pretrained(plan.folder / tokenizer, local_files_only=True)
            # Without a tokenizer_config.json it believes in texts without end.
            positions = parts[component].config.max_position_embeddings
            parts[tokenizer].model_max_length = min(parts[tokenizer].model_max_length, positions)
    config = read_json(plan.folder / "scheduler" / "scheduler_config.json")
    scheduler_class = getattr(diffusers, config.get("_class_name", ""), None)
    if scheduler_class is None:
        raise ValueError(f"scheduler_config.json names no scheduler of diffusers: {config.get('_class_name')!r}")
    parts["scheduler"] = scheduler_class.from_config(corrected(config, plan.family))
    return parts
