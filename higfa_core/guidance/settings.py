"""Every setting of hierarchical guidance, and how the confidence moves the weights."""

from dataclasses import dataclass

COMPOSITIONS = ("nested", "joint")
DECODERS = ("auto", "tiny", "vae")
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
