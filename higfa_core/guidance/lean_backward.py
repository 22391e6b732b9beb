"""Gradients through frozen networks that keep a third of what PyTorch keeps for backward, with the same result.

PyTorch keeps the input of every convolution (pytorch/pytorch#133566; memsave_torch, arXiv 2404.12406), of every batch
norm in eval mode and of every SiLU. With frozen weights only the gradient of the input is needed, which requires none
of them. GroupNorm + SiLU keeps the norm's input only and recomputes the norm in backward.
"""

import torch
from torch.nn import functional as F
from torch.nn import grad as nn_grad
from torch.overrides import TorchFunctionMode


class LeanBackward(TorchFunctionMode):
    """Within this block conv2d, relu, group_norm + silu and batch_norm with frozen weights keep less for backward.

    Any other function runs unchanged, as do these where a weight requires a gradient. Backward may run outside.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return RULES.get(func, _as_it_is)(func, *args, **(kwargs or {}))


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, *geometry):
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry = x.shape, geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return nn_grad.conv2d_input(ctx.shape, weight, grad, *ctx.geometry), *(None,) * (2 + len(ctx.geometry))


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, inplace):
        ctx.save_for_backward(x > 0)  # one byte per value instead of four
        if inplace:
            ctx.mark_dirty(x)
        return F.relu(x, inplace)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


class _SiluOfNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, normed, inplace, x, *norm):
        ctx.save_for_backward(x)  # which the norm keeps as well
        ctx.norm = norm
        if inplace:
            ctx.mark_dirty(normed)
        return F.silu(normed, inplace)

    @staticmethod
    def backward(ctx, grad):
        normed = F.group_norm(ctx.saved_tensors[0], *ctx.norm)
        return torch.ops.aten.silu_backward(grad, normed), *(None,) * (2 + len(ctx.norm))


def _as_it_is(func, *args, **kwargs):
    return func(*args, **kwargs)


def _conv(func, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    # Named as in PyTorch: conv2d passes keywords on as given, the other functions do not.
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if trained or not input.requires_grad or input.ndim != 4 or isinstance(padding, str):
        return func(input, weight, bias, stride, padding, dilation, groups)
    return _Conv.apply(input, weight, bias, stride, padding, dilation, groups)


def _relu(func, x, inplace=False):
    return _Relu.apply(x, inplace) if x.requires_grad else func(x, inplace)


def _batch_norm(func, x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if training or weight is None or bias is None or weight.requires_grad:
        return func(x, mean, var, weight, bias, training, momentum, eps)
    scale = weight * torch.rsqrt(var + eps)
    column = (-1, *(1,) * (x.ndim - 2))
    return x * scale.view(column) + (bias - mean * scale).view(column)


def _group_norm(func, x, groups, weight=None, bias=None, eps=1e-5):
    out = func(x, groups, weight, bias, eps)
    if x.requires_grad:
        out.normed_from = out._version, (x, groups, weight, bias, eps)
    return out


def _silu(func, x, inplace=False):
    version, norm = getattr(x, "normed_from", (None, ()))
    unchanged = version is not None and x._version == version
    return _SiluOfNorm.apply(x, inplace, *norm) if unchanged else func(x, inplace)


RULES = {F.conv2d: _conv, F.relu: _relu, F.batch_norm: _batch_norm, F.group_norm: _group_norm, F.silu: _silu}
