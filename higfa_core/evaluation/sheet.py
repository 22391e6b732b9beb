"""The audit sheet: the measures of a dataset as a self-contained page, as Markdown and as JSON."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from ..exports.markdown import bullets, inline, table
from ..exports.report import data_uri, template
from ..files.atomic import write_atomic
from ..plots.figures import new_figure, to_image
from .audit import MEASURES, Audit
from .limits import Limit

NAME = "evaluation"
SHOWN = 24  # pictures in a row of examples
SHARES = {"label_error", "guide", "judge", "precision", "recall", "coverage", "authenticity", "marked"}


def write_sheet(out: Path, title: str, found: Audit, limits: Sequence[Limit], broken: Sequence[Limit]) -> list[Path]:
    """Write `evaluation.html`, `.md` and `.json` into the folder `out`; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    pages = {
        "html": _html(title, found, limits, broken),
        "md": _markdown(title, found, limits, broken),
        "json": json.dumps(_values(found, limits, broken), ensure_ascii=False, indent=1) + "\n",
    }
    for kind, text in pages.items():
        write_atomic(out / f"{NAME}.{kind}", text.encode())
    return [out / f"{NAME}.{kind}" for kind in pages]


def lines(found: Audit) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of every measure; what was not measured is a dash."""
    return [(name, in_words(name, found.measures[name]), meaning) for name, meaning in MEASURES.items()]


def in_words(name: str, value: float | None) -> str:
    """A measure as a person would write it."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    if any(name.startswith(start) for start in SHARES):
        return f"{value:.1%}"
    return f"{value:.3g}"


def _values(found: Audit, limits: Sequence[Limit], broken: Sequence[Limit]) -> dict:
    return {
        "measures": found.measures,
        "limits": {str(limit): "broken" if limit in broken else "kept" for limit in limits},
        "features": found.looked_with,
        "judge": found.judged_by,
        "notes": found.notes,
        "classes": found.classes,
        "spectrum_decibels": found.decibels.tolist(),
        "images": found.images,
    }


def _markdown(title: str, found: Audit, limits: Sequence[Limit], broken: Sequence[Limit]) -> str:
    parts = [f"# {inline(title)}", bullets(map(inline, _facts(found)))]
    if limits:
        parts.append(table(("limit", "result"), [(str(x), "broken" if x in broken else "kept") for x in limits]))
    parts.append(table(("measure", "value", "meaning"), lines(found)))
    parts.append(table(("class", *_columns(found)), _class_rows(found)))
    return "\n\n".join(parts) + "\n"


def _html(title: str, found: Audit, limits: Sequence[Limit], broken: Sequence[Limit]) -> str:
    plots = {"distance to the nearest real image": _distances(found), "power against real images": _spectrum(found)}
    return template(f"{NAME}.html", Path(__file__).parent).render(
        title=title,
        facts=_facts(found),
        limits=[(str(limit), limit in broken) for limit in limits],
        lines=lines(found),
        plots=[(name, _png(image)) for name, image in plots.items()],
        wrong=[_picture(image) for image in _wrong(found)],
        closest=[(_picture(image), _real(image)) for image in _nearest(found)],
        columns=_columns(found),
        classes=_class_rows(found),
    )


def _facts(found: Audit) -> list[str]:
    return [f"Features: {found.looked_with}.", f"{found.judged_by[:1].upper()}{found.judged_by[1:]}.", *found.notes]


def _columns(found: Audit) -> list[str]:
    names = dict.fromkeys(name for row in found.classes.values() for name in row)
    return [name.replace("_", " ") for name in names]


def _class_rows(found: Audit) -> list[tuple[str, ...]]:
    names = list(dict.fromkeys(name for row in found.classes.values() for name in row))
    return [(name, *(in_words(key, row.get(key)) for key in names)) for name, row in found.classes.items()]


def _wrong(found: Audit) -> list[dict]:
    """The images that the judge is surest are another class."""
    wrong = [image for image in found.images if image.get("judge_right") is False]
    return sorted(wrong, key=lambda image: image["judge_probability"])[:SHOWN]


def _nearest(found: Audit) -> list[dict]:
    return sorted(found.images, key=lambda image: image["distance"])[: SHOWN // 2]


def _picture(image: dict) -> dict:
    words = [image["class"]]
    if "judge_sees" in image:
        words.append(f"judge: {image['judge_sees']}")
    about = f"{Path(image['file']).name}: {', '.join(words)}, distance {image['distance']:.3g}"
    return {"data": data_uri(Path(image["file"])), "kind": "accepted", "words": words, "about": about}


def _real(image: dict) -> dict:
    path = Path(image["nearest_real"])
    return {"data": data_uri(path), "kind": "real", "words": [f"distance {image['distance']:.3g}"], "about": path.name}


def _distances(found: Audit) -> Tensor:
    figure, axes = new_figure(6, 3.4)
    for name, values in found.distances.items():
        axes.hist(values.numpy(), bins=30, alpha=0.55, density=True, label=name)
    axes.set(xlabel="distance in features", ylabel="density")
    axes.legend(frameon=False)
    return to_image(figure)


def _spectrum(found: Audit) -> Tensor:
    figure, axes = new_figure(6, 3.4)
    axes.plot(range(1, len(found.decibels) + 1), found.decibels.numpy())
    axes.axhline(0, color="#444444", linestyle=":")
    axes.set(xlabel="frequency, waves across the image", ylabel="synthetic / real, dB")
    return to_image(figure)


def _png(image: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray((image[0] * 255).round().byte().numpy()).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
