"""A related world to pre-train on: birds with twelve other marks, in the scenes, poses and light of the miniature.

It stands in for ImageNet. None of the eight marks that make a species of the miniature is drawn (the bill is of medium
length, the tail is round or pointed, crest, wing bars, crown and speculum are missing, belly and breast are plain), so
pre-training reveals no label. Five marks change the outline, so that the network learns to look at bills and tails.
"""

import numpy as np

from . import birds

MARKS = (
    "beard", "collar", "belly spots", "eye stripe", "tail band", "long legs", "dark bill", "rump patch", "wing tip",
    "hooked bill", "long tail", "pointed tail",
)  # fmt: skip
SPOTS = ((0.0, 0.18), (0.14, 0.12), (0.22, 0.22), (0.08, 0.26))


def render(seed: int, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """One bird uint8 [S, S, 3], and float32 [12 marks, background, colour]; the marks are 0 or 1, independent."""
    rng = np.random.default_rng([seed, 777])
    marks = rng.random(len(MARKS)) < 0.5
    view = birds.paint(lambda pen, body: _draw(pen, dict(zip(MARKS, marks)), body, rng), rng, size)
    scene = birds.BACKGROUNDS.index(view.background), list(birds.COLOURS).index(view.colour)
    return view.image, np.array([*marks, *scene], np.float32)


def _draw(pen, mark, body, rng) -> None:
    wing, belly = birds.shade(body, 0.66), birds.shade(body, 1.3)
    foot = 0.62 if mark["long legs"] else 0.42
    for x in (-0.06, 0.1):
        pen.polygon([(x, 0.26), (x + 0.03, 0.26), (x + 0.03, foot), (x, foot)], (92, 72, 52))
    longer = 0.16 if mark["long tail"] else 0.0
    if mark["pointed tail"]:
        pen.polygon([(-0.4, -0.12), (-0.92 - longer, 0.02), (-0.38, 0.16)], wing)
    else:
        pen.ellipse((-0.62 - longer / 2, 0.02), (0.3 + longer / 2, 0.11), wing)
    if mark["tail band"]:
        pen.polygon([(-0.78, -0.09), (-0.68, -0.1), (-0.68, 0.13), (-0.78, 0.12)], (240, 238, 226))
    pen.ellipse((0.0, 0.04), (0.5, 0.29), body)
    pen.ellipse((0.1, 0.14), (0.33, 0.17), belly)
    for spot in SPOTS if mark["belly spots"] else ():
        pen.ellipse(spot, (0.035, 0.035), (48, 40, 36))
    if mark["rump patch"]:
        pen.ellipse((-0.42, -0.02), (0.13, 0.1), (72, 120, 206))
    if mark["beard"]:
        pen.polygon([(0.44, -0.1), (0.6, -0.1), (0.56, 0.16)], birds.shade(body, 0.8))
    pen.ellipse((0.45, -0.24), (0.215, 0.2), body)
    if mark["collar"]:
        pen.polygon([(0.24, -0.14), (0.6, -0.02), (0.56, 0.06), (0.2, -0.06)], (34, 32, 36))
    bill = (70, 66, 62) if mark["dark bill"] else (230, 172, 60)
    pen.polygon([(0.62, -0.3), (0.96, -0.2), (0.62, -0.13)], bill)
    if mark["hooked bill"]:
        pen.polygon([(0.82, -0.25), (0.97, -0.22), (0.93, -0.04), (0.86, -0.14)], bill)
    if mark["eye stripe"]:
        pen.polygon([(0.3, -0.29), (0.66, -0.29), (0.66, -0.23), (0.3, -0.21)], (244, 240, 230))
    pen.ellipse((0.52, -0.25), (0.045, 0.045), (16, 16, 18))
    tilt = rng.uniform(-8, 4)
    pen.ellipse((-0.1, -0.03), (0.36, 0.17), wing, tilt)
    if mark["wing tip"]:
        pen.ellipse((-0.36, -0.03), (0.1, 0.09), (236, 206, 70), tilt)
