"""Which images belong in the training set. Rules see scores only, so that they can be applied again later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from math import ceil

from ..settings import ADVANCED, HIDDEN, Setting, Settings


@dataclass(frozen=True)
class Verdict:
    """A decision and its reason in words; `like`: the number of the earlier image that a near-duplicate resembles."""

    accepted: bool
    reason: str
    like: int | None = None


@dataclass(frozen=True)
class Rules(Settings):
    """Minimum scores of an accepted image; a rule at its default is off. Scores: see `..store.scores`."""

    min_confidence: float = Setting(0.0, 0, 1, step=0.01).help(
        "Minimum probability of the class, by the classifier: no evidence if it steered the images. Use the judge's."
    )
    require_top1: bool = Setting(False, tier=ADVANCED).help(
        "Reject images for which the classifier finds another class more probable."
    )
    min_margin: float = Setting(0.0, 0, 1, step=0.01, tier=ADVANCED).help(
        "Minimum lead of the class over the runner-up, by the classifier."
    )
    min_judge_confidence: float = Setting(0.0, 0, 1, step=0.01).help(
        "Minimum probability of the class, by the judge. Images below it go to rejected/<class>/."
    )
    require_judge_top1: bool = Setting(False, tier=HIDDEN).help(
        "Reject images for which the judge finds another class more probable."
    )
    min_judge_margin: float = Setting(0.0, 0, 1, tier=HIDDEN).help(
        "Minimum lead of the class over the runner-up, by the judge."
    )
    min_contour_agreement: float = Setting(0.0, 0, 1, step=0.01, tier=ADVANCED).help(
        "Minimum boundary F1 of the requested contour and the image's edges."
    )
    min_sharpness: float = Setting(0.0, 0, 1e9, step=1, tier=ADVANCED).help(
        "Minimum variance of the Laplacian; blurred images have a few tens."
    )
    max_duplicate_bits: int = Setting(-1, -1, 64, tier=HIDDEN).help(
        "Reject near-duplicates: images whose perceptual hash differs from that of an earlier image of the class in at "
        "most this many of 64 bits. -1: off."
    )
    keep_judge_share: float = Setting(1.0, 0.01, 1, tier=HIDDEN).help(
        "Of each class keep this share of the images that pass the other rules: those whose class the judge finds most "
        "probable, at least one. 1: all."
    )

    @classmethod
    def recorded(cls, values: Mapping[str, object]) -> Rules:
        """The rules stored in a file. ValueError for one that this version does not know."""
        if unknown := sorted(values.keys() - {field.name for field in fields(cls)}):
            raise ValueError(f"unknown rule: {unknown[0]}, written by a newer version. Update HiGFA.")
        return cls(**values)  # type: ignore[arg-type]

    def given(self) -> dict[str, float | bool]:
        """The rules that are on."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    def stored(self) -> dict[str, float | bool]:
        """All rules, as a file holds them: those that plans of version 0.1.0 lack only if they are on."""
        given = self.given()
        return {k: v for k, v in asdict(self).items() if k not in _LATER or k in given}

    @cached_property
    def needs(self) -> set[str]:
        """The scores that these rules need."""
        return {SCORES[rule] for rule in self.given()}

    def check(self, scores: Mapping[str, object]) -> None:
        """ValueError when a score that a rule needs was not measured."""
        if lacking := sorted(name for name in self.needs if scores.get(name) is None):
            raise ValueError(f"The rules need {', '.join(lacking)}, which {_REMEDY[lacking[0].partition('_')[0]]}")

    def judge(self, scores: Mapping[str, object]) -> Verdict:
        """The verdict on one image, regardless of the others. What a person has decided (`human`) stands."""
        self.check(scores)
        if (chance := scores.get("given_up")) is not None:  # before any verdict by hand: there is no finished image
            return Verdict(False, f"given up: probability {chance:.4g} is below the limit")
        if (human := scores.get("human")) is not None:
            return Verdict(bool(human), "accepted by hand" if human else "rejected by hand")
        for prefix, who in (("", "the classifier"), ("judge_", "the judge")):
            if scores.get(f"{prefix}broken"):
                return Verdict(False, f"{who} gave probabilities that are not finite")
            if getattr(self, f"require_{prefix}top1") and scores[f"{prefix}rank"] != 1:
                return Verdict(False, f"{who} sees {scores[f'{prefix}seen']!r}")
        for rule, name in SCORES.items():
            least = getattr(self, rule)
            if rule.startswith("min_") and least > 0 and scores[name] < least:
                return Verdict(False, f"{name.replace('_', ' ')} {scores[name]:.4g} is below {least:g}")
        confidence = scores.get("confidence")
        return Verdict(True, "no classifier given" if confidence is None else f"confidence {confidence:.3f}")

    def judge_class(self, images: Sequence[Mapping[str, object]]) -> list[Verdict]:
        """Verdicts on the images of one class, given as their scores in plan order.

        Duplicates are compared with every earlier image that passed the other rules, itself a duplicate or not: so that
        verdict depends on earlier images only. A share of the class depends on all of them: as a class grows, an image
        may leave it. Neither depends on the order in which images were made.
        """
        verdicts = [self.judge(scores) for scores in images]
        if self.max_duplicate_bits >= 0:
            self._without_duplicates(images, verdicts)
        if self.keep_judge_share < 1:
            passed = [i for i, one in enumerate(verdicts) if one.accepted and images[i].get("human") is None]
            # Stable: of equally probable images the earlier ones stay.
            best = sorted(passed, key=lambda i: float(str(images[i]["judge_confidence"])), reverse=True)
            for i in best[ceil(self.keep_judge_share * len(passed)) :]:
                verdicts[i] = Verdict(False, f"the judge prefers others: {self.keep_judge_share:.0%} of the class stay")
        return verdicts

    def _without_duplicates(self, images: Sequence[Mapping[str, object]], verdicts: list[Verdict]) -> None:
        import numpy as np  # here: a driver of servers rarely needs it

        hashes = np.array([int(str(scores["phash"]), 16) for scores in images], dtype=np.uint64)
        passed = np.array([verdict.accepted for verdict in verdicts], dtype=bool)
        for i in np.flatnonzero(passed):
            if images[int(i)].get("human"):
                continue
            earlier = np.flatnonzero(passed[:i])
            differ = np.bitwise_xor(hashes[earlier], hashes[i])
            if hasattr(np, "bitwise_count"):  # since NumPy 2; over twenty times as fast
                bits = np.bitwise_count(differ)
            else:
                bits = np.unpackbits(differ.view(np.uint8)).reshape(-1, 64).sum(1)
            if len(bits) and bits.min() <= self.max_duplicate_bits:
                reason = f"near-duplicate: {bits.min()} of 64 bits from an earlier image"
                verdicts[i] = Verdict(False, reason, like=int(earlier[bits.argmin()]))


SCORES = {
    "min_confidence": "confidence",
    "require_top1": "rank",
    "min_margin": "margin",
    "min_judge_confidence": "judge_confidence",
    "require_judge_top1": "judge_rank",
    "min_judge_margin": "judge_margin",
    "min_contour_agreement": "contour_agreement",
    "min_sharpness": "sharpness",
    "max_duplicate_bits": "phash",
    "keep_judge_share": "judge_confidence",
}
_LATER = {"keep_judge_share"}
_CLASSIFIER = "come from a classifier. Connect one to Export Dataset, or remove those rules."
_REMEDY = {
    **dict.fromkeys(("confidence", "rank", "margin"), _CLASSIFIER),
    "judge": "come from a judge. Connect a second classifier to Export Dataset, or remove those rules.",
    "contour": "comes from a contour. Connect that of Transform Contour to Export Dataset, or remove that rule.",
    "sharpness": "this dataset lacks: its images were made by an older version. Remove that rule.",
    "phash": "this dataset lacks: its images were made by an older version. Remove that rule.",
}
