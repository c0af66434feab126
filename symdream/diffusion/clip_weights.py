"""CLIP text encoders out of single-file checkpoints: OpenAI's layout as it is, OpenCLIP's renamed and split.

OpenCLIP keeps q, k and v of a layer as one (3n, n) matrix, and stores the text projection transposed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from symdream.diffusion.original_layout import clip_config

Weights = dict[str, torch.Tensor]
LAYER_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
TOP_NAMES = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def openai_weights(checkpoint: Mapping[str, torch.Tensor], prefix: str) -> Weights:
    """Weights below `prefix`, named from "embeddings." and "encoder." on."""
    inner = {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}
    return {key.removeprefix("text_model."): value for key, value in inner.items() if not key.endswith("position_ids")}


def openclip_weights(checkpoint: Mapping[str, torch.Tensor], prefix: str) -> tuple[Weights, torch.Tensor | None]:
    """(Weights named as `openai_weights` does, text projection (out, in) or None)."""
    weights: Weights = {}
    inner = {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}
    for key, value in inner.items():
        if key in TOP_NAMES:
            weights[TOP_NAMES[key]] = value
        elif key.startswith("transformer.resblocks."):
            number, name = key.removeprefix("transformer.resblocks.").split(".", 1)
            layer = f"encoder.layers.{number}."
            if name.startswith("attn.in_proj_"):
                for part, third in zip(("q", "k", "v"), value.chunk(3), strict=True):
                    weights[f"{layer}self_attn.{part}_proj.{name.removeprefix('attn.in_proj_')}"] = third.contiguous()
            else:
                module, kind = name.rsplit(".", 1)
                weights[f"{layer}{LAYER_NAMES[module]}.{kind}"] = value
    projection = inner.get("text_projection")
    return weights, None if projection is None else projection.T.contiguous()


def build_text_encoder(
    weights: Weights, *, openclip: bool, projection: torch.Tensor | None = None, drop_last: bool = False
) -> tuple[torch.nn.Module, Weights]:
    """(A transformers CLIP text encoder, the weights that it is to hold under its own names), with a projection head
    where one is given.

    `drop_last` leaves out the last layer: SD 2.x conditions on the layer before it.
    Raises: KeyError if a weight that tells the encoder's size is missing.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    layers = 1 + max((int(key.split(".")[2]) for key in weights if key.startswith("encoder.layers.")), default=0)
    if drop_last:
        layers -= 1
        weights = {key: value for key, value in weights.items() if not key.startswith(f"encoder.layers.{layers}.")}
    vocabulary, width = weights["embeddings.token_embedding.weight"].shape
    inner = weights["encoder.layers.0.mlp.fc1.weight"].shape[0]
    config = CLIPTextConfig(**clip_config(vocabulary, width, layers, inner, openclip=openclip))
    if projection is None:
        return CLIPTextModel(config), weights
    model = CLIPTextModelWithProjection(config)
    # transformers 5.6 flattened CLIPTextModel; the class with a projection still wraps a text_model.
    named = {f"text_model.{key}": value for key, value in weights.items()}
    return model, named | {"text_projection.weight": projection}
