"""What a classifier sees in images: one line per image, and a plot of each image's most probable classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .figures import new_figure, to_image

SHOWN = 30  # images in a plot
COLUMNS = 3
CELL = (4.2, 1.8)  # inches, thumbnail and bars
SIDE = 1.5  # of a thumbnail
THUMBNAIL = 192  # pixels
GREEN, GREY, RED = "#3f9b58", "#b9c2cc", "#c64a4a"


def confidences(proba: Tensor, targets: Sequence[int] | None) -> Tensor:
    """Probabilities [B, K] -> [B]: of each image's target, or of its most probable class."""
    return proba.amax(dim=1) if targets is None else proba[range(len(proba)), list(targets)]


def confidence_table(
    proba: Tensor, class_names: Sequence[str], targets: Sequence[int] | None, k: int = 3, min_confidence: float = 0.0
) -> str:
    """One line per image: the k most probable classes, the target, pass or reject; the mean confidence last."""
    confidence = confidences(proba, targets)
    passed = confidence >= min_confidence
    lines = []
    for i, row in enumerate(proba):
        parts = [", ".join(f"{class_names[c]} {p:.1%}" for c, p in top_k(row, k))]
        if targets is not None:
            parts.append(f"{class_names[targets[i]]}: {confidence[i]:.1%}")
        if min_confidence > 0:
            parts.append("pass" if passed[i] else "reject")
        lines.append(f"{i + 1}: {' | '.join(parts)}")
    if min_confidence > 0:
        lines.append(f"{int(passed.sum())} of {len(proba)} pass (at least {min_confidence:.1%})")
    return "\n".join([*lines, f"mean of {len(proba)}, {_label(class_names, targets)}: {confidence.mean():.1%}"])


def top_k(row: Tensor, k: int) -> list[tuple[int, float]]:
    """The k most probable classes of one image and their probabilities, in descending order."""
    top = row.topk(min(k, len(row)))
    return list(zip(top.indices.tolist(), top.values.tolist()))


def top_k_plot(
    images: Sequence[Tensor],
    proba: Tensor,
    class_names: Sequence[str],
    targets: Sequence[int] | None,
    k: int = 3,
    min_confidence: float = 0.0,
) -> Tensor:
    """Each image [H, W, 3] with its most probable classes as bars: [1, H', W', 3] float32 in 0..1.

    The target's bar is green, and is appended if it is not among the k. With `min_confidence` the frame is green for
    pass, red for reject. At most SHOWN images are drawn.
    """
    count = min(len(images), SHOWN)
    columns = min(COLUMNS, count)
    width, height = CELL[0], max(CELL[1], 0.25 * (k + 2))
    figure, axes = new_figure(width * columns, height * -(-count // columns) + 0.3)
    passed = confidences(proba, targets) >= min_confidence
    for i in range(count):
        corner = (i % columns * width, i // columns * height)
        frame = (GREEN if passed[i] else RED) if min_confidence > 0 else None
        _draw_thumbnail(axes, corner, images[i], i + 1, frame)
        _draw_bars(axes, corner, height, proba[i], class_names, None if targets is None else targets[i], k)
    # A single axes in inches: one per image would take seconds.
    axes.set(xlim=(0, width * columns), ylim=(height * -(-count // columns), 0), aspect="equal")
    axes.axis("off")
    if count < len(images):
        figure.suptitle(f"first {count} of {len(images)} images")
    return to_image(figure)


def _label(class_names: Sequence[str], targets: Sequence[int] | None) -> str:
    if targets is None:
        return "most probable class"
    return class_names[targets[0]] if len(set(targets)) == 1 else "target class"


def _draw_thumbnail(axes, corner: tuple[float, float], image: Tensor, number: int, frame: str | None) -> None:
    scale = THUMBNAIL / max(image.shape[:2])
    x = image.float().movedim(-1, 0)[None]
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[:2]]
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    high, wide = (SIDE * side / max(image.shape[:2]) for side in image.shape[:2])
    left, top = corner[0] + 0.05, corner[1] + 0.22
    pixels = x[0].movedim(0, -1).clamp(0, 1).numpy()
    axes.imshow(pixels, extent=(left, left + wide, top + high, top), interpolation="nearest")
    axes.text(left, top - 0.04, str(number), fontsize=9, va="bottom")
    if frame:
        outline = [left, left + wide, left + wide, left, left], [top, top, top + high, top + high, top]
        axes.plot(*outline, color=frame, linewidth=4)


def _draw_bars(axes, corner, height: float, row: Tensor, class_names, target: int | None, k: int) -> None:
    shown = top_k(row, k)
    if target is not None and target not in [c for c, _ in shown]:
        shown.append((target, float(row[target])))
    left, full, pitch = corner[0] + SIDE + 0.15, CELL[0] - SIDE - 0.3, min(0.4, (height - 0.25) / len(shown))
    ys = [corner[1] + 0.22 + (i + 0.45) * pitch for i in range(len(shown))]
    colours = [GREEN if c == target else GREY for c, _ in shown]
    axes.barh(ys, full, 0.85 * pitch, left=left, color="#eef0f3")
    axes.barh(ys, [p * full for _, p in shown], 0.85 * pitch, left=left, color=colours)
    for y, (c, p) in zip(ys, shown):
        name = class_names[c] if len(class_names[c]) <= 30 else f"{class_names[c][:29]}…"
        weight = "bold" if c == target else "normal"
        axes.text(left + 0.05, y, f"{p:.0%}  {name}", va="center", fontsize=9, fontweight=weight, parse_math=False)
