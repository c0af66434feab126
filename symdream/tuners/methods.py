"""The methods by name, as data: what each trains, how it is set up, and the rates that suit it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from peft import LoraConfig, PeftConfig
from torch import nn

from symdream.errors import RequestError
from symdream.tuners.config import SingLoraConfig, SymLoraConfig

UNET_TARGETS = {"qk": ["to_q", "to_k"], "qkvo": ["to_q", "to_k", "to_v", "to_out.0"]}
TEXT_TARGETS = {"qk": ["q_proj", "k_proj"], "qkvo": ["q_proj", "k_proj", "v_proj", "out_proj"]}
TARGETS = {"unet": UNET_TARGETS, "text_encoder": TEXT_TARGETS, "text_encoder_2": TEXT_TARGETS}

LORA_B = "lora_B"
LAMBDA = "symlora_lambda"


@dataclass(frozen=True)
class Method:
    """One way to adapt a model.

    `config(rank, alpha, targets, dropout)` makes its PEFT config; those of SingLoRA and SymLoRA also take `init`.
    `size(r, n_in, n_out)` counts what it trains in one linear layer. `special` names the parameters that learn at
    another rate, with that rate's ratio to `lr`. `lr` and `text_encoder_lr` are for the embedded base, `real_lr` and
    `real_text_encoder_lr` for SD 1.5 and its like.
    """

    name: str
    label: str
    config: Callable[..., PeftConfig]
    size: Callable[[int, int, int], int]
    lr: float
    text_encoder_lr: float
    real_lr: float
    real_text_encoder_lr: float
    special: dict[str, float] = field(default_factory=dict)
    has_ramp: bool = False


def _lora(rank: int, alpha: float, targets: Sequence[str] | str, dropout: float, use_dora: bool = False) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=_names(targets), lora_dropout=dropout, use_dora=use_dora)


def _dora(rank: int, alpha: float, targets: Sequence[str] | str, dropout: float) -> LoraConfig:
    return _lora(rank, alpha, targets, dropout, use_dora=True)


def _singlora(
    rank: int, alpha: float, targets: Sequence[str] | str, dropout: float, init: str = "kaiming"
) -> SingLoraConfig:
    return SingLoraConfig(r=rank, alpha=alpha, target_modules=_names(targets), dropout=dropout, init_weights=init)


def _symlora(
    rank: int, alpha: float, targets: Sequence[str] | str, dropout: float, init: str = "kaiming"
) -> SymLoraConfig:
    return SymLoraConfig(r=rank, alpha=alpha, target_modules=_names(targets), dropout=dropout, init_weights=init)


def _names(targets: Sequence[str] | str) -> list[str] | str:
    return targets if isinstance(targets, str) else list(targets)


# Rates for real bases: LoRA's is diffusers' README (1e-4), DoRA "slightly lower" (its authors), SingLoRA's is the
# paper's section 6.2 (1e-3), SymLoRA's is taken over from SingLoRA. LoRA+'s is our choice: with 2e-5 for A and 16 times
# as much for B the geometric mean of both, 8e-5, lies near LoRA's; 1e-4 for A would have B learn at 1.6e-3.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="lora",
            label="LoRA",
            config=_lora,
            size=lambda r, n_in, n_out: r * (n_in + n_out),
            lr=2e-3,
            text_encoder_lr=2e-3,
            real_lr=1e-4,
            real_text_encoder_lr=1e-4,
        ),
        Method(
            name="lora+",
            label="LoRA+",
            config=_lora,
            size=lambda r, n_in, n_out: r * (n_in + n_out),
            lr=9.5e-4,
            text_encoder_lr=9.5e-4,
            real_lr=2e-5,
            real_text_encoder_lr=2e-5,
            special={LORA_B: 16.0},
        ),
        Method(
            name="dora",
            label="DoRA",
            config=_dora,
            size=lambda r, n_in, n_out: r * (n_in + n_out) + n_out,
            lr=2e-3,
            text_encoder_lr=2e-3,
            real_lr=8e-5,
            real_text_encoder_lr=8e-5,
        ),
        Method(
            name="singlora",
            label="SingLoRA",
            config=_singlora,
            size=lambda r, n_in, n_out: r * max(n_in, n_out),
            lr=2e-3,
            text_encoder_lr=2e-3,
            real_lr=1e-3,
            real_text_encoder_lr=1e-3,
            has_ramp=True,
        ),
        Method(
            name="symlora",
            label="SymLoRA",
            config=_symlora,
            size=lambda r, n_in, n_out: r * max(n_in, n_out) + r,
            lr=9.5e-3,
            text_encoder_lr=9.5e-3,
            real_lr=1e-3,
            real_text_encoder_lr=1e-3,
            special={LAMBDA: 1.0},
        ),
    )
}


def get_method(name: str) -> Method:
    """The method of this name. Raises RequestError listing the names there are."""
    if name not in METHODS:
        raise RequestError(f"There is no method {name!r}.", fix=f"choose one of {', '.join(METHODS)}")
    return METHODS[name]


def target_modules(targets: str, component: str) -> list[str]:
    """The attention projections of a component: targets 'qk' or 'qkvo'; component 'unet' or 'text_encoder[_2]'."""
    if component not in TARGETS:
        raise RequestError(f"There is no component {component!r}.", fix=f"choose one of {', '.join(TARGETS)}")
    names = TARGETS[component]
    if targets not in names:
        raise RequestError(f"There is no target set {targets!r}.", fix=f"choose one of {', '.join(names)}")
    return list(names[targets])


def param_groups(
    method: Method | str,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    *,
    name: str = "adapter",
    ratios: dict[str, float] | None = None,
) -> list[dict]:
    """Optimizer groups [{"name", "params", "lr"}] of the trainable parameters, each parameter in exactly one.

    LoRA+ (arXiv:2402.12354) gives B a rate `ratio` times A's; SymLoRA's Lambda has its own rate. Both are decided by
    the parameter's name: PEFT's helper takes everything of one dimension for a B, Lambda included.

    method: whose special parameters count. lr: rate of the ordinary ones.
    name: prefix of the groups' names ("unet" gives "unet", "unet.lora_B", "unet.symlora_lambda").
    ratios: other ratios than the method's, by parameter kind, e.g. {"lora_B": 8} or {"symlora_lambda": 3}.

    Raises: RequestError for a ratio that the method has no parameters for.
    """
    method = get_method(method) if isinstance(method, str) else method
    unknown = set(ratios or {}) - set(method.special)
    if unknown:
        raise RequestError(
            f"{method.label} has no {', '.join(sorted(unknown))} to give a rate of its own.",
            fix=f"ratios of {method.label}: {', '.join(method.special) or 'none'}",
        )
    special = {**method.special, **(ratios or {})}
    groups = {"": {"name": name, "params": [], "lr": lr}}
    groups |= {kind: {"name": f"{name}.{kind}", "params": [], "lr": lr * ratio} for kind, ratio in special.items()}
    for parameter_name, parameter in named_parameters:
        if parameter.requires_grad:
            kind = next((kind for kind in special if kind in parameter_name.split(".")), "")
            groups[kind]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def linear_shapes(model: nn.Module, targets: Sequence[str], exclude: str | None = None) -> list[tuple[int, int]]:
    """(in, out) of the linear layers that these target names match, adapted or not, also on the meta device.

    exclude: a regular expression of whole names that are left out.
    """
    wanted, unwanted = tuple(f".{target}" for target in targets), re.compile(exclude or r"(?!)")
    return [
        (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if f".{name}".endswith(wanted) and hasattr(module, "in_features") and not unwanted.fullmatch(name)
    ]


def count_parameters(method: Method | str, shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Parameters that a method trains on linear layers of these (in, out) shapes, from the shapes alone."""
    method = get_method(method) if isinstance(method, str) else method
    return sum(method.size(rank, n_in, n_out) for n_in, n_out in shapes)
