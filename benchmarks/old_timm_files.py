"""What `old_timm.py` runs with an earlier timm on its path: it makes networks and saves them.

    python benchmarks/old_timm_files.py FOLDER NAME [NAME ...]

For each architecture that the release has: NAME.pth as people save it, NAME.logits with an image and its logits.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

CLASSES = 5
COMPUTED = ("mask", "relative_coords_table")  # by the network, not trained


def randomise(state: Mapping[str, Tensor]) -> None:
    """Weights that follow from their names and shapes alone, at which every layer counts."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in sorted(state.items()):
        if not tensor.is_floating_point() or name.endswith(COMPUTED):
            continue
        scale = name.endswith("running_var") or (tensor.ndim < 2 and not name.endswith(("bias", "running_mean")))
        if scale:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim < 2:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 - 0.2)
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)


def image(size) -> Tensor:
    """A seeded image [1, *size]."""
    return torch.rand(1, *size, generator=torch.Generator().manual_seed(1))


def provide_inplace_abn() -> None:
    """TResNet needs inplace_abn up to timm 0.6, which no longer installs: this is its forward pass on a CPU.

    Source: inplace_abn_cpu.cpp of release 1.1.0.
    """

    def forward(x, weight, bias, mean, var, training, momentum, eps, activation, slope):
        y = torch.nn.functional.batch_norm(x, mean, var, weight.abs() + eps, bias, training, momentum, eps)
        return torch.nn.functional.leaky_relu(y, slope) if activation == "leaky_relu" else y

    module = types.ModuleType("inplace_abn")
    module.inplace_abn = module.inplace_abn_sync = forward
    sys.modules["inplace_abn"] = sys.modules["inplace_abn.functions"] = module


@torch.no_grad()
def logits(net: torch.nn.Module, x: Tensor) -> Tensor:
    """In float64, where a difference is no rounding; in float32 for networks that mix the two."""
    torch.set_default_dtype(torch.float64)
    try:
        return net.double()(x.double())
    except RuntimeError:
        torch.set_default_dtype(torch.float32)
        return net.float()(x)
    finally:
        torch.set_default_dtype(torch.float32)


def main(folder: str, *names: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    provide_inplace_abn()
    import timm

    for name in filter(timm.is_model, names):
        net = timm.create_model(name, num_classes=CLASSES).eval()
        with torch.no_grad():
            randomise(net.state_dict())
        x = image(net.default_cfg["input_size"])
        content = {"arch": name, "state_dict": net.state_dict(), "class_names": list("abcde")}
        torch.save(content, f"{folder}/{name}.pth")
        torch.save({"x": x, "y": logits(net, x)}, f"{folder}/{name}.logits")


if __name__ == "__main__":
    main(*sys.argv[1:])
