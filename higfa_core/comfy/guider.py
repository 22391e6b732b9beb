"""The guider that switches regimes inside the sampler: fixed text + contour, then all three signals."""

import logging
import time

import comfy.model_sampling
import comfy.samplers
import torch

from .. import guidance
from ..schedule import window_from_percent
from ..trace import Trace
from .corrector import Corrector
from .decoder import build_decoder

log = logging.getLogger(__name__)


def without_control(conditioning):
    """Conditioning with every ControlNet taken off, entries copied.

    The flag of the legacy Apply ControlNet must go too: with it ComfyUI copies the positive's control into every
    other branch (comfy.samplers.process_conds).
    """
    drop = ("control", "control_apply_to_uncond")
    return [[tensor, {k: v for k, v in options.items() if k not in drop}] for tensor, options in conditioning]


def _own_control(conditioning):
    return [[t, {**o, "control_apply_to_uncond": False} if "control" in o else o] for t, o in conditioning]


def has_control(conditioning) -> bool:
    return any("control" in options for _, options in conditioning)


class HiGFAGuider(comfy.samplers.CFGGuider):
    """Hierarchical guidance as a ComfyUI GUIDER.

    Outside the final stage this is CFG with the contour on the positive branch, at fixed strengths; neither the
    decoder nor the classifier is called. Inside it the classifier's confidence sets all three strengths. Takes the
    positive and negative that Apply ControlNet gives. State lives in `self.run`, made at each `sample`.

    Args:
        model: MODEL patcher; cloned, never changed.
        classifier: FineGrainedClassifier, or None for text and contour alone.
        class_names: target of each sample; one name serves the whole batch.
        vae: VAE for the pixels the classifier reads; may be None when a tiny decoder is there.
        settings: `guidance.Guidance`.

    Raises:
        ValueError: unknown class, nothing to decode with, video or nested latents.
    """

    def __init__(self, model, classifier, class_names, vae, settings):
        model = model.clone()
        self.targets = [classifier.index(name) for name in class_names] if classifier else []
        patchers = [p for p in (getattr(classifier, "patcher", None), getattr(vae, "patcher", None)) if p is not None]
        if classifier:
            model.set_additional_models("higfa", patchers)
        super().__init__(model)
        self.classifier, self.class_names, self.vae, self.settings = classifier, list(class_names), vae, settings
        self.run = self.trace = None

    def set_conds(self, positive, negative):
        if self.settings.contour_scale == 0:
            self.inner_set_conds({"positive": without_control(positive), "negative": without_control(negative)})
        elif has_control(positive) and self.settings.composition == "nested":
            branches = {"positive": _own_control(positive), "text": without_control(positive)}
            self.inner_set_conds({**branches, "negative": without_control(negative)})
        else:
            self.inner_set_conds({"positive": positive, "negative": negative})

    def inner_sample(self, noise, latent_image, device, sampler, sigmas, *args, **kwargs):
        # The order of the first five is the same in 0.18.0 and 0.30.0; the rest grows and is passed on as it comes.
        started = time.perf_counter()
        self.run = self._prepare(noise, sigmas, device)
        try:
            return super().inner_sample(noise, latent_image, device, sampler, sigmas, *args, **kwargs)
        finally:
            self.run = None
            self.trace.finish(time.perf_counter() - started)

    def _prepare(self, noise, sigmas, device):
        if noise.ndim != 4 or getattr(noise, "is_nested", False):
            raise ValueError(
                f"HiGFA guides single images; this latent has shape {tuple(noise.shape)} (video, audio or nested)."
            )
        names = self._names_for(len(noise))
        sampling = self.inner_model.model_sampling
        flow = isinstance(sampling, comfy.model_sampling.CONST)
        window = window_from_percent(
            sampling.percent_to_sigma, self.settings.start_percent, self.settings.end_sigma, flow
        )
        steps = window.guided_steps(sigmas)
        self.trace = Trace([float(s) for s in sigmas], steps, names, decoder="none")
        if self.classifier is None:
            self.trace.note("no classifier connected")
            return None
        if not steps:
            self.trace.note(
                f"no step starts between sigma {window.sigma_on:.3f} and {window.sigma_off:.3f}: lower start_percent, "
                "lower end_sigma or use more steps"
            )
            log.warning("HiGFA: %s", self.trace.notes[-1])
        # Steps do not bound the calls of heun-like samplers, but they tell how thin to spread the evaluations.
        interval = max(self.settings.interval, -(-len(steps) // self.settings.max_evals))
        return _Run(self, window, interval, names, noise.shape, device)

    def _names_for(self, batch):
        if len(self.class_names) not in (1, batch) and self.classifier is not None:
            raise ValueError(
                f"{len(self.class_names)} class names for a batch of {batch}: give one name, or one for each image."
            )
        return self.class_names * batch if len(self.class_names) == 1 else list(self.class_names)

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 (ComfyUI's signature)
        sigma = float(timestep.max())
        self.trace.model_calls += 1
        if self.run is None or not self.run.window.active(sigma):
            return self._fixed(x, timestep, model_options)
        return self._guided(x, timestep, sigma, model_options)

    @property
    def _w_contour(self):
        return self.cfg * self.settings.contour_scale

    def _fixed(self, x, timestep, model_options):
        """Early and middle stage: strong, fixed text and contour; as many branches as stock CFG where that will do."""
        if "text" not in self.conds or self.settings.contour_scale == 1.0:
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, self.conds.get("negative"), self.conds["positive"], self.cfg,
                model_options=model_options,
            )  # fmt: skip
        branches = self._three_branches(x, timestep, model_options)
        return self._composed(branches, self.cfg, self._w_contour, x, timestep, model_options)

    def _guided(self, x, timestep, sigma, model_options):
        """Final stage: fixed weights -> estimate -> confidence -> weights -> recompose -> classifier step."""
        relax = self.settings.preset == "relax"
        if "text" in self.conds and (relax or self.settings.contour_scale != 1.0):
            branches, w_contour = self._three_branches(x, timestep, model_options), self._w_contour
        else:
            branches, w_contour = self._two_branches(x, timestep, model_options), 0.0
        estimate = guidance.compose(*branches, self.cfg, w_contour)
        m_text, m_contour, delta = self.run.corrector()(estimate, sigma)
        weights = self.cfg, w_contour
        if relax:
            column = (len(x), 1, 1, 1)
            weights = guidance.text_weight(self.cfg, m_text.view(column)), w_contour * m_contour.view(column)
        self.run.record(weights)
        return self._composed(branches, *weights, x, timestep, model_options) + delta

    def _uncond(self, model_options):
        """As stock does, the branch whose coefficient 1 - w_text is 0 is not run; ComfyUI then returns zeros for it."""
        skip = self.cfg == 1.0 and not model_options.get("disable_cfg1_optimization", False)
        return None if skip else self.conds.get("negative")

    def _two_branches(self, x, timestep, model_options):
        """(D_u, D, D), evaluated as comfy.samplers.sampling_function does, pre-CFG patches included."""
        conds = [self.conds["positive"], self._uncond(model_options)]
        out = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        for fn in model_options.get("sampler_pre_cfg_function", []):
            args = {"conds": conds, "conds_out": out, "cond_scale": self.cfg, "timestep": timestep, "input": x,
                    "sigma": timestep, "model": self.inner_model, "model_options": model_options}  # fmt: skip
            out = fn(args)
        return out[1], out[0], out[0]

    def _three_branches(self, x, timestep, model_options):
        """(D_u, D_t, D_tc), evaluated as ComfyUI's DualCFG guider does."""
        conds = [self._uncond(model_options), self.conds["text"], self.conds["positive"]]
        return comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)

    def _composed(self, branches, w_text, w_contour, x, timestep, model_options):
        """Equation (1) through ComfyUI's cfg_function, so that post-CFG patches and *_cfg_pp samplers keep working."""
        uncond, text, contour = branches
        out = comfy.samplers.cfg_function(
            self.inner_model, text, uncond, w_text, x, timestep, model_options=model_options,
            cond=self.conds.get("text", self.conds["positive"]), uncond=self.conds.get("negative"),
        )  # fmt: skip
        return out + (contour - text) * w_contour if contour is not text else out


class _Run:
    """State of one run. The corrector is made at the first guided call: an unguided run clones no weights."""

    def __init__(self, guider, window, interval, names, shape, device):
        self.guider, self.window, self.interval, self.device = guider, window, interval, device
        self.shape = shape
        self.targets = (guider.targets * len(names))[: len(names)]
        self._corrector = None

    def corrector(self):
        if self._corrector is None:
            g = self.guider
            latent_format = g.inner_model.latent_format
            side = max(self.shape[-2:]) * getattr(latent_format, "spacial_downscale_ratio", 8)
            decoder = build_decoder(g.settings.decoder, g.vae, latent_format, side, self.device)
            g.trace.decoder = decoder.name
            self._corrector = Corrector(
                g.classifier, self.targets, g.settings, decoder, self.window, self.interval, g.trace, self.device
            )
        return self._corrector

    def record(self, weights):
        """The trace shows the weights in force, not their multipliers."""
        if self._corrector.signal is None:
            return
        call = self.guider.trace.calls[-1]
        shape = call.probability.shape
        call.w_text, call.w_contour = (
            w.reshape(shape) if torch.is_tensor(w) else torch.full(shape, float(w), device=self.device) for w in weights
        )
