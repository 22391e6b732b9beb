"""The classifier's part of a guided run: decode, classify, gradient, confidence. One object a run."""

import logging
import time

import comfy.model_management
import torch

from .. import guidance
from ..schedule import next_level
from ..trace import Call
from .decoder import TinyDecoder, tiny_decoder_path

log = logging.getLogger(__name__)


class Corrector:
    """Turns denoised estimates into weights and a step towards the target class.

    Args:
        classifier: a FineGrainedClassifier.
        targets: class index of each sample.
        settings: the run's Guidance.
        decoder: from `build_decoder`.
        window: the final stage.
        interval: guided calls between two evaluations.
        trace: where each guided call is recorded.
    """

    def __init__(self, classifier, targets, settings, decoder, window, interval, trace, device):
        self.classifier, self.settings, self.decoder = classifier, settings, decoder
        self.window, self.interval, self.trace, self.device = window, interval, trace, device
        self.params = classifier.clone_params(device)
        with torch.inference_mode(False):
            self.targets = torch.tensor(targets, device=device)
        self.micro_batch = settings.micro_batch
        self.countdown = 0
        self.signal = None  # direction, probability, smoothed confidence, entropy of the last evaluation

    def __call__(self, denoised: torch.Tensor, sigma: float):
        """Estimate [B, C, H, W] -> (m_text, m_contour, delta): multipliers [B] and the step to add."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        evaluated = self.countdown == 0 or self.signal is None
        if evaluated:
            started = time.perf_counter()
            self._evaluate(denoised)
            self.trace.classifier_seconds += time.perf_counter() - started
            self.countdown = self.interval
        self.countdown -= 1
        return self._step(denoised, sigma, evaluated)

    def _step(self, denoised, sigma, evaluated):
        if self.signal is None:
            one = torch.ones(len(denoised), device=denoised.device)
            return one, one, torch.zeros_like(denoised)
        step, p, c, entropy = self.signal
        s, classes = self.settings, len(self.classifier.class_names)
        m_text, m_contour, w_cls = guidance.modulation(s.preset, c, entropy, classes)
        ramp = self.window.ramp(sigma, next_level(self.trace.sigmas, sigma))
        size = s.eta * ramp * self.window.posterior_scale(sigma)
        delta = guidance.displacement(step, size, w_cls, denoised)
        self.trace.calls.append(Call(sigma, evaluated, p, c, m_text, m_contour, w_cls, guidance.rms(delta)[:, 0, 0, 0]))
        return m_text, m_contour, delta

    def _evaluate(self, denoised):
        parts, start = [], 0
        while start < len(denoised) and self.decoder is not None:
            rows, full = slice(start, start + self.micro_batch), False
            try:
                parts.append(self._evaluate_rows(denoised[rows], self.targets[rows]))
                start += self.micro_batch
            except comfy.model_management.OOM_EXCEPTION:
                full = True
            # Outside of the handler: the exception holds on to the memory that is to be freed.
            if full:
                self._step_down()
        if self.decoder is None:
            self.signal = None
            return
        gradient, p, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        step, finite = guidance.direction(gradient, denoised.float(), self.settings.parallel)
        finite = finite & torch.isfinite(p)
        # A sample without a usable gradient counts as satisfied: its text and contour stay as they were.
        p, entropy = torch.where(finite, p, 1.0), torch.where(finite, entropy, 0.0)
        step = torch.where(finite[:, None, None, None], step, 0)
        self.trace.non_finite = self.trace.non_finite + (~finite).sum()
        c = guidance.confidence(p, len(self.classifier.class_names), self.settings.p_stop)
        if self.signal is not None:
            c = self.settings.smoothing * self.signal[2] + (1 - self.settings.smoothing) * c
        self.signal = step, p, c, entropy

    def _evaluate_rows(self, denoised, targets):
        """Gradient of the class score at `denoised`, probability and entropy; never through the diffusion model."""
        with torch.inference_mode(False), torch.enable_grad():
            z = denoised.detach().clone().float().requires_grad_(True)
            image = self.decoder(z)
            score, p, entropy = 0.0, 0.0, 0.0
            for view in (image, image.flip(-1))[: self.settings.views]:
                logits = self.classifier.logits(view, self.params)
                score = score + guidance.class_score(logits, targets, self.settings.label_sharpness)
                with torch.no_grad():
                    log_p = (logits / self.classifier.temperature).log_softmax(1)
                    p = p + log_p.exp().gather(1, targets[:, None])[:, 0] / self.settings.views
                    entropy = entropy - (log_p.exp() * log_p).sum(1) / self.settings.views
            # A sum, not a mean: the gradient of one sample must not depend on how many are beside it.
            (gradient,) = torch.autograd.grad(score.sum() / self.settings.views, z)
        return gradient, p.detach(), entropy.detach()

    def _step_down(self):
        """Out of memory: half the micro-batch, then the tiny decoder, then no classifier. A run is never lost."""
        comfy.model_management.soft_empty_cache()
        if self.micro_batch > 1:
            self.micro_batch = max(1, self.micro_batch // 2)
            return
        latent_format = getattr(self.decoder, "latent_format", None)
        path = tiny_decoder_path(latent_format) if latent_format is not None else None
        self.decoder = TinyDecoder(path, latent_format, self.device) if path else None
        note = "out of memory: went on with the tiny decoder" if path else (
            "out of memory: went on without the classifier; use decoder 'tiny' or a smaller image")  # fmt: skip
        log.warning("HiGFA: %s", note)
        self.trace.note(note)
