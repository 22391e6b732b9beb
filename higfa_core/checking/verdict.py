"""Can a classifier guide? Statistics and verdict, as pure functions of its readings.

The same images go through every stage (real, decoded, denoised), so stages are compared in pairs. Only images that are
read correctly in one stage and wrongly in the other tell the stages apart; given their number, chance alone would split
them evenly (McNemar), and the binomial test of that is exact for any number of images. It is not corrected for multiple
comparisons: SMALL_LOSS also has to be exceeded before a chance difference leads to a verdict.

The thresholds are our choice:

MIN_ACCURACY  required on real images: below it the gradient leads to another class too often.
SMALL_LOSS    a real loss up to this is no reason to change anything.
UNSEEN_LOSS   where no loss is found, the largest that the images must be able to rule out.
KEPT_SKILL    share of the accuracy above chance that must remain at a noise level for the classifier to act there.
LEVEL         significance level of the tests; intervals cover 1 - LEVEL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist

from torch import Tensor

MIN_ACCURACY = 0.70
SMALL_LOSS = 0.05
UNSEEN_LOSS = 0.10
KEPT_SKILL = 0.5
LEVEL = 0.05
Z = NormalDist().inv_cdf(1 - LEVEL / 2)

REAL, VAE, TINY = "real images", "VAE", "tiny decoder"
NAMES = {"real": REAL, "vae": VAE, "tiny": TINY}
NO_MODEL = "the tiny decoder and the noise levels of the guidance; connect model, and a prompt as positive"
NO_PROMPT = "the noise levels of the guidance; connect a prompt that names no class as positive"
FINE, UNCLEAR, CHANGE, STOP = "fine", "unclear", "change", "stop"
HEADLINES = {
    FINE: "Ready to guide.",
    UNCLEAR: "Too few images to be sure.",
    CHANGE: "Ready to guide after a change.",
    STOP: "Not ready to guide.",
}


@dataclass(frozen=True)
class Reading:
    """What a classifier read in one stage, image by image; all readings of a check have the same images.

    `right`: the most probable class was the true one. `probability`: calibrated, of the true class. `sigma` and
    `percent` (share of the noise schedule) are those of a noise level, None where no noise was added.
    """

    stage: str
    right: tuple[bool, ...]
    probability: tuple[float, ...]
    sigma: float | None = None
    percent: float | None = None

    @property
    def n(self) -> int:
        return len(self.right)

    @property
    def accuracy(self) -> float:
        return sum(self.right) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(sum(self.right), self.n)

    @property
    def mean_probability(self) -> float:
        return sum(self.probability) / self.n


@dataclass(frozen=True)
class Check:
    """All readings of a check, the real images first. `classes`: how many the classifier has; `missing`: what was not
    measured, and how to measure it."""

    readings: tuple[Reading, ...]
    classes: int
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, stages: Sequence, labels: list[int], has_model: bool) -> Check:
        """The check of `comfy.stages.measure`'s stages, for images of these classes (the classifier's indices)."""
        readings = [
            read(NAMES[stage.name], stage.probabilities, labels, stage.sigma, stage.percent) for stage in stages
        ]
        noisy = any(reading.sigma is not None for reading in readings)
        missing = () if noisy else (NO_PROMPT,) if has_model else (NO_MODEL,)
        return cls(tuple(readings), stages[0].probabilities.shape[1], missing)

    def clean(self, stage: str) -> Reading | None:
        """The reading of a stage without noise."""
        return next((r for r in self.readings if r.stage == stage and r.sigma is None), None)

    def noisy(self, stage: str) -> list[Reading]:
        """The noise levels of a decoder, highest first."""
        levels = [r for r in self.readings if r.stage == stage and r.sigma is not None]
        return sorted(levels, key=lambda r: r.sigma or 0.0, reverse=True)

    def needed(self, clean: Reading) -> float:
        """Accuracy required at a noise level: KEPT_SKILL of what is above chance without noise."""
        chance = 1 / self.classes
        return chance + KEPT_SKILL * max(0.0, clean.accuracy - chance)


@dataclass(frozen=True)
class Loss:
    """Accuracy lost between two stages: the difference, its interval, and the p-value of no difference."""

    points: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Finding:
    grade: str  # FINE, UNCLEAR, CHANGE or STOP
    text: str


def read(stage: str, probabilities: Tensor, labels: list[int], sigma=None, percent=None) -> Reading:
    """Calibrated probabilities [N, K] of N images and their classes -> Reading; not finite counts as wrong."""
    truth = probabilities.nan_to_num(nan=0.0)[range(len(labels)), labels].tolist()
    best = probabilities.argmax(dim=1).tolist()
    finite = probabilities.isfinite().all(dim=1).tolist()
    right = tuple(f and b == y for f, b, y in zip(finite, best, labels, strict=True))
    return Reading(stage, right, tuple(truth), sigma, percent)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion; keeps its level near 0 and 1 and for few images."""
    share, widening = successes / n, 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / widening
    half = Z / widening * (share * (1 - share) / n + Z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value of a split of lost + gained images at least as uneven as this one."""
    n, tail = lost + gained, min(lost, gained)
    return min(1.0, 2 * sum(comb(n, i) for i in range(tail + 1)) / 2**n)


def loss(before: Reading, after: Reading) -> Loss:
    """Accuracy lost from one stage to another on the same images, with Bonett and Price's adjusted Wald interval
    (J. Educ. Behav. Stat. 37, 2012) and McNemar's test."""
    pairs = list(zip(before.right, after.right, strict=True))
    lost, gained, n = pairs.count((True, False)), pairs.count((False, True)), len(pairs)
    a, b = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = Z * ((a + b - (a - b) ** 2) / (n + 2)) ** 0.5
    return Loss((lost - gained) / n, max(-1.0, a - b - half), min(1.0, a - b + half), mcnemar(lost, gained))


def findings(check: Check) -> list[Finding]:
    """What the numbers mean, stage by stage."""
    real, vae, tiny = (check.clean(stage) for stage in (REAL, VAE, TINY))
    assert real and vae  # every check measures these two
    through_vae = _compared(real, vae, "use larger images, or a model whose VAE keeps finer marks")
    through_tiny = _compared(vae, tiny, "use the full VAE (decoder: vae)") if tiny else None
    found = [_real(real), through_vae, through_tiny, _noise(check, vae)]
    if tiny and through_tiny and through_tiny.grade != CHANGE:
        found.append(_noise(check, tiny))
    return [finding for finding in found if finding]


def verdict(check: Check) -> str:
    """The findings in plain words: a headline, one line per finding, then what was not measured."""
    found = findings(check)
    grade = max((f.grade for f in found), key=list(HEADLINES).index)
    headline = HEADLINES[grade]
    if grade == FINE and check.missing:
        headline = "Ready to guide, as far as measured."
    if grade == CHANGE and any(f.grade == UNCLEAR for f in found):
        headline = "A change is needed, and more images to be sure of the rest."
    return "\n".join([headline, *(f"- {f.text}" for f in found), *(f"- Not measured: {m}" for m in check.missing)])


def percentage(share: float) -> str:
    return f"{100 * share:.0f} %"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _real(real: Reading) -> Finding:
    low, high = real.interval
    numbers = f"n={real.n}, 95 % interval of the accuracy {100 * low:.0f} to {percentage(high)}"
    if high < MIN_ACCURACY:
        wrong = percentage(1 - real.accuracy)
        return Finding(
            STOP,
            f"The classifier is wrong on {wrong} of the real images ({numbers}): "
            "train it longer or on more images before trusting its guidance.",
        )
    right = f"The classifier is right on {percentage(real.accuracy)} of the real images ({numbers})"
    if real.accuracy < MIN_ACCURACY:
        needed = percentage(MIN_ACCURACY)
        return Finding(UNCLEAR, f"{right}; {needed} is required and may be reached: check more images.")
    return Finding(FINE, f"{right}.")


def _compared(before: Reading, after: Reading, remedy: str) -> Finding:
    cost = loss(before, after)
    numbers = f"({percentage(before.accuracy)} -> {percentage(after.accuracy)}, n={after.n}, {p_value(cost.p)})"
    if cost.p < LEVEL and cost.points > SMALL_LOSS:
        return Finding(CHANGE, f"The {after.stage} costs {100 * cost.points:.0f} points {numbers}: {remedy}.")
    if cost.p < LEVEL and cost.points > 0:
        return Finding(FINE, f"The {after.stage} costs {100 * cost.points:.1f} points {numbers}: little enough.")
    if cost.high > UNSEEN_LOSS:
        return Finding(
            UNCLEAR,
            f"Whether the {after.stage} costs accuracy is open {numbers}: so few images cannot rule out a loss of "
            f"{100 * cost.high:.0f} points. Check more images.",
        )
    other = "real ones" if before.stage == REAL else f"those of the {before.stage}"
    return Finding(FINE, f"The classifier reads images of the {after.stage} as well as {other} {numbers}.")


def _noise(check: Check, clean: Reading) -> Finding | None:
    levels, needed = check.noisy(clean.stage), check.needed(clean)
    if not levels:
        return None
    bad = [r for r in levels if r.interval[1] < needed and loss(clean, r).p < LEVEL]
    if bad:
        return _too_noisy(clean, bad[0], levels[levels.index(bad[-1]) + 1 :])
    worst = min(levels, key=lambda r: r.accuracy)
    numbers = f"{percentage(worst.accuracy)} at sigma {worst.sigma:.2g} ({clean.stage}, n={worst.n})"
    if worst.accuracy < needed:
        return Finding(
            UNCLEAR,
            f"The accuracy falls to {numbers}; {percentage(needed)} is required there and may be reached: "
            "check more images.",
        )
    return Finding(
        FINE,
        f"At every noise level of the guidance the accuracy is at least {numbers}: "
        f"start_percent {levels[0].percent:.2f} is fine.",
    )


def _too_noisy(clean: Reading, bad: Reading, usable: list[Reading]) -> Finding:
    fault = (
        f"At sigma {bad.sigma:.2g} (start_percent {bad.percent:.2f}) the accuracy is {percentage(bad.accuracy)} "
        f"({clean.stage}, n={bad.n}), without noise {percentage(clean.accuracy)}"
    )
    if not usable:
        return Finding(
            STOP,
            f"{fault}, and no lower noise level is better: check that model, VAE and prompt belong together; "
            "if they do, this model loses the marks and this classifier cannot guide it.",
        )
    percent = min(usable[0].percent or 0.0, 0.99)  # at 1.00 there would be no window left
    return Finding(
        CHANGE,
        f"{fault}: raise start_percent to {percent:.2f}, where it is {percentage(usable[0].accuracy)}.",
    )
