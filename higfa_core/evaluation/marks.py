"""What a file says about its own origin: marks that generators, tools and standards leave in images."""

from __future__ import annotations

import io
from pathlib import Path

from ..files.opening import opened
from ..files.reading import read_bytes

# IPTC's digital source types of what a model made, wholly or in part
MADE = (b"trainedAlgorithmicMedia", b"compositeWithTrainedAlgorithmicMedia")
C2PA = (b"jumbf", b"c2pa")  # a manifest of content credentials names both
TEXTS = {"prompt": "workflow", "workflow": "workflow", "parameters": "parameters"}  # ComfyUI; other tools
MARK, CREDENTIALS = "IPTC mark", "content credentials"


def marks_of(path: Path) -> set[str]:
    """The marks of generated images in a file: `IPTC mark`, `content credentials`, `workflow`, `parameters`."""
    content = read_bytes(path)
    found = {MARK} if any(mark in content for mark in MADE) else set()
    if all(word in content for word in C2PA):
        found.add(CREDENTIALS)
    with opened(io.BytesIO(content)) as image:
        return found | {name for text, name in TEXTS.items() if text in image.info}
