"""The same outputs and gradients as without it, to float64 precision, and less kept for backward."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from higfa_core.guidance.lean_backward import LeanBackward


class Block(nn.Module):
    """What the decoders of VAEs are made of."""

    def __init__(self, inplace=True):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 4), nn.Conv2d(4, 6, 3, 1, 1)
        self.norm2, self.conv2, self.act = nn.GroupNorm(3, 6), nn.Conv2d(6, 4, 3, padding=1), nn.SiLU(inplace)

    def forward(self, x):
        return x + self.conv2(self.act(self.norm2(self.conv(self.act(self.norm(x))))))


class ChangedBetween(nn.Module):
    """The norm's output is written to before the activation: it must not be norm(x) again on the way back."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        return F.silu(self.norm(x).add_(1))


class ReliesOnInplace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        return self.conv(F.relu(y, inplace=True)) + y


class ByKeyword(nn.Module):
    def forward(self, x):
        return F.conv2d(input=x, weight=torch.linspace(-1, 1, 8, dtype=x.dtype).view(2, 4, 1, 1))


class ScaleOnly(nn.Module):
    def forward(self, x):
        scale = torch.linspace(0.5, 2, 4, dtype=x.dtype)
        return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, bias=None)


NETS = {
    "block": Block,
    "block, not in place": lambda: Block(inplace=False),
    "strides and groups": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(True), nn.Conv2d(8, 8, 3, 2, 0, groups=4), nn.BatchNorm2d(8), nn.ReLU()
    ),
    "dilation": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "padding in words": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "silu twice": lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.SiLU()),
    "changed between": ChangedBetween,
    "relies on in-place": ReliesOnInplace,
    "by keyword": ByKeyword,
    "batch norm without bias": ScaleOnly,
    "batch norm without weights": lambda: nn.BatchNorm2d(4, affine=False),
}
ARCHS = ("resnet10t", "convnext_atto", "efficientnet_b0", "regnety_002", "mobilenetv3_small_050", "test_vit")


def frozen(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return net.double().eval().requires_grad_(False)


def gradient(net, x, lean):
    x = x.clone().requires_grad_(True)
    if not lean:
        out = net(x)
        return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]
    with LeanBackward():
        out = net(x)
        return out.detach(), torch.autograd.grad(out.square().sum(), x)[0]


def assert_same(net, x):
    for mine, theirs in zip(gradient(net, x, True), gradient(net, x, False)):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", NETS)
def test_same_as_without(name):
    torch.manual_seed(0)
    assert_same(frozen(NETS[name]()), torch.randn(2, 4, 9, 11, dtype=torch.float64))


@pytest.mark.parametrize("arch", ARCHS)
def test_same_in_classifiers_of_timm(arch):
    torch.manual_seed(0)
    side = 160 if arch == "test_vit" else 64
    assert_same(frozen(timm.create_model(arch, num_classes=5)), torch.randn(1, 3, side, side, dtype=torch.float64))


def test_same_in_half_precision_and_channels_last():
    torch.manual_seed(0)
    net = Block().eval().requires_grad_(False).bfloat16().to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 16, 16).bfloat16().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gradient(net, x, True)[1], gradient(net, x, False)[1])


def test_weights_that_train_get_their_gradient():
    torch.manual_seed(0)
    net, x = Block().double(), torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    with LeanBackward():
        found = torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()])
    for mine, theirs in zip(found, expected):
        torch.testing.assert_close(mine, theirs)


def test_backward_outside_of_the_block():
    net = frozen(nn.Conv2d(4, 4, 3))
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    with LeanBackward():
        out = net(x).sum()
    (found,) = torch.autograd.grad(out, x)
    torch.testing.assert_close(found, torch.autograd.grad(net(x).sum(), x)[0])


def test_weights_of_inference_mode_cloned():
    """As the guidance uses it: a module built in inference mode, called with clones."""
    with torch.inference_mode():
        net, x = frozen(Block()), torch.randn(1, 4, 8, 8, dtype=torch.float64)
        with torch.inference_mode(False), torch.enable_grad(), LeanBackward():
            params = {name: weight.clone() for name, weight in net.state_dict().items()}
            z = x.clone().requires_grad_(True)
            out = torch.func.functional_call(net, params, (z,))
            found = torch.autograd.grad(out.square().sum(), z)[0]
    outside = frozen(Block())
    outside.load_state_dict({name: weight.clone() for name, weight in params.items()})
    torch.testing.assert_close(found, gradient(outside, z.detach(), False)[1])


def kept(net, x, lean):
    """Bytes that autograd keeps for backward, weights left out, each storage once."""
    weights = {p.untyped_storage().data_ptr() for p in [*net.parameters(), *net.buffers()]}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if lean:
            with LeanBackward():
                net(x.clone().requires_grad_(True))
        else:
            net(x.clone().requires_grad_(True))
    return sum(storages.values())


def test_keeps_less_than_half():
    net = frozen(nn.Sequential(*(Block() for _ in range(4))))
    x = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    assert kept(net, x, True) < 0.5 * kept(net, x, False)
