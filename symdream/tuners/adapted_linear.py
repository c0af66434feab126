"""A linear layer and its symmetric update as one differentiable function.

    y = W0 x + b + s A_out diag(d) A_in^T x

PyTorch's own chain gives the same numbers up to rounding. Written as one function, the update is added into the base's
output and the gradient into the base's, in place: three passes over a layer's activations and three launches fewer
(docs/speed.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad


class AdaptedLinear(torch.autograd.Function):
    """`apply(x, weight, bias, A, d, s)`; gradients for x, A and d, where they are asked for, and gradients of those.

    Shapes: x (..., in); weight (out, in) and bias (out,) or None, frozen; A (r, n), n = max(in, out), of any precision;
    d () or (r,); s a number -> y (..., out) in x's dtype, which is weight's.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, d: Tensor, s: float) -> Tensor:
        out_features, in_features = weight.shape
        rows, cast = x.reshape(-1, in_features), A.to(x.dtype)
        h = rows @ cast[:, :in_features].T
        hd = (h * d).to(x.dtype)
        y = F.linear(rows, weight, bias).addmm_(hd, cast[:, :out_features], alpha=s)
        ctx.save_for_backward(x, weight, A, cast, d, hd, h if ctx.needs_input_grad[4] else None)
        ctx.s = s
        # A view that a custom function returns may not be changed in place, as nn.ReLU(inplace=True) would.
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], out_features))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, master, A, d, hd, h = ctx.saved_tensors
        wants_x, _, _, wants_A, wants_d, _ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # create_graph: PyTorch knows the chain's second derivatives
            given = (x, None, None, master, d, None)
            wanted = [tensor for tensor, wants in zip(given, ctx.needs_input_grad, strict=True) if wants]
            found = iter(torch.autograd.grad(chain(x, weight, master, d, ctx.s), wanted, grad, create_graph=True))
            return tuple(next(found) if wants else None for wants in ctx.needs_input_grad)
        out_features, in_features = weight.shape
        rows = x.reshape(-1, in_features)
        grad = grad.reshape(-1, out_features)
        grad_hd = grad @ A[:, :out_features].T
        grad_h = (grad_hd * d).to(grad.dtype)
        grad_x = grad_A = grad_d = None
        if wants_x:
            grad_x = (grad @ weight).addmm_(grad_h, A[:, :in_features], alpha=ctx.s).view(x.shape)
        if wants_A:
            # Both products land in one matrix; the larger side fills it.
            if out_features >= in_features:
                grad_A = hd.T @ grad
                grad_A[:, :in_features].addmm_(grad_h.T, rows)
            else:
                grad_A = grad_h.T @ rows
                grad_A[:, :out_features].addmm_(hd.T, grad)
            grad_A = grad_A.to(master.dtype)
            if ctx.s != 1:
                grad_A = grad_A.mul_(ctx.s)
        if wants_d:
            products = grad_hd * h
            grad_d = ctx.s * (products.sum(0) if d.ndim else products.sum()).to(d.dtype)
        return grad_x, None, None, grad_A, grad_d, None


def chain(x: Tensor, weight: Tensor, A: Tensor, d: Tensor, s: float) -> Tensor:
    """The same y but for the bias, which no gradient depends on, in PyTorch's own operations."""
    out_features, in_features = weight.shape
    cast = A.to(x.dtype)
    hd = (F.linear(x, cast[:, :in_features]) * d).to(x.dtype)
    return F.linear(x, weight) + s * (hd @ cast[:, :out_features])


def can_be_one(base: nn.Module, x: Tensor) -> bool:
    """Whether `base(x)` is exactly W0 x + b with frozen W0 and b, in x's dtype, with nobody watching.

    Nor under torch.func's transforms (per-sample gradients, Jacobians), forward-mode differentiation and
    torch.jit.trace, which look into every operation.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0 or torch.jit.is_tracing():
        return False
    if type(base) is not nn.Linear or autocast_is_on(x.device.type) or x.dtype != base.weight.dtype:
        return False
    trained = base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)
    watched = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
    # Offloading and casting layer by layer put a forward of their own on the module itself.
    return not (trained or watched or "forward" in vars(base))


def autocast_is_on(device: str) -> bool:
    # PyTorch refuses the question for a device without autocast, such as meta.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
