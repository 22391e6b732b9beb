"""The classifier's part of a guided run: decode, classify, gradient, confidence. One object a run.

Everything stays on the device: no value is read back before the run ends.
"""

import logging
import math

import comfy.model_management
import torch

from ..guidance import formulas as guidance
from ..guidance.lean_backward import LeanBackward
from ..guidance.schedule import next_level
from ..guidance.stopwatch import Stopwatch
from ..guidance.trace import Call
from .decoder import DecoderChoice, image_size, tiny_decoder_path

log = logging.getLogger(__name__)

FLOAT16_LOSS_SCALE = 1024.0  # pixel gradients of float16 decoders would underflow


class Corrector:
    """Turns denoised estimates into weights and a step towards the target classes.

    Args:
        classifier: a FineGrainedClassifier.
        targets: weights over the classes of each sample, [B, K].
        settings: the run's Guidance.
        decoder: a DecoderChoice, or one that is built.
        window: the final stage.
        interval: guided calls between two evaluations.
        trace: where each guided call is recorded.
        device: where the diffusion model runs.
        known: what a masked run keeps, in model space [B, C, H, W]; the classifier sees it around the new part.
    """

    def __init__(self, classifier, targets, settings, decoder, window, interval, trace, device, known=None):
        self.classifier, self.settings, self.decoder = classifier, settings, decoder
        self.window, self.interval, self.trace, self.device, self.known = window, interval, trace, device, known
        with torch.inference_mode(False):
            self.targets = targets.to(device, torch.float32, copy=True)
        self.chance = guidance.chance(self.targets)
        self.watch = Stopwatch(device)
        self.params = self.micro_batch = None
        self.countdown = 0
        self.signal = None  # direction, probability, smoothed confidence, entropy, top class of the last evaluation
        with self.watch.measure():
            self._with_room(self._build)

    def __call__(self, denoised: torch.Tensor, sigma: float, mask: torch.Tensor | None = None):
        """Estimate [B, C, H, W] -> (m_text, m_contour, delta): multipliers [B] and the step to add."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        evaluated = self._due(sigma)
        if evaluated:
            with self.watch.measure():
                self._evaluate(denoised, mask)
            self.countdown = self.interval
        self.countdown -= 1
        return self._step(denoised, sigma, mask, evaluated)

    def _due(self, sigma):
        """Every interval-th call; where a sampler makes several a step, no more than the steps' share of max_evals."""
        steps = self.trace.guided_steps
        begun = max(1, sum(self.trace.sigmas[i] >= sigma for i in steps))
        share = math.ceil(begun * self.settings.max_evals / max(1, len(steps)))
        return self.countdown <= 0 and self.trace.evaluations < share

    def _step(self, denoised, sigma, mask, evaluated):
        if self.signal is None:
            one = torch.ones(len(denoised), device=denoised.device)
            return one, one, torch.zeros_like(denoised)
        step, p, c, entropy, top = self.signal
        s, classes = self.settings, self.targets.shape[1]
        m_text, m_contour, w_cls = guidance.modulation(s.modulation, c, entropy, classes)
        ramp = self.window.ramp(sigma, next_level(self.trace.sigmas, sigma))
        size = s.eta * ramp * self.window.posterior_scale(sigma)
        delta = guidance.displacement(step, size, w_cls, denoised, s.rms_cap, mask)
        self.trace.calls.append(Call(sigma, evaluated, p, c, top, w_cls, guidance.rms(delta, mask).flatten()))
        return m_text, m_contour, delta

    def _evaluate(self, denoised, mask):
        shown = denoised if mask is None else denoised * mask + self.known * (1 - mask)
        parts = self._in_micro_batches(shown)
        if parts is None:
            self.signal = None
            return
        gradient, p, entropy, top = parts
        step, finite = guidance.direction(gradient, shown.float(), self.settings.parallel, mask)
        answered = torch.isfinite(p)
        self.trace.left_out("the estimate, or what the classifier said of it, was not finite", ~answered)
        self.trace.left_out(self._overflow, answered & ~finite)
        finite = finite & answered
        p, entropy = torch.where(answered, p, 0.0), torch.where(answered, entropy, 0.0)
        step = torch.where(finite.view(-1, *[1] * (step.ndim - 1)), step, 0)
        c = guidance.confidence(p, self.chance, self.settings.p_stop)
        # A sample without a usable gradient counts as satisfied: its text and contour stay as they were.
        c = torch.where(finite, c, 1.0)
        if self.signal is not None:
            c = self.settings.smoothing * self.signal[2] + (1 - self.settings.smoothing) * c
        self.signal = step, p, c, entropy, top

    def _in_micro_batches(self, shown):
        """`_evaluate_rows` over the batch; None when there is no memory even for one image."""
        if self.decoder is None:
            return None
        if self.micro_batch is None:
            height, width = image_size(self.decoder.latent_format, shown.shape)
            self.micro_batch = min(len(shown), self.settings.images_at_once(height * width))
        parts, start = [], 0

        def next_rows():
            self._build()
            rows = slice(start, start + self.micro_batch)
            return self._evaluate_rows(shown[rows], self.targets[rows])

        while start < len(shown):
            part = self._with_room(next_rows)
            if part is None:
                return None
            parts.append(part)
            start += len(part[0])
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _evaluate_rows(self, shown, targets):
        """Gradient of the class score at `shown`, agreement, entropy, top class; never through the diffusion model."""
        views = self.settings.views
        # With eta 0 the classifier only measures, at a third of the cost.
        with torch.inference_mode(False), torch.set_grad_enabled(self.settings.eta > 0), LeanBackward():
            z = shown.detach().clone().float().requires_grad_(self.settings.eta > 0)
            image = self.decoder(z)
            score, p = 0.0, 0.0
            for view in (image, image.flip(-1))[:views]:
                logits = self._logits(view)
                score = score + guidance.class_score(logits, targets, self.settings.label_sharpness).sum() / views
                p = p + (logits.detach() / self.classifier.temperature).softmax(1) / views
            # A sum, not a mean: the gradient of one sample must not depend on how many are beside it.
            gradient = self._gradient(score, z) if self.settings.eta > 0 else torch.zeros_like(z)
        entropy = -torch.special.xlogy(p, p).sum(1)
        log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
        return gradient, guidance.agreement(log_p, targets), entropy, p.argmax(1)

    def _logits(self, images):
        logits = self.classifier.logits(images, self.params)
        if logits.shape[1] != self.targets.shape[1]:
            raise ValueError(
                f"The classifier has {logits.shape[1]} outputs for {self.targets.shape[1]} class names: "
                "give it one name an output, in order."
            )
        return logits

    def _gradient(self, score, z):
        scale = FLOAT16_LOSS_SCALE if self.decoder.dtype == torch.float16 else 1.0
        (gradient,) = torch.autograd.grad(score * scale, z)
        return gradient / scale

    @property
    def _overflow(self):
        remedy = " (the VAE is in float16: start ComfyUI with --bf16-vae or --fp32-vae)"
        return "the gradient was not finite" + (remedy if self.decoder.dtype == torch.float16 else "")

    def _build(self):
        """The weights of this run, where they are not there yet."""
        if isinstance(self.decoder, DecoderChoice):
            self.decoder = self.decoder.build(self.device)
        if self.params is None:
            self.params = self.classifier.clone_params(self.device)

    def _with_room(self, work):
        """work(), on the first rung of the ladder that has memory for it; None if none has."""
        while self.decoder is not None:
            try:
                return work()
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
            # Outside of the handler: the exception holds on to the memory that is to be freed.
            self._step_down()
        return None

    def _step_down(self):
        """Out of memory: half the micro-batch, then the tiny decoder, then no classifier. A run is never lost."""
        comfy.model_management.soft_empty_cache()
        if self.micro_batch and self.micro_batch > 1:
            self.micro_batch //= 2
            return
        path = None if self.decoder.name == "tiny" else tiny_decoder_path(self.decoder.latent_format)
        self.decoder = DecoderChoice("tiny", None, self.decoder.latent_format, path) if path else None
        note = "out of memory: went on with the tiny decoder" if path else (
            "out of memory: went on without the classifier; use decoder 'tiny' or a smaller image")  # fmt: skip
        log.warning("HiGFA: %s", note)
        self.trace.note(note)


def _out_of_memory(error: RuntimeError) -> bool:
    """As ComfyUI tells it; Apple's backend raises a plain RuntimeError."""
    return comfy.model_management.is_oom(error) or "backend out of memory" in str(error)
