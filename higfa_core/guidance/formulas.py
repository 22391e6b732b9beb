"""Hierarchical guidance in denoised (x0) space, as pure functions of tensors.

HiGFA (arXiv 2511.12547) gives text, a transformed contour and, in the final stage, a fine-grained classifier a say
in every step, and lets the classifier's confidence set the strength of all three. Its formulas were not available to
us: every formula here is our choice and stands in `docs/method.md` with its reason and its source.

Shapes: latents and denoised estimates [B, C, H, W]; per-sample weights, confidences [B].
"""

import math
from dataclasses import dataclass

import torch

COMPOSITIONS = ("nested", "joint")
DECODERS = ("auto", "tiny", "vae")
# A gradient below this RMS is not scaled up to unit size: where the classifier is certain, float noise would be.
GRADIENT_FLOOR = 1e-4
MICRO_BATCH_PIXELS = 512 * 512
BOOST_CAP = 3.0


@dataclass(frozen=True)
class Modulation:
    """How the weights follow the confidence c: m(c) = a0 + (a1 - a0) c^b for text and contour, (1 - c)^gamma for the
    classifier.

    Args:
        text: (a0, a1), the share of the text's weight at confidence 0 and 1.
        contour: (a0, a1) of the contour's weight.
        b: below 1 the weights return early, above 1 late.
        gamma: 0 keeps the classifier's step at full size.
        boost: log K / H(p) in place of (1 - c)^gamma, as ED-DPM (ECCV 2022).
    """

    text: tuple[float, float] = (1.0, 1.0)
    contour: tuple[float, float] = (1.0, 1.0)
    b: float = 1.0
    gamma: float = 0.0
    boost: bool = False

    @property
    def moves(self) -> bool:
        """Whether text or contour ever leave their fixed weights."""
        return self.text != (1.0, 1.0) or self.contour != (1.0, 1.0)


MODULATIONS = {
    "relax": Modulation(text=(0.8, 1.0), contour=(0.6, 1.0), gamma=1.0),
    "constant": Modulation(),
    "boost": Modulation(boost=True),
}
PRESETS = (*MODULATIONS, "custom")


@dataclass(frozen=True)
class Guidance:
    """All settings of hierarchical guidance; `cfg` (w_text) comes from the sampler node.

    Args:
        composition: `nested` puts the contour on the positive branch only; `joint` keeps it on both, as stock does.
        contour_scale: w_contour as a multiple of cfg; 1 is ordinary CFG with the contour on the positive.
        start_percent: where the final stage begins, as a share of the noise schedule. Typical 0.6 to 0.8.
        end_sigma: noise level at which it ends. Typical 0.03 to 0.1.
        eta: size of the classifier step in posterior standard deviations. Typical 0.1 to 1.
        preset: how the weights follow the confidence: `relax`, `constant`, `boost`, or `custom`, which takes the six
            values below.
        p_stop: calibrated probability at which the classifier is satisfied.
        interval: guided model calls between two classifier evaluations; the direction is kept in between.
        max_evals: most evaluations in a run, spread over the final stage.
        views: 1 = the image, 2 = the image and its mirror image.
        smoothing: share of the previous confidence kept at each evaluation, 0 to below 1.
        label_sharpness: t2 of the two-temperature score (EluCD, arXiv 2310.11311); 1 is log p.
        parallel: share of the gradient part parallel to the estimate that is kept (APG, arXiv 2410.02416).
        rms_cap: no correction is larger than this share of the estimate it corrects (RMS).
        decoder: `tiny` = TAESD, `vae` = the full decoder, `auto` = tiny for images above 512 px when it is there.
        micro_batch: most images decoded at once; 0 = as many as make up one image of 512 x 512.
        text_a0, text_a1, contour_a0, contour_a1, b, gamma: see `Modulation`; read by preset `custom` only.
    """

    composition: str = "nested"
    contour_scale: float = 1.0
    start_percent: float = 0.7
    end_sigma: float = 0.05
    eta: float = 0.25
    preset: str = "relax"
    p_stop: float = 0.9
    interval: int = 2
    max_evals: int = 8
    views: int = 1
    smoothing: float = 0.5
    label_sharpness: float = 1.0
    parallel: float = 0.0
    rms_cap: float = 0.5
    decoder: str = "auto"
    micro_batch: int = 0
    text_a0: float = 0.8
    text_a1: float = 1.0
    contour_a0: float = 0.6
    contour_a1: float = 1.0
    b: float = 1.0
    gamma: float = 1.0

    def __post_init__(self):
        _one_of("composition", self.composition, COMPOSITIONS)
        _one_of("preset", self.preset, PRESETS)
        _one_of("decoder", self.decoder, DECODERS)
        _one_of("views", self.views, (1, 2))
        _within("contour_scale", self.contour_scale, 0, 10)
        _within("start_percent", self.start_percent, 0, 1)
        _within("end_sigma", self.end_sigma, 0, 100)
        _within("eta", self.eta, 0, 10)
        _within("p_stop", self.p_stop, 0.01, 1)
        _within("smoothing", self.smoothing, 0, 0.99)
        _within("label_sharpness", self.label_sharpness, 0.01, 10)
        _within("parallel", self.parallel, 0, 1)
        _within("rms_cap", self.rms_cap, 0.001, 10)
        _within("b", self.b, 0.01, 10)
        for name in ("text_a0", "text_a1", "contour_a0", "contour_a1", "gamma"):
            _within(name, getattr(self, name), 0, 10)
        for name in ("interval", "max_evals"):
            _within(name, getattr(self, name), 1, 1000)
        _within("micro_batch", self.micro_batch, 0, 1000)

    @property
    def modulation(self) -> Modulation:
        if self.preset != "custom":
            return MODULATIONS[self.preset]
        text, contour = (self.text_a0, self.text_a1), (self.contour_a0, self.contour_a1)
        return Modulation(text, contour, self.b, self.gamma)

    def images_at_once(self, pixels: int) -> int:
        """Images of that many pixels that are decoded at once; decoding dominates the memory of a guided call."""
        return self.micro_batch or max(1, MICRO_BATCH_PIXELS // pixels)


def _one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}.")


