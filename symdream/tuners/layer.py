"""One linear layer with symmetric low-rank updates, for SingLoRA and SymLoRA."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from symdream.tuners.adapted_linear import AdaptedLinear, autocast_is_on, can_be_one
from symdream.tuners.config import SingLoraConfig, SymLoraConfig, SymmetricConfig
from symdream.tuners.ramp import Ramp
from symdream.tuners.symmetric import INITS, dense_delta, lora_pair

LOW_PRECISION = (torch.float16, torch.bfloat16)


class MasterParameters(nn.ParameterDict):
    """Parameters by adapter name that stay fp32 (or fp64) when a model is cast to fp16 or bf16.

    Small steps are lost in bf16: an adapter trained there can stand still or collapse (kyegomez/SingLoRA, issue 6).
    `masters(name)` is `masters[name]` after the hooks of whoever moves weights to the device when they are needed.
    """

    __call__ = nn.Module.__call__  # ParameterDict's refuses

    def forward(self, name: str) -> nn.Parameter:
        return self[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype in LOW_PRECISION and tensor.dtype not in LOW_PRECISION:
                return tensor.to(moved.device)
            return moved

        return super()._apply(keep_precision, recurse)


class SymmetricLinear(nn.Module, BaseTunerLayer):
    """Frozen linear layer plus symmetric low-rank updates, summed over the active adapters.

        y = W0 x + b + s * A_out diag(d) A_in^T x,    s = weight * alpha / r

    SingLoRA (arXiv:2507.05566, eq. 8): d = u, one number that the trainer sets (`set_ramp`).
    SymLoRA (arXiv:2504.03719): d = Lambda, r trained numbers; signed, so the update can also subtract, which
    A A^T on a square layer cannot.
    One A (r, n), n = max(in, out), serves both sides: A_in and A_out are its first `in` and `out` columns
    (SingLoRA, section 4.4). `weight` is 1 unless set_scale or scale_layer say otherwise; it is not saved.
    Our choices, not taken from the papers: s applies to non-square layers too; Lambda starts at 0; A is
    not kept orthogonal.

    The update costs two thin products, never an (out, in) matrix. Parameters are float32 (float64 on a float64
    base), cast to the base's dtype in the forward.

    The base is an nn.Linear, or GPT-2's Conv1D, which is one whose weight lies transposed: (in, out).

    Shapes: x (..., in) -> y (..., out), in the dtype of the base's own output: under autocast, or behind a layer that
    computes in another precision than its input's, not x's.
    """

    cast_input_dtype_enabled = True  # diffusers' layer-wise casting switches it; the forward casts in any case

    A_name: str  # the attribute that holds A; begins with the tuner's prefix, as PEFT's loading asks
    other_param_names = ("r", "alpha", "scaling", "dropout")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        linear = self.get_base_layer()
        self.in_features, self.out_features = features_of(linear)
        # diffusers counts adapters by len(layer.r)
        self.r: dict[str, int] = {}
        self.alpha: dict[str, float] = {}
        self.scaling: dict[str, float] = {}
        self.dropout: dict[str, float] = {}
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        self._merged_scale: dict[str, float] = {}
        setattr(self, self.A_name, MasterParameters())

    # What SingLoRA and SymLoRA differ in.

    def _d(self, adapter_name: str, device: torch.device) -> Tensor:
        """d as the forward needs it: 0-d or (r,)."""
        raise NotImplementedError

    def _scale(self, adapter_name: str, weight_one: bool = False) -> float:
        """All plain numbers that multiply the update, from the host's memory; `weight_one` leaves set_scale's out."""
        raise NotImplementedError

    def _spectrum(self, adapter_name: str) -> Tensor | None:
        """The trained part of d (r,), None where there is none."""
        raise NotImplementedError

    # Adapters come and go.

    @property
    def _A(self) -> MasterParameters:
        return self._modules[self.A_name]

    def update_layer(self, adapter_name: str, config: SymmetricConfig) -> None:
        """Add an adapter; `config` has been checked against this layer's shape."""
        weight = self.get_base_layer().weight
        self.r[adapter_name] = config.r
        self.alpha[adapter_name] = float(config.alpha)
        self.scaling[adapter_name] = self.alpha[adapter_name] / config.r
        self.dropout[adapter_name] = config.dropout
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        # Drawn on the CPU, so that a seed means the same start on every device.
        A = INITS[config.init_weights](config.r, max(self.in_features, self.out_features), dtype)
        self._A[adapter_name] = nn.Parameter(A.to(weight.device))

    def delete_adapter(self, adapter_name: str) -> None:
        if adapter_name in self.merged_adapters:
            raise ValueError(f"Adapter {adapter_name!r} is merged into the weights; unmerge it, then delete it.")
        super().delete_adapter(adapter_name)

    def set_scale(self, adapter_name: str, scale: float) -> None:
        """Set the adapter's weight (any real number, 1 = as trained); unknown adapters are ignored."""
        if adapter_name in self.r:
            self.scaling[adapter_name] = scale * self.alpha[adapter_name] / self.r[adapter_name]

    def scale_layer(self, scale: float) -> None:
        """Multiply the weights of the active adapters."""
        for name in self._active_here():
            self.scaling[name] *= scale

    def unscale_layer(self, scale: float | None = None) -> None:
        """Divide the weights of the active adapters, or set them back to 1 (None)."""
        for name in self._active_here():
            if scale is None:
                self.set_scale(name, 1.0)
            else:
                self.scaling[name] /= scale

    def _active_here(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.r]

    # The update as a matrix, merged or factored.

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """dW (out, in) in the adapter's own dtype: the dense oracle of the forward; as the base's weight lies, hence
        (in, out) for a Conv1D. Raises KeyError for no adapter."""
        return self._delta(adapter_name, self._scale(adapter_name))

    def _delta(self, adapter_name: str, scale: float) -> Tensor:
        A, d = self._A[adapter_name], self._spectrum(adapter_name)
        delta = dense_delta(A, d, scale, self.out_features, self.in_features)
        return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def lora_factors(self, adapter_name: str, fp16_balanced: bool = False) -> tuple[Tensor, Tensor]:
        """Plain LoRA's (A (r, in), B (out, r)) with dW = B A at weight 1: u and alpha / r are in, set_scale is not."""
        A, d = self._A[adapter_name].detach(), self._spectrum(adapter_name)
        weight_one = self._scale(adapter_name, weight_one=True)
        d = None if d is None else d.detach()
        return lora_pair(A, d, weight_one, self.out_features, self.in_features, balanced=fp16_balanced)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of the active (or named) adapters to the base's weight, in place.

        One after the other; each sum is made in the adapter's dtype and rounded once. Raises ValueError if safe_merge
        finds a value that is not finite; that adapter is then not merged, those before it are, as in PEFT's LoRA.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name not in self.r:
                continue
            scale = self._scale(name)
            weight = self.get_base_layer().weight
            delta = self._delta(name, scale)
            merged = (weight.to(delta.dtype) + delta).to(weight.dtype)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"Merging adapter {name!r} gives weights that are not finite (NaN or inf).")
            # In place, since a CUDA graph holds the weight's address.
            weight.copy_(merged)
            self.merged_adapters.append(name)
            # Unmerging takes away what was added, even if weights or u are set anew in between.
            self._merged_scale[name] = scale

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the merged updates out of the base's weight again (exact up to the weight's rounding)."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            weight = self.get_base_layer().weight
            delta = self._delta(name, self._merged_scale.pop(name))
            weight.copy_((weight.to(delta.dtype) - delta).to(weight.dtype))

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        if self._disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._mixed_batch_forward(x, adapter_names, *args, **kwargs)
        names = [name for name in self.active_adapters if name in self.r and name not in self.merged_adapters]
        if len(names) == 1 and not (args or kwargs) and not self._drops(names[0]) and can_be_one(self.base_layer, x):
            [name], base = names, self.base_layer
            d = self._d(name, x.device)
            return AdaptedLinear.apply(x, base.weight, base.bias, self._A[name], d, self.scaling[name])
        result = self.base_layer(x, *args, **kwargs)
        for name in names:
            result = self._add_update(result, x, name)
        return result

    def _mixed_batch_forward(self, x: Tensor, adapter_names: list[str], *args: Any, **kwargs: Any) -> Tensor:
        """Row i of x through adapter_names[i] alone; through none where this layer has no such adapter."""
        result = self.base_layer(x, *args, **kwargs)
        for name in self.r:
            if chosen := [i for i, other in enumerate(adapter_names) if other == name]:
                rows = torch.tensor(chosen, device=x.device)
                updated = self._add_update(result[rows], x[rows], name)
                result = result.index_copy(0, rows, updated)
        return result

    def _drops(self, name: str) -> bool:
        return self.training and self.dropout[name] > 0

    def _add_update(self, result: Tensor, x: Tensor, name: str) -> Tensor:
        # Only r numbers per token are touched between the products; s rides on the second one for free.
        A = self._A(name).to(result.dtype)
        A_in = A if self.in_features == A.shape[1] else A[:, : self.in_features]
        A_out = A if self.out_features == A.shape[1] else A[:, : self.out_features]
        if self._drops(name):
            x = F.dropout(x, self.dropout[name])
        with _without_autocast(x.device.type):
            h = F.linear(x.to(A.dtype), A_in)
            h = (h * self._d(name, h.device)).to(A.dtype)
            h = h.reshape(-1, h.shape[-1])
            y = torch.addmm(result.reshape(-1, self.out_features), h, A_out, alpha=self.scaling[name])
        return y.view_as(result)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return True

    def extra_repr(self) -> str:
        return f"r={self.r}, alpha={self.alpha}"


