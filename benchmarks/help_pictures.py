"""The pictures of the help pages: the species, every contour method, every transform, every preset, and a strip of eta.

    python run.py serve                                        (in another terminal)
    python run.py exec -- python benchmarks/help_pictures.py [--server http://127.0.0.1:8188]

Writes web/docs/pictures/*.jpg. `--drawn` writes only those that need no server: the species and the contours.
"""

import argparse
import io
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from higfa_core.batch.client import Client
from higfa_core.contour import ContourTransform, Extraction, extract, transform_batch
from higfa_core.contour.edges import METHODS
from higfa_core.guidance.formulas import modulation
from higfa_core.guidance.settings import MODULATIONS, Modulation
from higfa_core.miniature import birds

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "web" / "docs" / "pictures"
SWEEP = ROOT / "workflows" / "api" / "miniature_sweep.json"
CELL, LABEL, GAP, QUALITY = 128, 24, 4, 85  # shown at half that size where the panel is narrow
BACKGROUND, INK = (24, 24, 27), (235, 235, 235)
CURVES = {"text": (200, 211, 224), "contour": (143, 214, 148), "classifier": (255, 122, 69)}
SPECIES, DRAWN, SIZE = 13, 12, 256  # the bird of the contour pictures
DRAWN_AS = 0  # of the species: the scene belongs to species and seed
JOB = 6  # the bird of the strips: text and contour alone miss its species
ETAS = "0, 0.5, 1, 3"
CUSTOM = Modulation(text=(0.5, 1.0), contour=(0.2, 1.0), b=2.0, gamma=0.5)
# Setting -> the value that the picture shows; everything else is off.
OFF = {"flip": 0, "rotation": 0, "scale_min": 1, "scale_max": 1, "translation": 0, "perspective": 0, "elastic": 0}
TRANSFORMS = {
    "flip": {"flip": 1},
    "rotation 30": {"rotation": 30},
    "scale_min 0.6": {"scale_min": 0.6, "scale_max": 0.6},
    "scale_max 1.4": {"scale_min": 1.4, "scale_max": 1.4},
    "translation 0.2": {"translation": 0.2},
    "perspective 0.15": {"perspective": 0.15},
    "elastic 0.05": {"elastic": 0.05},
    "outside 0.4": {"translation": 0.4, "outside": 0.4},
}
SEED = 60


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--drawn", action="store_true", help="only those that need no server")
    args = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    save("species", species(), columns=4, lines=2, cell=96)
    save("contour_methods", contour_methods(), columns=2)
    save("contour_transforms", contour_transforms(), columns=3, lines=2)
    if args.drawn:
        return
    client = Client(args.server)
    strip = swept(client, "eta", ETAS, {"preset": "relax"})
    save("eta", [(f"eta {value}: p {p:.2f}", image) for value, p, image in strip], columns=2)
    presets = swept(client, "preset", ", ".join([*MODULATIONS, "custom"]), {"eta": 2.0, **custom_settings()})
    cells = [[(f"p {p:.2f}", image), (name, curves_of(MODULATIONS.get(name, CUSTOM)))] for name, p, image in presets]
    save("presets", sum(cells, []), columns=2)


def species() -> list[tuple[str, Image.Image]]:
    """A bird of each species, four of a genus in a row, in the same scene."""
    found = [(s.name, birds.render(DRAWN_AS, DRAWN, SIZE, s.marks)) for s in birds.SPECIES]
    return [(name, Image.fromarray(view.image)) for name, view in found]


def contour_methods() -> list[tuple[str, Image.Image]]:
    view, image, mask = bird()
    drawn = [(method, picture(extract(image, method, blur=1.0, mask=mask))) for method in METHODS]
    return [("image", Image.fromarray(view.image)), *drawn]


def contour_transforms() -> list[tuple[str, Image.Image]]:
    _, image, mask = bird()
    contour = extract(image, Extraction().method, blur=1.0, mask=mask)
    found = [("contour", picture(contour))]
    for label, given in TRANSFORMS.items():
        warped, _, _ = transform_batch(contour, ContourTransform(**{**OFF, **given}), SEED, 1, mask)
        found.append((label, picture(warped)))
    return found


