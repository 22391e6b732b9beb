"""What a guided call gives up when memory runs out: images at once, then the full decoder, then the classifier."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import comfy.model_management
import torch

from .decoder import Decoder, DecoderChoice, TinyChoice, tiny_decoder_path

log = logging.getLogger(__name__)

T = TypeVar("T")


class MemoryLadder:
    """Holds a run's decoder and how many images it takes at once; a run is never lost.

    `choice` is the decoder to start with, built when it is first needed; None once there is no memory for any.
    `at_once` is how many images are decoded together; 0 until the first decoding. `note` receives what was given up.
    """

    def __init__(self, choice: DecoderChoice, device: torch.device, note: Callable[[str], None]):
        self.choice: DecoderChoice | None = choice
        self.decoder: Decoder | None = None
        self.at_once = 0
        self.latent_format, self.device, self.note = choice.latent_format, device, note

    def run(self, work: Callable[[Decoder], T]) -> T | None:
        """work(decoder) on the first rung that has memory for it; None if none has."""
        while self.choice is not None:
            try:
                self.decoder = self.decoder or self.choice.build(self.device)
                return work(self.decoder)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
            # Outside the handler: the exception keeps the memory that is to be freed alive.
            self._step_down()
        return None

    def run_in_parts(self, count: int, at_once: int, work: Callable[[Decoder, slice], T]) -> list[T] | None:
        """work(decoder, rows) over `count` images, `at_once` or fewer together; None if no rung has memory for one."""
        self.at_once = self.at_once or min(count, at_once)
        parts: list[T] = []
        start = 0
        while start < count:
            part = self.run(lambda decoder: work(decoder, slice(start, start + self.at_once)))  # noqa: B023
            if part is None:
                return None
            parts.append(part)
            start += self.at_once
        return parts

    def _step_down(self) -> None:
        comfy.model_management.soft_empty_cache()
        if self.at_once > 1:
            self.at_once //= 2
            return
        path = None if isinstance(self.choice, TinyChoice) else tiny_decoder_path(self.latent_format)
        self.choice, self.decoder = TinyChoice(path, self.latent_format) if path else None, None
        message = "out of memory: " + (
            "continued with the tiny decoder"
            if path
            else "continued without the classifier; use decoder 'tiny' or a smaller image"
        )
        log.warning("HiGFA: %s", message)
        self.note(message)


def _out_of_memory(error: RuntimeError) -> bool:
    """As ComfyUI decides it; Apple's backend raises a plain RuntimeError."""
    return comfy.model_management.is_oom(error) or "backend out of memory" in str(error)
