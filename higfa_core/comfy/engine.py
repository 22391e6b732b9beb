"""What the guider and the MODEL patch share: checks, memory, and the state of one run."""

import logging
import time
from dataclasses import asdict, dataclass

import comfy.model_sampling
import torch
from comfy.patcher_extension import WrappersMP

from ..guidance.schedule import window_from_percent
from ..guidance.settings import Guidance
from ..guidance.targets import Targets
from ..guidance.trace import Trace, fingerprint
from .corrector import Corrector
from .decoder import choose_decoder, image_size
from .memory import guidance_memory, load_with_room

log = logging.getLogger(__name__)

KEY = "higfa"


@dataclass(frozen=True)
class Engine:
    """A classifier, its targets, what decodes for it, and the settings. Holds no state of a run.

    Args:
        classifier: FineGrainedClassifier.
        targets: from `read_targets`.
        vae: VAE, or None when a tiny decoder is there.
        settings: `Guidance`.
    """

    classifier: object
    targets: Targets
    vae: object
    settings: Guidance

    def attach(self, model, started):
        """Add to a MODEL (a clone) what checks the input, asks for memory and gives each run its state.

        `started(guider, run)` is called before the first model call of a run.
        """

        def prepare(executor, patcher, noise_shape, conds, *args, **kwargs):
            decoder = self.check(patcher.get_model_object("latent_format"), noise_shape)
            size = guidance_memory(self.classifier, decoder, self.settings, noise_shape)
            return load_with_room(executor, size, patcher, noise_shape, conds, *args, **kwargs)

        def sample(executor, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs):
            run = Run(self, guider, sigmas, noise, latent_image, denoise_mask)
            started(guider, run)
            try:
                samples = executor(
                    guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *args, **kwargs
                )
            finally:
                run.finish()
            run.trace.result = fingerprint(guider.inner_model.process_latent_out(samples.to(torch.float32)))
            return samples

        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, prepare)
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, sample)

    def check(self, latent_format, shape):
        """The decoder for latents of that shape; ValueError before any work when the run cannot be guided."""
        frames = shape[2] if len(shape) == 5 else 1
        if len(shape) not in (4, 5) or frames != 1:
            raise ValueError(
                f"HiGFA guides single images; this latent has shape {tuple(shape)} (video, audio or nested)."
            )
        self.targets.for_batch(shape[0])
        return choose_decoder(self.settings.decoder, self.vae, latent_format, max(image_size(latent_format, shape)))


class Run:
    """State of one sampling run; `trace` tells it afterwards."""

    def __init__(self, engine, guider, sigmas, noise, latent_image, denoise_mask):
        model, settings = guider.inner_model, engine.settings
        self.started = time.perf_counter()
        self.engine, self.guider, self.sigmas = engine, guider, sigmas
        self.device, self.denoise_mask = noise.device, denoise_mask
        self.known = latent_image if denoise_mask is not None else None
        self.choice = engine.check(model.latent_format, noise.shape)
        names, self.targets = engine.targets.for_batch(len(noise))
        sampling = model.model_sampling
        flow = isinstance(sampling, comfy.model_sampling.CONST)
        self.window = window_from_percent(sampling.percent_to_sigma, settings.start_percent, settings.end_sigma, flow)
        steps = self.window.guided_steps(sigmas)
        # Evenly spread where each step is one call; for heun-like samplers Corrector keeps to max_evals besides.
        self.interval = max(settings.interval, -(-len(steps) // settings.max_evals))
        self.trace = Trace(
            sigmas.tolist(), steps, names, (self.window.sigma_on, self.window.sigma_off), self.interval,
            asdict(settings), engine.classifier.source, list(engine.classifier.class_names),
        )  # fmt: skip
        if not steps:
            self._warn_empty()
        self.corrector = None

    def _warn_empty(self):
        self.trace.note(
            f"no step starts between sigma {self.window.sigma_on:.3f} and {self.window.sigma_off:.3f}: "
            "lower start_percent, lower end_sigma or use more steps"
        )
        log.warning("HiGFA: %s", self.trace.notes[-1])

    def sigma(self, timestep: torch.Tensor) -> float | None:
        """The noise level of a guided call, None outside of the window.

        The one value a call that is read from the device: whether to decode is the host's decision. ComfyUI's
        ControlNets and most of its samplers read the same value at every step.
        """
        self.trace.model_calls += 1
        sigma = float(timestep.flatten()[0])
        return sigma if self.window.active(sigma) else None

    def correct(self, denoised, timestep, sigma, model_options):
        """Estimate -> (m_text, m_contour, delta), see `Corrector`, which is made at the first guided call."""
        if self.corrector is None:
            self.trace.decoder = self.choice.name
            self.corrector = Corrector(
                self.engine.classifier, self.targets, self.engine.settings, self.choice, self.window, self.interval,
                self.trace, self.device, self.known,
            )  # fmt: skip
        return self.corrector(denoised, sigma, self._mask(timestep, model_options))

    def record(self, w_text, w_contour):
        """Adds the weights in force, numbers or one a sample, to the trace of this call."""
        if self.corrector.signal is None:
            return
        call = self.trace.calls[-1]
        call.w_text, call.w_contour = (
            w.flatten() if torch.is_tensor(w) else torch.full_like(call.probability, w) for w in (w_text, w_contour)
        )

    def _mask(self, timestep, model_options):
        """The denoise mask of this call, as comfy.samplers.KSamplerX0Inpaint sees it."""
        mask = self.denoise_mask
        if mask is not None and "denoise_mask_function" in model_options:
            options = {"model": self.guider, "sigmas": self.sigmas}
            mask = model_options["denoise_mask_function"](timestep, mask, extra_options=options)
        return mask

    def finish(self):
        watched = self.corrector.watch.seconds() if self.corrector else 0.0
        self.trace.finish(time.perf_counter() - self.started, watched)
        self.corrector = None
        log.info("HiGFA: %s", self.trace.summary())
