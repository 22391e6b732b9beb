import dataclasses

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.contour.edges import extract
from higfa_core.plans.rules import Rules
from higfa_core.store.scores import classifier_scores, contour_agreement, image_scores, perceptual_hash, sharpness

GOOD = {"confidence": 0.8, "rank": 1, "margin": 0.6, "seen": "a", "contour_agreement": 0.7, "sharpness": 90.0}
GOOD |= {"judge_confidence": 0.6, "judge_rank": 1, "judge_margin": 0.3, "judge_seen": "a", "phash": "00ff00ff00ff00ff"}


@pytest.mark.parametrize(
    ("rule", "value", "score", "bad"),
    [
        ("min_confidence", 0.8, "confidence", 0.79),
        ("require_top1", True, "rank", 2),
        ("min_margin", 0.6, "margin", 0.5),
        ("min_judge_confidence", 0.6, "judge_confidence", 0.5),
        ("require_judge_top1", True, "judge_rank", 3),
        ("min_judge_margin", 0.3, "judge_margin", -0.1),
        ("min_contour_agreement", 0.7, "contour_agreement", 0.6),
        ("min_sharpness", 90, "sharpness", 89),
    ],
)
def test_each_rule_looks_at_its_score_and_says_which(rule, value, score, bad):
    rules = Rules(**{rule: value})
    assert rules.judge(GOOD).accepted and rules.given() == {rule: value}
    verdict = rules.judge(GOOD | {score: bad})
    assert not verdict.accepted and (score.split("_")[-1] in verdict.reason or "sees" in verdict.reason)
    with pytest.raises(ValueError, match=f"need {score}, which"):
        rules.judge({name: v for name, v in GOOD.items() if name != score})
    assert Rules().judge({}).accepted


def test_rules_out_of_range_are_named():
    for field in dataclasses.fields(Rules):
        with pytest.raises(ValueError, match=field.name):
            Rules(**{field.name: -2})
    with pytest.raises(ValueError, match="Invalid min_confidence: 1.5. Choose a number from 0 to 1"):
        Rules(1.5)


def test_broken_probabilities_are_never_accepted():
    class Broken:
        class_names = ("a", "b")

        def index(self, name):
            return 0

        def predict_proba(self, images):
            return torch.tensor([[float("nan"), 0.4]])

    (scores,) = classifier_scores(torch.zeros(1, 4, 4, 3), "a", Broken())
    assert not Rules().judge(scores).accepted


def duplicates(bits, rules=Rules(max_duplicate_bits=2)):
    images = [{"phash": f"{value:016x}", "confidence": c} for value, c in bits]
    return [verdict.accepted for verdict in rules.judge_class(images)]


def test_duplicates_are_those_of_earlier_images_that_pass_the_other_rules():
    far = 0xFFFF0000FFFF0000
    assert duplicates([(0, 1), (far, 1), (0b11, 1), (0b111, 1), (far ^ 1, 1)]) == [True, True, False, False, False]
    # 0b111 is three bits from the first, but two from 0b11, which is a duplicate itself: still one.
    assert duplicates([(0, 1), (0b111, 1)]) == [True, True]
    strict = Rules(min_confidence=0.5, max_duplicate_bits=2)
    assert duplicates([(0, 0.1), (0b1, 0.9)], strict) == [False, True]


@pytest.mark.parametrize("numpy", [1, 2])
def test_a_verdict_on_duplicates_depends_on_earlier_images_only(monkeypatch, numpy):
    if numpy == 1:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    values = np.random.default_rng(0).integers(0, 2**12, 60).tolist()
    whole = duplicates([(v, 1) for v in values])
    assert 5 < sum(whole) < 55
    assert whole == [all((v ^ w).bit_count() > 2 for w in values[:i]) for i, v in enumerate(values)]
    for end in range(1, 60):
        assert duplicates([(v, 1) for v in values[:end]]) == whole[:end]


def test_the_hash_is_imagehashs():
    import imagehash

    pixels = np.random.default_rng(1).integers(0, 256, (6, 50, 70, 3)).astype(np.uint8)
    pixels[1:3] = np.linspace(0, 255, 70, dtype=np.uint8)[None, :, None]
    for picture in pixels:
        assert perceptual_hash(picture) == str(imagehash.phash(Image.fromarray(picture)))


def test_sharpness_in_closed_form():
    board = np.indices((32, 32)).sum(0) % 2 * 255
    grey = np.repeat(board[..., None], 3, 2).astype(np.uint8)
    assert sharpness(grey) == pytest.approx((4 * 255) ** 2, rel=1e-6)  # the Laplacian is +-4 x 255 everywhere
    assert sharpness(np.full((8, 8, 3), 77, np.uint8)) == 0


def square(size, at, side):
    image = torch.zeros(size, size, 3)
    image[at : at + side, at : at + side] = 1
    return image


def test_contour_agreement_of_an_image_with_its_own_and_other_contours():
    image = square(128, 32, 48)
    own = extract(image[None])[0]
    assert contour_agreement(image, own) == 1.0
    assert contour_agreement(image, torch.roll(own, (20, 20), (0, 1))) < 0.2
    assert contour_agreement(image, torch.zeros_like(own)) == 0.0
    assert contour_agreement(torch.zeros_like(image), torch.zeros_like(own)) == 1.0
    small = torch.nn.functional.max_pool2d(own.movedim(-1, 0)[None], 2)[0].movedim(0, -1)
    assert contour_agreement(image, small) > 0.9
    second = torch.maximum(image, square(128, 96, 20))
    assert contour_agreement(second, own) < 0.95  # an edge that nobody asked for
    inside = torch.zeros(128, 128)
    inside[24:88, 24:88] = 1
    assert contour_agreement(second, own, inside) == 1.0


@pytest.mark.parametrize("scale", [1, 3])
def test_contour_agreement_where_the_controlnet_cuts_the_sides_off(scale):
    drawn = np.zeros((333 * scale, 500 * scale), np.uint8)
    cv2.ellipse(drawn, (250 * scale, 160 * scale), (90 * scale, 60 * scale), 20, 0, 360, 255, -1)
    contour = torch.from_numpy(cv2.Canny(drawn, 100, 200) / 255.0)[..., None].repeat(1, 1, 3)
    side = (500 - 333) * scale // 2
    centre, stretched = (cv2.resize(part, (512, 512)) for part in (drawn[:, side:-side], drawn))
    images = [torch.from_numpy(p / 255.0).float()[..., None].repeat(1, 1, 3) for p in (centre, stretched)]
    agreement = [contour_agreement(image, contour) for image in images]
    assert agreement[0] > 0.95 and agreement[1] < 0.5


def test_scores_of_a_picture_are_plain_numbers():
    scores = image_scores(torch.rand(16, 20, 3), torch.zeros(16, 20, 3))
    assert {name: type(value) for name, value in scores.items()} == {
        "sharpness": float, "phash": str, "contour_agreement": float}  # fmt: skip
