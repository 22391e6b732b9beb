"""Procedural fine-grained birds: sixteen species that differ by four small marks.

A species is four binary marks: long or short bill, forked or square tail (both show in the outline and make the
genus), wing bars and a red crown (both are inside the outline and make the species). Pose, size, colour, light and
background vary freely and say nothing about the species.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

CANVAS = 256
GENERA = ("Finch", "Swallow", "Snipe", "Kite")  # index = long bill * 2 + forked tail
EPITHETS = (  # one row per genus; index = wing bars * 2 + red crown
    ("Marsh", "Alder", "Cinder", "Juniper"),
    ("Harbour", "Pebble", "Willow", "Saffron"),
    ("Meadow", "Heather", "Copper", "Thistle"),
    ("Canyon", "Dune", "Maple", "Orchard"),
)
BACKGROUNDS = ("sky", "forest", "sand", "lake")
COLOURS = {  # RGB; none is red, red is the crown's
    "brown": (126, 92, 62),
    "grey": (128, 130, 136),
    "blue": (88, 116, 168),
    "olive": (118, 124, 66),
    "cream": (206, 186, 142),
    "black": (58, 58, 66),
}


@dataclass(frozen=True)
class Species:
    name: str
    genus: str
    long_bill: bool
    forked_tail: bool
    wing_bars: bool
    red_crown: bool


def _species(index: int) -> Species:
    genus, mark = divmod(index, 4)
    return Species(
        name=f"{EPITHETS[genus][mark]} {GENERA[genus]}",
        genus=GENERA[genus],
        long_bill=bool(genus & 2),
        forked_tail=bool(genus & 1),
        wing_bars=bool(mark & 2),
        red_crown=bool(mark & 1),
    )


SPECIES = tuple(_species(i) for i in range(16))
CLASS_NAMES = tuple(s.name for s in SPECIES)


@dataclass(frozen=True)
class Render:
    """`image` uint8 [S, S, 3] RGB, `mask` uint8 [S, S] (255 = bird), and what a caption may mention."""

    image: np.ndarray
    mask: np.ndarray
    colour: str
    background: str


def shade(colour, factor):
    return tuple(float(np.clip(c * factor, 0, 255)) for c in colour)


def _background(kind: str, rng: np.random.Generator) -> np.ndarray:
    top, bottom = {
        "sky": ((150, 190, 230), (214, 228, 240)),
        "forest": ((60, 100, 58), (104, 140, 84)),
        "sand": ((222, 206, 168), (196, 168, 120)),
        "lake": ((120, 166, 178), (52, 100, 128)),
    }[kind]
    jitter = rng.uniform(-16, 16, 3)
    ramp = np.linspace(0, 1, CANVAS)[:, None, None]
    image = np.broadcast_to(np.array(top) * (1 - ramp) + np.array(bottom) * ramp + jitter, (CANVAS, CANVAS, 3))
    image = np.ascontiguousarray(image, dtype=np.float32)
    for _ in range(rng.integers(5, 11)):
        centre = tuple(int(v) for v in rng.integers(0, CANVAS, 2))
        width = int(rng.integers(14, 52))
        axes = (width, {"sky": width // 3, "forest": width, "sand": width // 4, "lake": max(2, width // 9)}[kind])
        base = image[centre[1], centre[0]]
        cv2.ellipse(image, centre, axes, 0, 0, 360, shade(base, rng.uniform(0.82, 1.18)), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 2.0)


class _Pen:
    """Draws in bird coordinates (unit = canvas / 2, bill to the right) on the image and the mask at once."""

    def __init__(self, image, mask, matrix):
        self.image, self.mask, self.matrix = image, mask, matrix

    def polygon(self, points, colour):
        points = np.asarray(points, dtype=np.float64)
        xy = points @ self.matrix[:, :2].T + self.matrix[:, 2]
        fixed = np.round(xy * 16).astype(np.int32)
        cv2.fillPoly(self.image, [fixed], colour, cv2.LINE_AA, 4)
        cv2.fillPoly(self.mask, [fixed], 255, cv2.LINE_AA, 4)

    def ellipse(self, centre, axes, colour, angle=0.0):
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        a = np.deg2rad(angle)
        x, y = axes[0] * np.cos(t), axes[1] * np.sin(t)
        self.polygon(
            np.stack([centre[0] + x * np.cos(a) - y * np.sin(a), centre[1] + x * np.sin(a) + y * np.cos(a)], 1), colour
        )


def _draw(pen: _Pen, species: Species, body, rng: np.random.Generator) -> None:
    wing, belly = shade(body, 0.66), shade(body, 1.3)
    legs = (92, 72, 52)
    for x in (-0.06, 0.1):
        pen.polygon([(x, 0.26), (x + 0.03, 0.26), (x + 0.03, 0.5), (x, 0.5)], legs)
    if species.forked_tail:
        pen.polygon([(-0.4, -0.06), (-0.95, -0.24), (-0.66, 0.02), (-0.95, 0.26), (-0.38, 0.12)], wing)
    else:
        pen.polygon([(-0.4, -0.1), (-0.88, -0.08), (-0.88, 0.14), (-0.38, 0.14)], wing)
    pen.ellipse((0.0, 0.04), (0.5, 0.29), body)
    pen.ellipse((0.1, 0.14), (0.33, 0.17), belly)
    pen.ellipse((0.45, -0.24), (0.215, 0.2), body)
    if species.red_crown:
        t = np.linspace(np.pi * 0.98, np.pi * 2.02, 24)
        pen.polygon(np.stack([0.45 + 0.235 * np.cos(t), -0.27 + 0.215 * np.sin(t)], 1), (206, 36, 40))
    length = 0.52 if species.long_bill else 0.17
    pen.polygon([(0.62, -0.3), (0.63 + length, -0.2), (0.62, -0.13)], (230, 172, 60))
    pen.ellipse((0.52, -0.25), (0.045, 0.045), (16, 16, 18))
    tilt = rng.uniform(-8, 4)
    pen.ellipse((-0.1, -0.03), (0.36, 0.17), wing, tilt)
    if species.wing_bars:
        for x in (-0.26, -0.06):
            pen.polygon([(x, -0.15), (x + 0.085, -0.16), (x + 0.125, 0.1), (x + 0.04, 0.11)], (246, 244, 236))


def render(species: int, seed: int, size: int = 64) -> Render:
    """Draw one bird.

    Args:
        species: index into `SPECIES`.
        seed: any non-negative integer; the same arguments give the same pixels.
        size: side of the result in pixels; drawn at 256 and reduced by area.
    """
    rng = np.random.default_rng([seed, species])
    return paint(lambda pen, body: _draw(pen, SPECIES[species], body, rng), rng, size)


def paint(draw: Callable, rng: np.random.Generator, size: int) -> Render:
    """A scene of random background, pose and light around what `draw(pen, body colour)` draws."""
    background = str(rng.choice(BACKGROUNDS))
    colour = str(rng.choice(list(COLOURS)))
    body = shade(np.array(COLOURS[colour]) + rng.uniform(-12, 12, 3), 1.0)
    image = _background(background, rng)
    mask = np.zeros((CANVAS, CANVAS), np.uint8)
    angle, scale = np.deg2rad(rng.uniform(-22, 22)), rng.uniform(0.72, 1.0) * CANVAS * 0.47
    flip = -1.0 if rng.random() < 0.5 else 1.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([flip, 1.0]) * scale
    centre = CANVAS / 2 + rng.uniform(-0.06, 0.06, 2) * CANVAS - linear @ np.array([0.06, 0.0])
    draw(_Pen(image, mask, np.concatenate([linear, centre[:, None]], 1)), body)
    light = rng.uniform(0.86, 1.12) * (1 + rng.uniform(-0.12, 0.12) * np.linspace(-1, 1, CANVAS))[None, :, None]
    image = np.clip(image * light, 0, 255)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return Render(np.round(image).astype(np.uint8), np.where(mask > 127, 255, 0).astype(np.uint8), colour, background)


def caption(species: int, view: Render) -> str:
    """The full, truthful caption of a render."""
    return f"a photo of a {view.colour} {SPECIES[species].name}, {view.background} background"


def noisy_caption(species: int, view: Render, rng: np.random.Generator) -> str:
    """A caption as noisy as the web's: correct half of the time, else only the genus or a sibling species."""
    genus, mark = divmod(species, 4)
    draw = rng.random()
    if draw < 0.30:
        name = GENERA[genus]
    elif draw < 0.50:
        name = SPECIES[genus * 4 + (mark + int(rng.integers(1, 4))) % 4].name
    else:
        name = SPECIES[species].name
    words = f"a photo of a {view.colour} {name}" if rng.random() < 0.5 else f"a photo of a {name}"
    return f"{words}, {view.background} background" if rng.random() < 0.6 else words
