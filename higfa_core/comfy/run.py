"""One guided sampling run: how it hooks into ComfyUI's samplers, and its state."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider
from torch import Tensor

from ..guidance.classifier_step import Correction
from ..guidance.schedule import Window, window_from_percent
from ..guidance.trace import Trace, TraceSlot, Watch, fingerprint
from .controls import KeptControls
from .corrector import Carried, Corrector
from .engine import Engine, GuidedCall, ModelCall, Plan
from .memory import guidance_memory, load_with_room
from .shares import Shares

log = logging.getLogger(__name__)

KEY = "higfa"
Kept = TypeVar("Kept", Shares, KeptControls)


def is_guided(model: ModelPatcher) -> bool:
    """Whether a classifier already guides this MODEL."""
    return bool(model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY))


def attach(engine: Engine, model: ModelPatcher, slot: TraceSlot, started: Callable[[Any, Run], None]) -> None:
    """Add to a MODEL (a clone) what checks the input, requests memory and gives each run its state.

    Args:
        slot: gets the trace of each run; a run that starts from the latents of one of them continues it.
        started: called with guider and run before the first model call of a run.
    """

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        plan = engine.plan(guider.model_patcher.get_model_object("latent_format"), noise.shape)
        size = guidance_memory(engine.classifier, plan.decoder, engine.settings, noise.shape)
        add_to_run(guider, WrappersMP.PREPARE_SAMPLING, partial(load_with_room, size))
        continued = _continued(slot, engine, plan, noise, latent_image, sigmas)
        add_to_run(guider, WrappersMP.SAMPLER_SAMPLE, sample(plan, continued))
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def sample(plan: Plan, continued: Trace | None) -> Callable:
        def wrapper(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args):
            run = Run(engine, plan, guider, sigmas, noise.device, latent_image, denoise_mask, continued)
            run.watch = slot.watch
            run.trace.seed = extra_args.get("seed") if torch.count_nonzero(noise) else continued and continued.seed
            slot.trace = run.trace
            started(guider, run)
            try:
                samples = executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args)
            finally:
                run.finish()
            run.trace.result = fingerprint(guider.inner_model.process_latent_out(samples.to(torch.float32)))
            return samples

        return wrapper

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)


def _continued(
    slot: TraceSlot, engine: Engine, plan: Plan, noise: Tensor, latent_image: Tensor, sigmas: Tensor
) -> Trace | None:
    """The run that produced these latents, if it is continued without new noise at the level where it ended."""
    trace = None if torch.count_nonzero(noise) else slot.find(latent_image)
    if trace is None or not 0 < trace.sigmas[-1] == float(sigmas[0]):
        return None
    given = trace.targets, trace.settings, trace.classifier
    return trace if given == (plan.names, asdict(engine.settings), engine.classifier.source) else None


def add_to_run(guider: CFGGuider, kind: str, wrapper: Callable) -> None:
    """Wrap for the current run only: ComfyUI clones the options for each run and drops them at its end."""
    add_wrapper_with_key(kind, KEY, wrapper, guider.model_options, is_model_options=True)


class Run:
    """State of one sampling run; `trace` describes it afterwards."""

    watch: Watch | None = None  # of the `TraceSlot`

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        guider: CFGGuider,
        sigmas: Tensor,
        device: torch.device,
        latent_image: Tensor,
        denoise_mask: Tensor | None,
        continued: Trace | None = None,
    ):
        self.started = time.perf_counter()
        self.engine, self.plan, self.guider, self.sigmas = engine, plan, guider, sigmas
        self.device, self.denoise_mask = device, denoise_mask
        self.known = latent_image if denoise_mask is not None else None
        self.window = _window(engine, guider)
        self.trace = self._trace(self.window.guided_steps(sigmas))
        if not self.trace.guided_steps:
            self.warn(
                f"no step starts between sigma {self.window.sigma_on:.3f} and {self.window.sigma_off:.3f}: "
                "lower start_percent, lower end_sigma or use more steps"
            )
        if engine.settings.eta == 0:
            self.trace.note("eta is 0: the classifier gives no step")
        self.corrector: Corrector | None = None
        self.carried: Carried | None = continued.carried if continued else None
        # None where each guided call runs every branch, and its ControlNets.
        self.shares = self._resumed(Shares, engine.settings.branch_interval, self.carried and self.carried.shares)
        self.controls = self._resumed(
            KeptControls, engine.settings.control_interval, self.carried and self.carried.controls
        )
        if continued:
            self.trace.given_up = list(continued.given_up)
            self.trace.note(f"continues the run that ended at sigma {continued.sigmas[-1]:.3f}")

    def _resumed(self, kind: Callable[[int], Kept], interval: int, carried: Kept | None) -> Kept | None:
        if interval == 1:
            return None
        return carried.to(self.device) if carried else kind(interval)

    def _trace(self, steps: list[int]) -> Trace:
        settings, classifier = self.engine.settings, self.engine.classifier
        on, off = self.window.sigma_on, self.window.sigma_off
        trace = Trace(self.sigmas.tolist(), steps, self.plan.names, (on, off), settings.interval, asdict(settings))
        trace.classifier, trace.class_names = classifier.source, list(classifier.class_names)
        images = self.engine.images
        trace.together = len(self.plan.names)
        trace.images = list(range(trace.together) if images is None else images)
        return trace

    def warn(self, text: str) -> None:
        """Tell the user, in the log and in the summary."""
        self.trace.note(text)
        log.warning("HiGFA: %s", text)

    def call(self, x: Tensor, timestep: Tensor, options: dict) -> ModelCall:
        """A model call of this run, counted.

        The noise level is the only value per call that is read from the device: the host decides whether to decode.
        ComfyUI's ControlNets and most of its samplers read the same value at every step.
        """
        self.trace.model_calls += 1
        sigma = float(timestep.flatten()[0])
        if self.watch:
            self.watch(self.trace, sigma)
        active = self.window.active(sigma)
        return GuidedCall(x, timestep, options, sigma) if active else ModelCall(x, timestep, options)

    def correct(self, call: GuidedCall, estimates: Tensor) -> Correction | None:
        """The classifier's correction of a guided call; None without memory for the classifier."""
        if self.corrector is None:
            self.trace.decoder = self.plan.decoder.name
            self.corrector = Corrector(
                self.engine, self.plan, self.window, self.trace, self.device, self.known, self.carried
            )
        return self.corrector(estimates, call.sigma, self._mask(call))

    def predict(self, call: ModelCall, make: Callable[[], Tensor]) -> Tensor:
        """The prediction that `make` makes, plain for images that were given up; without it once all of them were."""
        if self.trace.given_up and None not in self.trace.given_up:
            self.trace.skipped += 1
            return torch.zeros_like(call.x)
        denoised = make()
        if gone := [row for row, p in enumerate(self.trace.given_up) if p is not None]:
            denoised = denoised.clone()  # a patch may keep its own
            denoised[gone] = 0
        return denoised

    @property
    def moved(self) -> list[int]:
        """The images whose weights of text or contour are not the fixed ones."""
        return self.corrector.moved if self.corrector else []

    def record(self, w_text: float | Tensor, w_contour: float | Tensor) -> None:
        """Add the current weights, single numbers or one per image, to the trace of this call."""
        call, batch = self.trace.calls[-1], len(self.plan.targets)
        call.w_text, call.w_contour = (
            w.flatten() if isinstance(w, Tensor) else torch.full([batch], w, device=self.device)
            for w in (w_text, w_contour)
        )

    def _mask(self, call: ModelCall) -> Tensor | None:
        """The denoise mask of this call, as comfy.samplers.KSamplerX0Inpaint sees it."""
        mask = self.denoise_mask
        if mask is not None and "denoise_mask_function" in call.options:
            options = {"model": self.guider, "sigmas": self.sigmas}
            mask = call.options["denoise_mask_function"](call.timestep, mask, extra_options=options)
        return mask

    def _carried(self) -> Carried | None:
        if self.corrector is None:
            return self.carried
        kept = {"shares": self.shares, "controls": self.controls}
        return replace(self.corrector.carried(), **{name: value and value.to("cpu") for name, value in kept.items()})

    def finish(self) -> None:
        watched = self.corrector.watch.seconds() if self.corrector else 0.0
        self.trace.finish(time.perf_counter() - self.started, watched)
        if self.trace.sigmas[-1] > self.window.sigma_off:
            self.trace.carried = self._carried()
        self.corrector = None
        log.info("HiGFA: %s", self.trace.summary())
        if self.watch:
            self.watch(self.trace, None)


def _window(engine: Engine, guider: CFGGuider) -> Window:
    settings, sampling = engine.settings, guider.inner_model.model_sampling
    flow = isinstance(sampling, comfy.model_sampling.CONST)
    return window_from_percent(sampling.percent_to_sigma, settings.start_percent, settings.end_sigma, flow)