def features_of(linear: nn.Linear | Conv1D) -> tuple[int, int]:
    """(in, out)."""
    if isinstance(linear, Conv1D):
        n_in, n_out = linear.weight.shape
        return n_in, n_out
    return linear.in_features, linear.out_features


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """The update is added in the precision of the base's output, whatever autocast would take for products."""
    return torch.autocast(device, enabled=False) if autocast_is_on(device) else nullcontext()


class SingLoraLinear(SymmetricLinear):
    """d = u: see SymmetricLinear. Trains `singlora_A` (r, n)."""

    A_name = "singlora_A"
    adapter_layer_names = ("singlora_A",)
    other_param_names = (*SymmetricLinear.other_param_names, "ramps")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.ramps: dict[str, Ramp] = {}

    def update_layer(self, adapter_name: str, config: SingLoraConfig, ramp: Ramp) -> None:
        super().update_layer(adapter_name, config)
        self.ramps[adapter_name] = ramp
        ramp.on(self.get_base_layer().weight.device)

    def _d(self, adapter_name: str, device: torch.device) -> Tensor:
        return self.ramps[adapter_name].on(device)

    def _scale(self, adapter_name: str, weight_one: bool = False) -> float:
        s = self.alpha[adapter_name] / self.r[adapter_name] if weight_one else self.scaling[adapter_name]
        return s * self.ramps[adapter_name].value

    def _spectrum(self, adapter_name: str) -> None:
        return None


class SymLoraLinear(SymmetricLinear):
    """d = Lambda: see SymmetricLinear. Trains `symlora_A` (r, n) and `symlora_lambda` (r,)."""

    A_name = "symlora_A"
    adapter_layer_names = ("symlora_A", "symlora_lambda")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.symlora_lambda = MasterParameters()

    def update_layer(self, adapter_name: str, config: SymLoraConfig) -> None:
        super().update_layer(adapter_name, config)
        A = self.symlora_A[adapter_name]
        self.symlora_lambda[adapter_name] = nn.Parameter(torch.zeros(config.r, dtype=A.dtype, device=A.device))

    def _d(self, adapter_name: str, device: torch.device) -> Tensor:
        return self.symlora_lambda(adapter_name)

    def _scale(self, adapter_name: str, weight_one: bool = False) -> float:
        return self.alpha[adapter_name] / self.r[adapter_name] if weight_one else self.scaling[adapter_name]

    def _spectrum(self, adapter_name: str) -> Tensor:
        return self.symlora_lambda[adapter_name]
