"""When two float results count as equal, on every processor.

Processors, numbers of threads and batch sizes sum in different orders, so no bound may be a number that happened to
fit one machine. There are three cases:

1. The same operations, in the same order, on the same shapes: equal to the last bit, `torch.equal`.
2. The same formula written differently, or the same image in another batch: the networks run in float64 (the fixture
   `exact`), where the order of a sum changes nothing that float32 shows. What remains is the rounding of ComfyUI's
   float32 arithmetic between the networks, and `same` bounds it by what one such rounding does to the same run.
3. A few elementwise operations on float32 numbers, or a short sum: the defaults of `torch.testing.assert_close`,
   which are a handful of roundings of the type.

A network that has to stay in float32 is compared within `same` too, with the noise that it shows on this machine when
it computes one thing in two orders.
"""

import torch

# A run rounds about a dozen times a step, each time by up to as much as `nudged` does. Independent errors add up as
# the root of their number: 32 is a thousand of them.
SLACK = 32


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """RMS of the difference, as a share of the RMS of `b`."""
    a, b = a.double(), b.double()
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


def nudged(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Each value rounded the other way: its next larger or next smaller float, drawn at random."""
    up = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.nextafter(x, torch.where(up, torch.inf, -torch.inf).to(x))


def with_rounding(run, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """run(x), and how far one rounding of `x` moves it, relative to it; never below one rounding of the result."""
    result = run(x)
    noise = max(relative(run(nudged(x)), result), torch.finfo(result.dtype).eps)
    assert SLACK * noise < 1e-3, f"{noise:.1e}: a run that blows rounding up so far cannot be compared with another"
    return result, noise


def in_float64(classifier):
    """The FineGrainedClassifier itself, now with a network in float64; what it is given is converted."""
    classifier.module.double().register_forward_pre_hook(lambda module, inputs: inputs[0].double())
    return classifier


def same(a: torch.Tensor, b: torch.Tensor, noise: float) -> bool:
    """Equal but for rounding, where one rounding moves the result by `noise`."""
    return relative(a, b) <= SLACK * noise
