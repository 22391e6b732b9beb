"""Hierarchical guidance in denoised (x0) space, as pure functions of tensors.

HiGFA (arXiv 2511.12547) gives text, a transformed contour and, in the final stage, a fine-grained classifier a say
in every step, and lets the classifier's confidence set the strength of all three. Its formulas were not available to
us: every formula here is our choice and stands in `docs/method.md` with its reason and its source.

Shapes: latents and denoised estimates [B, C, H, W]; per-sample weights, confidences [B].
"""

from dataclasses import dataclass

import torch

COMPOSITIONS = ("nested", "joint")
PRESETS = ("relax", "constant", "boost")
DECODERS = ("auto", "tiny", "vae")
# A gradient below this RMS is not scaled up to unit size: where the classifier is certain, float noise would be.
GRADIENT_FLOOR = 1e-4
# No correction may be larger than this share of the estimate it corrects.
DISPLACEMENT_CAP = 0.5
BOOST_CAP = 3.0


@dataclass(frozen=True)
class Guidance:
    """All settings of hierarchical guidance; `cfg` (w_text) comes from the sampler node.

    Args:
        composition: `nested` puts the contour on the positive branch only; `joint` keeps it on both, as stock does.
        contour_scale: w_contour as a multiple of cfg; 1 is ordinary CFG with the contour on the positive.
        start_percent: where the final stage begins, as a share of the noise schedule. Typical 0.6 to 0.8.
        end_sigma: noise level at which it ends. Typical 0.03 to 0.1.
        eta: size of the classifier step in posterior standard deviations. Typical 0.1 to 1.
        preset: how the weights follow the confidence: `relax`, `constant` or `boost`.
        p_stop: calibrated probability at which the classifier is satisfied.
        interval: guided model calls between two classifier evaluations; the direction is kept in between.
        max_evals: most evaluations in a run; the interval is widened to keep to it.
        views: 1 = the image, 2 = the image and its mirror image.
        smoothing: share of the previous confidence kept at each evaluation, 0 to below 1.
        label_sharpness: t2 of the two-temperature score (EluCD, arXiv 2310.11311); 1 is log p.
        parallel: share of the gradient part parallel to the estimate that is kept (APG, arXiv 2410.02416).
        decoder: `tiny` = TAESD, `vae` = the full decoder, `auto` = tiny for images above 512 px when it is there.
        micro_batch: most images decoded at once.
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
    decoder: str = "auto"
    micro_batch: int = 4

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
        for name in ("interval", "max_evals", "micro_batch"):
            _within(name, getattr(self, name), 1, 1000)


def _one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(str, choices))}.")


def _within(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must lie between {low} and {high}.")


def compose(uncond, text, text_contour, w_text, w_contour):
    """D = D_u + w_text (D_t - D_u) + w_contour (D_tc - D_t), the form of InstructPix2Pix and of ComfyUI's DualCFG.

    Weights are floats or [B, 1, 1, 1].
    """
    return uncond + (text - uncond) * w_text + (text_contour - text) * w_contour


def confidence(p: torch.Tensor, num_classes: int, p_stop: float) -> torch.Tensor:
    """Probability [B] -> confidence [B] in 0..1: 0 at chance (1 / K), 1 at `p_stop`."""
    chance = 1.0 / num_classes
    if p_stop <= chance:
        return torch.ones_like(p)
    return ((p - chance) / (p_stop - chance)).clamp(0, 1)


def modulation(preset: str, c: torch.Tensor, entropy: torch.Tensor, num_classes: int):
    """Multipliers (m_text, m_contour, w_cls), each [B], that the confidence gives the three signals.

    `relax` steps back where the classifier is unsure, so that it can repair the marks, and hands over again as it is
    satisfied. `constant` changes nothing. `boost` follows ED-DPM (ECCV 2022): log K / H(p), stronger when sure.
    """
    ones = torch.ones_like(c)
    if preset == "relax":
        return 0.8 + 0.2 * c, 0.6 + 0.4 * c, 1 - c
    if preset == "boost":
        limit = torch.log(torch.tensor(float(num_classes), device=c.device))
        return ones, ones, (limit / entropy.clamp(min=1e-6)).clamp(max=BOOST_CAP)
    return ones, ones, ones


def text_weight(w_text, m):
    """1 + (w_text - 1) m: modulation never turns guidance by text into guidance away from it."""
    return 1 + (w_text - 1) * m


def class_score(logits: torch.Tensor, target: torch.Tensor, sharpness: float) -> torch.Tensor:
    """f_y - logsumexp(t2 f) / t2 for each sample; with t2 = 1 it is log p(y)."""
    own = logits.gather(1, target[:, None])[:, 0]
    return own - torch.logsumexp(sharpness * logits, 1) / sharpness


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square of each sample, [B, 1, 1, 1]."""
    return x.square().mean((1, 2, 3), keepdim=True).sqrt()


def direction(gradient: torch.Tensor, denoised: torch.Tensor, parallel: float = 0.0):
    """Raw gradient -> (step direction of RMS at most 1, which samples were finite [B]).

    Samples with a non-finite gradient get no step. The part parallel to the estimate only changes its contrast and
    is removed up to the share `parallel`. Each sample is scaled by its own RMS, so batches do not mix.
    """
    finite = torch.isfinite(gradient).flatten(1).all(1) & torch.isfinite(denoised).flatten(1).all(1)
    keep = finite[:, None, None, None]
    # Out-of-range values are rescaled before squaring, which could overflow.
    g = torch.where(keep, gradient, 0)
    g = g / g.abs().amax((1, 2, 3), keepdim=True).clamp(min=1.0)
    d = torch.where(keep, denoised, 0)
    share = (g * d).sum((1, 2, 3), keepdim=True) / d.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-12)
    g = g - (1 - parallel) * share * d
    return g / rms(g).clamp(min=GRADIENT_FLOOR), finite


def displacement(step: torch.Tensor, size: float, w_cls: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """delta = size w_cls g_hat, at most DISPLACEMENT_CAP of the estimate; size = eta ramp(sigma) s_post(sigma)."""
    delta = step * (size * w_cls[:, None, None, None])
    limit = DISPLACEMENT_CAP * rms(denoised)
    return delta * (limit / rms(delta).clamp(min=1e-12)).clamp(max=1.0)
