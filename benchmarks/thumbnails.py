"""The pictures on the cards of the templates: what the miniature's templates make, and where a dataset begins.

    python run.py serve                                        (in another terminal)
    python run.py exec -- python benchmarks/thumbnails.py [--server http://127.0.0.1:8188]

Writes workflows/*.jpg.
"""

import argparse
import io
import json
from pathlib import Path

from PIL import Image

from higfa_core.batch.client import Client
from higfa_core.plans.templates import TITLES

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
SIDE, GAP, QUALITY = 160, 6, 88
BACKGROUND = (24, 24, 27)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    client = Client(parser.parse_args().server)
    results = [made(client, "miniature_augment", index, ("20", 0))[0] for index in (1, 3, 6, 8, 9, 12, 5, 14)]
    save("miniature_augment", results, columns=4)
    pairs = [made(client, "miniature_compare", index, ("27", 0)) for index in (6, 9)]
    save("miniature_compare", [image for three in pairs for image in three], columns=3)
    save("miniature_three_ways", made(client, "miniature_three_ways", 8, ("26", 0)), columns=3)
    save("miniature_sweep", made(client, "miniature_sweep", 6, ("40", 2)), columns=3)
    steps = [("2", 0), ("3", 0), ("4", 0), ("20", 0)]  # real image, contour, warped contour, result
    save("controlnet_augment", [made(client, "miniature_augment", i, s)[0] for i in (6, 9) for s in steps], columns=4)
    save("miniature_app", [made(client, "miniature_app", i, ("20", 0))[0] for i in range(16, 28)], columns=4)
    real = [made(client, "miniature_augment", i, ("2", 0))[0] for i in (1, 3, 6, 8)]  # learned from, and made
    save("controlnet_train", real + results[:4], columns=4)


def made(client: Client, name: str, index: int, output: tuple[str, int]) -> list[Image.Image]:
    """The images that an output of a node of a template gives for a job."""
    graph = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text("utf-8"))
    for about in graph.values():
        if about["class_type"] == "HiGFA_DatasetJob":
            about["inputs"]["index"] = index
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": list(output)}}
    shown = client.wait(client.submit(graph))["outputs"]["shown"]["images"]
    return [Image.open(io.BytesIO(client.view(i["filename"], i["subfolder"], i["type"]))) for i in shown]


def save(name: str, images: list[Image.Image], columns: int) -> None:
    rows = -(-len(images) // columns)
    step = SIDE + GAP
    sheet = Image.new("RGB", (columns * step + GAP, rows * step + GAP), BACKGROUND)
    for place, image in enumerate(images):
        small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(small, (GAP + place % columns * step, GAP + place // columns * step))
    sheet.save(WORKFLOWS / f"{TITLES[name]}.jpg", quality=QUALITY)


if __name__ == "__main__":
    main()
