"""The icon and the banner of the registry: a drawn bird, its contour, and both together.

    python run.py exec -- python benchmarks/icon.py

Writes web/icon.png and web/banner.png.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from higfa_core.contour import extract
from higfa_core.miniature import birds

WEB = Path(__file__).resolve().parent.parent / "web"
SPECIES, DRAWN, SIZE = 13, 12, 256
ICON, BANNER = 256, (1260, 540)  # a square of at most 400 pixels, and 21:9
DARK, INK, FAINT = (24, 24, 27), (245, 245, 245), (165, 170, 180)


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    view = birds.render(SPECIES, DRAWN, SIZE)
    image, mask = torch.from_numpy(view.image)[None] / 255, torch.from_numpy(view.mask)[None] / 255
    lines = extract(image, "soft", blur=1.5, mask=mask)[0].numpy()
    left = np.arange(SIZE) < SIZE / 2  # one half drawn, the other half its contour
    half = np.where(left[None, :, None], lines, image[0].numpy())
    icon = picture(half)
    icon.resize((ICON, ICON)).save(WEB / "icon.png", optimize=True)
    banner = Image.new("RGB", BANNER, DARK)
    for place, part in enumerate((view.image / 255, lines, half)):
        banner.paste(picture(part).resize((300, 300), Image.Resampling.LANCZOS), (150 + 330 * place, 60))
    draw = ImageDraw.Draw(banner)
    draw.text((630, 425), "HiGFA", fill=INK, font=ImageFont.load_default(56), anchor="mm")
    words = "text, contour and classifier guidance for fine-grained training images"
    draw.text((630, 485), words, fill=FAINT, font=ImageFont.load_default(28), anchor="mm")
    banner.quantize(128).save(WEB / "banner.png", optimize=True)


def picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


if __name__ == "__main__":
    main()
