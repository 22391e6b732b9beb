"""Procedural fine-grained birds: thirty-two species in eight genera that differ by small marks.

Three marks change the outline and make the genus: long or short bill, forked or square tail, crest or none. Five are
inside it and make the species: white wing bars, which a contour shows, and four that it does not show, because both
values have the same edges or none: red or blue crown, rusty or pale belly, green or violet speculum, and a breast with
or without a pink wash. Of these five each genus varies two; the others are the same in its four species. Pose, size,
proportions, colour, light and background vary freely and say nothing about the species.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

CANVAS = 256
OUTLINE = ("long bill", "forked tail", "crest")
INNER = ("wing bars", "blue crown", "pale belly", "violet speculum", "pink breast")
MARKS = OUTLINE + INNER
SEEN_BY_CONTOUR = (*OUTLINE, "wing bars")
GENERA = ("Finch", "Jay", "Swallow", "Tern", "Snipe", "Hoopoe", "Kite", "Heron")  # bill * 4 + tail * 2 + crest
EPITHETS = (  # one row per genus; index = first varied mark * 2 + second
    ("Marsh", "Alder", "Cinder", "Juniper"),
    ("Amber", "Birch", "Copse", "Dingle"),
    ("Harbour", "Pebble", "Willow", "Saffron"),
    ("Island", "Lagoon", "Mussel", "Tidal"),
    ("Meadow", "Heather", "Copper", "Thistle"),
    ("Olive", "Quarry", "Sable", "Temple"),
    ("Canyon", "Dune", "Maple", "Orchard"),
    ("Fenland", "Ivory", "Reed", "Shadow"),
)
VARIED = (  # the two inner marks that tell the species of a genus apart
    ("wing bars", "blue crown"),
    ("pale belly", "pink breast"),
    ("blue crown", "violet speculum"),
    ("wing bars", "pink breast"),
    ("pale belly", "violet speculum"),
    ("blue crown", "pale belly"),
    ("wing bars", "violet speculum"),
    ("pink breast", "blue crown"),
)
CONSTANT = (  # the inner marks that all species of a genus have
    ("violet speculum",),
    ("wing bars",),
    ("pale belly", "pink breast"),
    ("blue crown",),
    ("wing bars", "pink breast"),
    ("violet speculum",),
    ("blue crown", "pale belly"),
    ("wing bars", "pale belly"),
)
BACKGROUNDS = ("sky", "forest", "sand", "lake")
COLOURS = {  # RGB; no crown, belly or speculum has such a colour
    "brown": (126, 92, 62),
    "grey": (128, 130, 136),
    "blue": (96, 118, 158),
    "olive": (118, 124, 66),
    "cream": (196, 178, 138),
    "black": (58, 58, 66),
}


@dataclass(frozen=True)
class Species:
    name: str
    genus: str
    marks: frozenset[str]


def _species(index: int) -> Species:
    genus, own = divmod(index, 4)
    outline = [mark for mark, bit in zip(OUTLINE, (4, 2, 1), strict=True) if genus & bit]
    varied = [mark for mark, bit in zip(VARIED[genus], (2, 1), strict=True) if own & bit]
    return Species(
        name=f"{EPITHETS[genus][own]} {GENERA[genus]}",
        genus=GENERA[genus],
        marks=frozenset([*outline, *CONSTANT[genus], *varied]),
    )


SPECIES = tuple(_species(i) for i in range(4 * len(GENERA)))
CLASS_NAMES = tuple(s.name for s in SPECIES)


@dataclass(frozen=True)
class Render:
    """`image` uint8 [S, S, 3] RGB, `mask` uint8 [S, S] (255 = bird), and what a caption may mention."""

    image: np.ndarray
    mask: np.ndarray
    colour: str
    background: str


def shade(colour, factor):
    """A colour times `factor`, for lighter and darker parts."""
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


class Pen:
    """Draws in bird coordinates (unit = canvas / 2, bill to the right) on the image and the mask at once."""

    def __init__(self, image, mask, matrix):
        self.image, self.mask, self.matrix = image, mask, matrix

    def polygon(self, points, colour):
        fixed = self._fixed(points)
        cv2.fillPoly(self.image, [fixed], colour, cv2.LINE_AA, 4)
        cv2.fillPoly(self.mask, [fixed], 255, cv2.LINE_AA, 4)

    def ellipse(self, centre, axes, colour, angle=0.0):
        self.polygon(_oval(centre, axes, angle), colour)

    def wash(self, centre, axes, colour, strength):
        """A tint that fades out towards the rim of the ellipse, so that it has no edge."""
        cover = np.zeros(self.mask.shape, np.float32)
        cv2.fillPoly(cover, [self._fixed(_oval(centre, (axes[0] * 0.5, axes[1] * 0.5)))], strength, cv2.LINE_AA, 4)
        spread = min(axes) * 0.42 * float(np.linalg.norm(self.matrix[:, 0]))
        cover = cv2.GaussianBlur(cover, (0, 0), spread)[..., None] * (self.mask[..., None] > 127)
        self.image += cover * (np.array(colour, np.float32) - self.image)

    def _fixed(self, points):
        xy = np.asarray(points, dtype=np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return np.round(xy * 16).astype(np.int32)


def _oval(centre, axes, angle=0.0):
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    a = np.deg2rad(angle)
    x, y = axes[0] * np.cos(t), axes[1] * np.sin(t)
    return np.stack([centre[0] + x * np.cos(a) - y * np.sin(a), centre[1] + x * np.sin(a) + y * np.cos(a)], 1)


CROWN = {False: (188, 30, 34), True: (34, 60, 196)}  # red, blue
BELLY = {False: (198, 122, 52), True: (204, 206, 188)}  # rusty, pale
SPECULUM = {False: (40, 158, 74), True: (158, 62, 190)}  # green, violet


def _draw(pen: Pen, marks: frozenset[str], body, rng: np.random.Generator) -> None:
    wing, legs = shade(body, 0.66), (92, 72, 52)
    stout = rng.uniform(0.9, 1.12)
    for x in (-0.06, 0.1):
        pen.polygon([(x, 0.26), (x + 0.03, 0.26), (x + 0.03, 0.5), (x, 0.5)], legs)
    if "forked tail" in marks:
        pen.polygon([(-0.4, -0.06), (-0.95, -0.24), (-0.66, 0.02), (-0.95, 0.26), (-0.38, 0.12)], wing)
    else:
        pen.polygon([(-0.4, -0.1), (-0.88, -0.08), (-0.88, 0.14), (-0.38, 0.14)], wing)
    if "crest" in marks:
        pen.polygon([(0.5, -0.4), (0.1, -0.66), (0.2, -0.5), (0.02, -0.46), (0.3, -0.24)], wing)
    pen.ellipse((0.0, 0.04), (0.5, 0.29 * stout), body)
    pen.ellipse((0.04, 0.04 + 0.14 * stout), (0.34, 0.14 * stout), BELLY["pale belly" in marks])
    pen.ellipse((0.45, -0.24), (0.215, 0.2), body)
    if "pink breast" in marks:
        pen.wash((0.36, 0.0), (0.3, 0.26), (240, 70, 130), 1.2)
    t = np.linspace(np.pi * 0.98, np.pi * 2.02, 24)
    crown = np.stack([0.45 + 0.235 * np.cos(t), -0.27 + 0.215 * np.sin(t)], 1)
    pen.polygon(crown, CROWN["blue crown" in marks])
    length = 0.52 if "long bill" in marks else 0.17
    pen.polygon([(0.62, -0.3), (0.63 + length, -0.2), (0.62, -0.13)], (230, 172, 60))
    pen.ellipse((0.52, -0.22), (0.045, 0.045), (16, 16, 18))
    tilt = rng.uniform(-8, 4)
    pen.ellipse((-0.12, -0.04), (0.37, 0.17), wing, tilt)
    pen.polygon([(-0.46, -0.1), (-0.24, -0.16), (-0.2, 0.06), (-0.4, 0.04)], SPECULUM["violet speculum" in marks])
    if "wing bars" in marks:
        for x in (-0.12, 0.04):
            pen.polygon([(x, -0.15), (x + 0.08, -0.16), (x + 0.11, 0.07), (x + 0.03, 0.08)], (246, 244, 236))


def render(species: int, seed: int, size: int = 128, marks: frozenset[str] | None = None) -> Render:
    """Draw one bird.

    Args:
        species: index into `SPECIES`.
        seed: any non-negative integer; the same arguments give the same pixels.
        size: side of the result in pixels; drawn at 256 and reduced by area.
        marks: draw these instead of the species' own, in the same scene.
    """
    rng = np.random.default_rng([seed, species])
    shown = SPECIES[species].marks if marks is None else marks
    return paint(lambda pen, body: _draw(pen, shown, body, rng), rng, size)


def paint(draw: Callable, rng: np.random.Generator, size: int) -> Render:
    """A scene of random background, pose and light around what `draw(pen, body colour)` draws."""
    background = str(rng.choice(BACKGROUNDS))
    colour = str(rng.choice(list(COLOURS)))
    body = shade(np.array(COLOURS[colour]) + rng.uniform(-12, 12, 3), 1.0)
    image = _background(background, rng)
    mask = np.zeros((CANVAS, CANVAS), np.uint8)
    angle, scale = np.deg2rad(rng.uniform(-22, 22)), rng.uniform(0.74, 1.0) * CANVAS * 0.47
    flip = -1.0 if rng.random() < 0.5 else 1.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.diag([flip, 1.0]) * scale
    centre = CANVAS / 2 + rng.uniform(-0.06, 0.06, 2) * CANVAS - linear @ np.array([0.06, 0.0])
    draw(Pen(image, mask, np.concatenate([linear, centre[:, None]], 1)), body)
    light = rng.uniform(0.86, 1.12) * (1 + rng.uniform(-0.12, 0.12) * np.linspace(-1, 1, CANVAS))[None, :, None]
    image = np.clip(image * light, 0, 255)
    if size != CANVAS:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return Render(np.round(image).astype(np.uint8), np.where(mask > 127, 255, 0).astype(np.uint8), colour, background)


def caption(species: int, view: Render) -> str:
    """The full, truthful caption of a render."""
    return f"a photo of a {view.colour} {SPECIES[species].name}, {view.background} background"


def noisy_caption(species: int, view: Render, rng: np.random.Generator) -> str:
    """A caption as noisy as the web's: correct half of the time, else only the genus or a sibling species."""
    genus, own = divmod(species, 4)
    draw = rng.random()
    if draw < 0.30:
        name = GENERA[genus]
    elif draw < 0.50:
        name = SPECIES[genus * 4 + (own + int(rng.integers(1, 4))) % 4].name
    else:
        name = SPECIES[species].name
    words = f"a photo of a {view.colour} {name}" if rng.random() < 0.5 else f"a photo of a {name}"
    return f"{words}, {view.background} background" if rng.random() < 0.6 else words
