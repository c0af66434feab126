"""Whether weights fit the models they are for: names and shapes, compared on the meta device before a number is read.

Names that a model does not know are no fault: the libraries ignore them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from symdream.diffusion.quiet import silence

Shape = tuple[int, ...]


def misfit(missing: Iterable[str], mismatched: Iterable[tuple[str, Shape, Shape]] = ()) -> str | None:
    """What is wrong with a model's weights, as the sentence after the model's name; None: nothing.

    `mismatched` are (name, shape found, shape needed).
    """
    if names := sorted(missing):
        return f"lacks {len(names)} of its weights, {names[0]} first"
    if wrong := sorted(mismatched):
        name, found, needed = wrong[0]
        shapes = f"{list(found)} instead of {list(needed)}"
        return f"has {len(wrong)} of its weights in a wrong shape, {name} first: {shapes}"
    return None


def weights_misfit(model: nn.Module, shapes: Mapping[str, Shape]) -> str | None:
    """What is wrong with weights of these shapes, under the model's own names; see `misfit`."""
    needed = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    mismatched = [(name, shapes[name], shape) for name, shape in needed.items() if shapes.get(name, shape) != shape]
    return misfit(needed.keys() - shapes.keys(), mismatched)


def diffusers_misfit(model_class: type, folder: Path, shapes: Mapping[str, Shape]) -> str | None:
    """What is wrong with weights of these shapes for the config of diffusers' model in `folder`."""
    with torch.device("meta"), silence():
        model = model_class.from_config(model_class.load_config(folder, local_files_only=True))
    # Old VAEs name their attention otherwise (query, key, value, proj_attn): renamed as from_pretrained does.
    return weights_misfit(model, model._fix_state_dict_keys_on_load(dict(shapes)))


def transformers_misfit(model_class: type, folder: Path, shapes: Mapping[str, Shape]) -> str | None:
    """What is wrong with weights of these shapes for the config of transformers' model in `folder`.

    transformers itself says it, since only its loading knows how the names of all its versions map to its own.
    """
    with silence():
        _, found = model_class.from_pretrained(
            None,
            config=model_class.config_class.from_pretrained(folder, local_files_only=True),
            state_dict={name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return misfit(found["missing_keys"], found["mismatched_keys"])
