"""Differences between the branches of a guided call, used again at the calls that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Shares:
    """What text and contour added at a guided call, in place of the branches of later calls.

    The CFG cache of FasterCache (arXiv 2410.19355), for three branches: late in sampling the differences between the
    branches change slowly, the estimates themselves do not.

    Args:
        interval: guided calls between two at which every branch runs.
        calls: guided calls so far.
        text: D_cond - D_uncond of the latest call that ran both, before patches, [B, C, H, W].
        contour: D_tc - D_t, right for `images` (None: all).
    """

    interval: int
    calls: int = 0
    text: Tensor | None = None
    contour: Tensor | None = None
    images: list[int] | None = None

    def pair(self, pair: list, run: Callable[[list], list[Tensor]]) -> list[Tensor]:
        """Begins a guided call: the estimates of [cond, uncond], the second one from `text` where that is kept."""
        if self.calls % self.interval == 0:
            self.text = self.contour = None
        self.calls += 1
        cond, uncond = pair
        if uncond is None or self.text is None:
            out = run(pair)
            self.text = None if uncond is None else out[0] - out[1]
            return out
        positive = run([cond, None])[0]
        return [positive, positive - self.text]

    def of_contour(self, images: list[int] | None, run: Callable[[], Tensor]) -> Tensor:
        """`contour`, made by `run` where it is not kept for all those images."""
        known = self.images is None or (images is not None and set(images) <= set(self.images))
        if self.contour is None or not known:
            self.contour, self.images = run(), images
        return self.contour

    def to(self, device: torch.device | str) -> Shares:
        """A copy on that device."""
        text, contour = (None if share is None else share.to(device) for share in (self.text, self.contour))
        return replace(self, text=text, contour=contour)