def bird() -> tuple[birds.Render, torch.Tensor, torch.Tensor]:
    """A render, its image [1, H, W, 3] and its mask [1, H, W]."""
    view = birds.render(SPECIES, DRAWN, SIZE)
    return view, torch.from_numpy(view.image)[None] / 255, torch.from_numpy(view.mask)[None] / 255


def swept(client: Client, setting: str, values: str, fixed: dict) -> list[tuple[str, float, Image.Image]]:
    """(value, probability by the judge, image) of each value of a setting, by Guidance Sweep at the same seed."""
    graph = json.loads(SWEEP.read_text("utf-8"))
    graph["2"]["inputs"]["index"] = JOB
    defaults = client.object_info("HiGFA_Guidance")["HiGFA_Guidance"]["input"]
    known = {**defaults["required"], **defaults.get("optional", {})}
    settings = {name: about[1]["default"] for name, about in known.items()}
    graph["settings"] = {"class_type": "HiGFA_Guidance", "inputs": {**settings, **fixed}}
    other, start = ("p_stop", "0.9") if setting != "p_stop" else ("eta", "1")
    grid = {"rows": other, "row_values": start, "columns": setting, "column_values": values}
    graph["40"]["inputs"] |= {**grid, "guidance": ["settings", 0]}
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["40", 2]}}
    outputs = client.wait(client.submit(graph))["outputs"]
    files = outputs["shown"]["images"]
    images = [Image.open(io.BytesIO(client.view(i["filename"], i["subfolder"], i["type"]))) for i in files]
    lines = "".join(outputs["42"]["text"]).splitlines()[2:]
    chances = [float(re.findall(r"[\d.]+", line.split("|")[3])[0]) for line in lines]
    return list(zip([value.strip() for value in values.split(",")], chances, images, strict=True))


def custom_settings() -> dict[str, float]:
    """CUSTOM as the settings of the node."""
    (text_a0, text_a1), (contour_a0, contour_a1) = CUSTOM.text, CUSTOM.contour
    ends = {"text_a0": text_a0, "text_a1": text_a1, "contour_a0": contour_a0, "contour_a1": contour_a1}
    return {**ends, "b": CUSTOM.b, "gamma": CUSTOM.gamma}


def curves_of(preset: Modulation, top: float = 3.0) -> Image.Image:
    """The shares of the three weights (up, from 0 to `top`) for a confidence from 0 to 1 (to the right)."""
    confidence = torch.linspace(0, 1, 65)
    classes = len(birds.CLASS_NAMES)
    p = 1 / classes + confidence * (1 - 1 / classes)
    rest = ((1 - p) / (classes - 1)).clamp(min=1e-9)
    entropy = -(p * p.log() + (classes - 1) * rest * rest.log())
    shares = modulation(preset, confidence, entropy, classes)
    image = Image.new("RGB", (CELL, CELL), (10, 10, 12))
    draw = ImageDraw.Draw(image)
    for (name, colour), values in zip(CURVES.items(), shares):
        heights = values.expand(len(confidence)).clamp(max=top)
        points = [(float(x) * (CELL - 1), CELL - 3 - float(y) / top * (CELL - 8)) for x, y in zip(confidence, heights)]
        width = 2 if name == "contour" else 4
        draw.line(points, fill=colour, width=width)
    font = ImageFont.load_default(14)
    for place, (name, colour) in enumerate(CURVES.items()):
        draw.text((6, 2 + 15 * place), name, fill=colour, font=font)
    return image


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8))


def save(name: str, cells: list[tuple[str, Image.Image]], columns: int, lines: int = 1, cell: int = CELL) -> None:
    """Write labelled cells as one picture, row by row; with two `lines`, a label's words are below each other."""
    step, high = cell + GAP, cell + lines * LABEL + GAP
    sheet = Image.new("RGB", (columns * step + GAP, -(-len(cells) // columns) * high + GAP), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for place, (label, image) in enumerate(cells):
        left, top = GAP + place % columns * step, GAP + place // columns * high
        sheet.paste(image.convert("RGB").resize((cell, cell), Image.Resampling.LANCZOS), (left, top))
        words = label.split(" ", lines - 1) if lines > 1 else [label]
        middle = left + cell / 2, top + cell + lines * LABEL / 2
        draw.multiline_text(middle, "\n".join(words), fill=INK, font=font, anchor="mm", align="center")
    sheet.save(PICTURES / f"{name}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