def _within(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must lie between {low} and {high}.")


def agreement(log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """exp(-KL(q || p)) [B] of log-probabilities and target weights q, both [B, K].

    For one class it is the class's probability; for a mixture of classes it is 1 where p is that mixture.
    """
    return torch.exp((target * log_p).sum(1) - torch.special.xlogy(target, target).sum(1))


def chance(target: torch.Tensor) -> torch.Tensor:
    """What `agreement` gives a classifier that knows nothing (uniform p): 1 / K for one class. [B, K] -> [B]."""
    return torch.exp(-torch.special.xlogy(target, target).sum(1)) / target.shape[1]


def confidence(p: torch.Tensor, chance: torch.Tensor, p_stop: float) -> torch.Tensor:
    """Probability [B] -> confidence [B] in 0..1: 0 at chance [B], 1 at `p_stop`."""
    room = p_stop - chance
    return torch.where(room > 0, (p - chance) / room.clamp(min=1e-6), 1.0).clamp(0, 1)


def modulation(settings: Modulation, c: torch.Tensor, entropy: torch.Tensor, num_classes: int):
    """Multipliers (m_text, m_contour, w_cls), each [B], that the confidence [B] gives the three signals."""
    curve = c**settings.b
    m_text, m_contour = (a0 + (a1 - a0) * curve for a0, a1 in (settings.text, settings.contour))
    if settings.boost:
        return m_text, m_contour, (math.log(num_classes) / entropy.clamp(min=1e-6)).clamp(max=BOOST_CAP)
    return m_text, m_contour, (1 - c) ** settings.gamma


def text_weight(w_text, m):
    """1 + (w_text - 1) m: modulation never turns guidance by text into guidance away from it."""
    return 1 + (w_text - 1) * m


def class_score(logits: torch.Tensor, target: torch.Tensor, sharpness: float) -> torch.Tensor:
    """sum_k q_k f_k - logsumexp(t2 f) / t2 for each sample; logits and target weights q [B, K]. t2 = 1: E_q[log p]."""
    return (target * logits).sum(1) - torch.logsumexp(sharpness * logits, 1) / sharpness


def rms(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Root mean square of each sample, [B, 1, 1, 1]; with a mask (0..1, broadcast to x) over the part it shows."""
    dims = tuple(range(1, x.ndim))
    if mask is None:
        return x.square().mean(dims, keepdim=True).sqrt()
    weight = mask.expand_as(x)
    return ((weight * x.square()).sum(dims, keepdim=True) / weight.sum(dims, keepdim=True).clamp(min=1e-6)).sqrt()


def direction(gradient: torch.Tensor, denoised: torch.Tensor, parallel: float = 0.0, mask: torch.Tensor | None = None):
    """Raw gradient -> (step direction of RMS at most 1, which samples were finite [B]).

    Samples with a non-finite gradient get no step. The part parallel to the estimate only changes its contrast and
    is removed up to the share `parallel`. Each sample is scaled by its own RMS, so batches do not mix; with a mask
    (inpainting) the step stays inside it and has that RMS there.
    """
    dims = tuple(range(1, gradient.ndim))
    finite = torch.isfinite(gradient).flatten(1).all(1) & torch.isfinite(denoised).flatten(1).all(1)
    keep = _column(finite, gradient)
    # Out-of-range values are rescaled before squaring, which could overflow.
    g = torch.where(keep, gradient, 0)
    g = g / g.abs().amax(dims, keepdim=True).clamp(min=1.0)
    d = torch.where(keep, denoised, 0)
    if mask is not None:
        g, d = g * mask, d * mask
    share = (g * d).sum(dims, keepdim=True) / d.square().sum(dims, keepdim=True).clamp(min=1e-12)
    g = g - (1 - parallel) * share * d
    return g / rms(g, mask).clamp(min=GRADIENT_FLOOR), finite


def displacement(step, size: float, w_cls: torch.Tensor, denoised: torch.Tensor, cap: float, mask=None):
    """delta = size w_cls g_hat, its RMS at most `cap` of the estimate's; size = eta ramp(sigma) s_post(sigma)."""
    delta = step * (size * _column(w_cls, step))
    limit = (cap * rms(denoised, mask) / rms(delta, mask).clamp(min=1e-12)).clamp(max=1.0)
    return delta * limit.nan_to_num(0.0)  # no step from an estimate that is not a number


def _column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B] -> [B, 1, ...], to be multiplied with `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
