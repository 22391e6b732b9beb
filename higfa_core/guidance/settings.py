"""Every setting of hierarchical guidance, and how the confidence moves the weights."""

from dataclasses import dataclass, replace

from ..settings import ADVANCED, Setting, Settings, settings_of

MICRO_BATCH_PIXELS = 512 * 512


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
    def rests(self) -> bool:
        """Whether a satisfied classifier takes no step."""
        return self.gamma > 0 and not self.boost

    @property
    def moves(self) -> bool:
        """Whether text or contour ever depart from their fixed weights."""
        return self.text != (1.0, 1.0) or self.contour != (1.0, 1.0)


MODULATIONS = {
    "relax": Modulation(text=(0.8, 1.0), contour=(0.6, 1.0), gamma=1.0),
    "constant": Modulation(),
    "boost": Modulation(boost=True),
}


@dataclass(frozen=True)
class Guidance(Settings):
    """All settings of hierarchical guidance except `cfg` (w_text), which is on the sampler node."""

    eta: float = Setting(1.0, 0, 10, step=0.05, usual="0.5 to 2").help(
        "Strength of the classifier's step. 0 only measures; above 2 it can overpower the image."
    )
    start_percent: float = Setting(0.7, 0, 1, step=0.01, usual="0.6 to 0.8").help(
        "Where the final stage begins, as in Apply ControlNet: share of the noise schedule, not of the steps. "
        "Lower = the classifier joins earlier."
    )
    preset: str = Setting("relax", choices=(*MODULATIONS, "custom")).help(
        "relax: text and contour ease off while the classifier is unsure, and its step fades as it becomes sure. "
        "constant: all three keep their strength. boost: stronger steps when sure. custom: text_a0 to gamma below."
    )
    contour_scale: float = Setting(1.0, 0, 10, step=0.05, usual="0.5 to 1").help(
        "Strength of the contour as a multiple of cfg. 1 costs no extra model call before the final stage; "
        "0 leaves the contour out."
    )
    decoder: str = Setting("auto", choices=("auto", "tiny", "vae")).help(
        "What turns the latent into pixels for the classifier. tiny: TAESD from models/vae_approx, fast, but blurs "
        "small marks. vae: the full VAE. auto: tiny above 512 pixels if it is installed, else vae."
    )
    p_stop: float = Setting(0.9, 0.01, 1, step=0.01, tier=ADVANCED, usual="0.8 to 0.95").help(
        "Probability of the target class at which the classifier is satisfied and steps back."
    )
    end_sigma: float = Setting(0.05, 0, 100, step=0.01, tier=ADVANCED, usual="0.03 to 0.1").help(
        "Noise level at which classifier guidance ends."
    )
    interval: int = Setting(2, 1, 100, tier=ADVANCED, usual="1 to 3").help(
        "Guided model calls between two evaluations of the classifier; the direction is kept in between. "
        "Higher is faster."
    )
    max_evals: int = Setting(8, 1, 1000, tier=ADVANCED, usual="8 to 20").help(
        "Maximum number of evaluations of the classifier in one run, spread over the final stage."
    )
    views: int = Setting(1, 1, 2, tier=ADVANCED).help(
        "1: the image. 2: the image and its mirror image; keep 1 where left and right tell classes apart."
    )
    smoothing: float = Setting(0.5, 0, 0.99, step=0.05, tier=ADVANCED).help(
        "Share of the previous confidence that is kept at each evaluation."
    )
    label_sharpness: float = Setting(1.0, 0.01, 10, step=0.05, tier=ADVANCED, usual="0.5 to 1").help(
        "1: raise the probability of the class. Below 1: raise the class's own score more (EluCD, arXiv 2310.11311)."
    )
    parallel: float = Setting(0.0, 0, 1, step=0.05, tier=ADVANCED).help(
        "Share kept of the part of the step that only changes contrast and saturation (APG, arXiv 2410.02416)."
    )
    composition: str = Setting("nested", choices=("nested", "joint"), tier=ADVANCED).help(
        "nested: contour on the positive branch only. joint: on both, as stock Apply ControlNet; contour_scale then "
        "multiplies the ControlNet's strength, and the contour does not follow the confidence."
    )
    micro_batch: int = Setting(0, 0, 64, tier=ADVANCED, unit="images").help(
        "Maximum number of images decoded at once for the classifier; fewer need less memory. 0: as many as amount to "
        "one image of 512 x 512."
    )
    rms_cap: float = Setting(0.5, 0.001, 10, step=0.05, tier=ADVANCED).help(
        "No step of the classifier is larger than this share of the image estimate (RMS)."
    )
    text_a0: float = Setting(0.8, 0, 10, step=0.05, tier=ADVANCED).help(
        "Share of the text's weight while the classifier is unsure (preset custom only)."
    )
    text_a1: float = Setting(1.0, 0, 10, step=0.05, tier=ADVANCED).help(
        "Share of the text's weight once the classifier is sure (preset custom only)."
    )
    contour_a0: float = Setting(0.6, 0, 10, step=0.05, tier=ADVANCED).help(
        "Share of the contour's weight while the classifier is unsure (preset custom only)."
    )
    contour_a1: float = Setting(1.0, 0, 10, step=0.05, tier=ADVANCED).help(
        "Share of the contour's weight once the classifier is sure (preset custom only)."
    )
    b: float = Setting(1.0, 0.01, 10, step=0.05, tier=ADVANCED).help(
        "Curve from a0 to a1: share = a0 + (a1 - a0) * confidence ^ b (preset custom only)."
    )
    gamma: float = Setting(1.0, 0, 10, step=0.05, tier=ADVANCED).help(
        "The classifier's step shrinks as (1 - confidence) ^ gamma; 0 keeps its size (preset custom only)."
    )
    branch_interval: int = Setting(1, 1, 10, tier=ADVANCED, usual="1 to 3", optional=True).help(
        "Every branch runs at every n-th guided model call. In between only text with contour runs, and its "
        "difference from the others is kept (FasterCache, arXiv 2410.19355). Higher is faster. 1 changes nothing."
    )
    control_interval: int = Setting(1, 1, 10, tier=ADVANCED, usual="1 to 3", optional=True).help(
        "The ControlNet runs at every n-th guided model call. In between what it added is used again (Faster "
        "Diffusion, arXiv 2312.09608). Higher is faster. 1 changes nothing."
    )
    give_up_below: float = Setting(0.0, 0, 1, step=0.01, tier=ADVANCED, usual="0 to 0.1", optional=True).help(
        "An image whose class is less probable than this at the first evaluation is not finished: it comes out plain, "
        "and Export Dataset rejects it. For runs that make another in its place (--accepted). 0: none is given up."
    )

    @property
    def modulation(self) -> Modulation:
        if self.preset != "custom":
            return MODULATIONS[self.preset]
        text, contour = (self.text_a0, self.text_a1), (self.contour_a0, self.contour_a1)
        return Modulation(text, contour, self.b, self.gamma)

    def images_at_once(self, pixels: int) -> int:
        """How many images of that many pixels are decoded at once; decoding dominates the memory of a guided call."""
        return self.micro_batch or max(1, MICRO_BATCH_PIXELS // pixels)


@dataclass(frozen=True)
class Sampling(Settings):
    """The numeric settings of a sampler node, as in KSampler."""

    seed: int = Setting(0, 0, 2**64 - 1).help("The random seed of the noise.")
    steps: int = Setting(30, 1, 10_000).help("Number of denoising steps.")
    cfg: float = Setting(7.5, 0, 100, step=0.1, round=0.01).help("Strength of text and contour until the final stage.")
    denoise: float = Setting(1.0, 0, 1, step=0.01).help("Below 1 the structure of the latent is kept (image to image).")


SEED, STEPS, CFG = settings_of(Sampling, "seed", "steps", "cfg")


@dataclass(frozen=True)
class SamplingPart(Settings):
    """Which part of a run a sampler makes, as KSampler (Advanced) asks for it."""

    add_noise: str = Setting("enable", choices=("enable", "disable"), tier=ADVANCED).help(
        "enable: add the noise of noise_seed to the latent. disable: it holds its noise already, from another sampler."
    )
    noise_seed: int = SEED.help(SEED.text)
    steps: int = STEPS.help("Number of denoising steps of the whole run.")
    cfg: float = CFG.help(CFG.text)
    start_at_step: int = Setting(0, 0, 10_000, tier=ADVANCED).help("Steps before this one are not run.")
    end_at_step: int = Setting(10_000, 0, 10_000, tier=ADVANCED).help("This step and those after it are not run.")
    return_with_leftover_noise: str = Setting("disable", choices=("disable", "enable"), tier=ADVANCED).help(
        "disable: the last step removes all noise. enable: the remaining noise stays in the latent, for the next "
        "sampler."
    )


START, END = settings_of(Guidance, "start_percent", "end_sigma")


@dataclass(frozen=True)
class NoiseLevels(Settings):
    """The noise levels at which a classifier is checked, and how the model is called at them."""

    start_percent: float = START.help("Where classifier guidance begins, as in HiGFA Guidance.")
    cfg: float = CFG.help("As in the sampler. Without negative it is 1.")
    end_sigma: float = replace(END, low=0.001).help("Noise level at which guidance ends, as in HiGFA Guidance.")
    noise_levels: int = Setting(5, 1, 50, tier=ADVANCED).help(
        "Noise levels to check between start_percent and end_sigma; each costs one model call per image."
    )
    seed: int = Setting(0, 0, 2**64 - 1, tier=ADVANCED).help("Draws the images and the noise.")
