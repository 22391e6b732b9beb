"""What a training run looked like: curves, confusion matrix, reliability diagram."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..classifier.calibrate import BINS, bins
from ..plots import figures
from ..wording import counted
from .trainer import TrainResult

SIZE = (10.0, 8.0)  # inches, at 100 dpi; one size for all, so that they make one batch
NAMED = 40  # above that many classes the matrix lists the worst confusions instead of names and counts
WORST = 12
MAX_NAME = 22
MIDDLE = (torch.arange(BINS) + 0.5) / BINS


def plots(result: TrainResult, title: str) -> dict[str, Tensor]:
    """Images [1, 800, 1000, 3] by name: "curves", and with held-out images "confusion" and "reliability"."""
    drawn = {"curves": curves(result, title)}
    if len(result.labels):
        drawn["confusion"] = confusion(result.confusion, result.classifier.class_names, title)
        drawn["reliability"] = reliability(result.logits, result.labels, result.classifier.temperature, title)
    return drawn


def curves(result: TrainResult, title: str) -> Tensor:
    """Losses and accuracy over the steps, the kept step marked -> [1, 800, 1000, 3]."""
    figure, (top, bottom) = figures.new_figure(*SIZE, rows=2, sharex=True)
    rows = result.history
    steps = [row.step for row in rows]
    top.plot(steps, [row.train_loss for row in rows], color="tab:gray", label="training (augmented, smoothed labels)")
    top.set_ylabel("loss")
    bottom.set_ylabel("accuracy")
    bottom.set_xlabel("step")
    if len(result.labels):
        top.plot(steps, [row.loss for row in rows], color="tab:blue", label="held out, at its best temperature")
        bottom.plot(steps, [row.accuracy for row in rows], color="tab:blue", marker=".", label="held out")
        best = next(row for row in rows if row.step == result.best_step)
        bottom.plot(best.step, best.accuracy, "o", color="tab:red", label=f"kept: {best.accuracy:.1%} at {best.step}")
        for axis in (top, bottom):
            axis.axvline(best.step, color="tab:red", linewidth=0.8)
        bottom.legend(loc="lower right")
    bottom.set_ylim(0, 1.02)
    top.legend(loc="upper right")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figures.to_image(figure)


def confusion(counts: Tensor, names: tuple[str, ...], title: str) -> Tensor:
    """Counts [K, K] (rows: true class) as shares of each row, and the worst confusions -> [1, 800, 1000, 3]."""
    from matplotlib.colors import PowerNorm

    named = len(names) <= NAMED
    layout: dict[str, Any] = {} if named else {"columns": 2, "width_ratios": (2, 1)}
    figure, axes = figures.new_figure(*SIZE, **layout)
    axis = axes if named else axes[0]
    names = tuple(_drawable(name, i) for i, name in enumerate(names))
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    # The square root: a single wrong image among many should still be visible.
    picture = axis.imshow(share.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axis.set_xlabel("predicted class" if named else "predicted class (its number)")
    axis.set_ylabel("true class" if named else "true class (its number)")
    if named:
        size = 9 if len(names) <= 20 else 6
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axis.set_yticks(range(len(names)), names, fontsize=size)
        for row, column in counts.nonzero().tolist():
            colour = "white" if share[row, column] > 0.3 else "black"
            number = int(counts[row, column])
            axis.text(column, row, number, ha="center", va="center", color=colour, fontsize=size)
    else:
        _list_worst(axes[1], counts, names)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.7, location="bottom")
    figure.suptitle(f"{title}, {counted(int(counts.sum()), 'held-out image')}")
    return figures.to_image(figure)


def reliability(logits: Tensor, labels: Tensor, temperature: float, title: str) -> Tensor:
    """Accuracy by confidence before and after calibration, with the images in each bin -> [1, 800, 1000, 3]."""
    figure, axes = figures.new_figure(*SIZE, rows=2, columns=2, height_ratios=(3, 1), sharex=True, sharey="row")
    for column, (heading, t) in enumerate((("before: temperature 1", 1.0), ("after", temperature))):
        total, confidence, accuracy = bins((logits.double() / t).softmax(1), labels)
        error = float((total * (accuracy - confidence).abs()).sum() / total.sum())
        label = heading if t == 1.0 else f"after: temperature {t:.3f}"
        _reliability_panel(axes[0, column], total, confidence, accuracy)
        axes[0, column].set_title(f"{label}, ECE {error:.3f}")
        axes[1, column].bar(MIDDLE.numpy(), total.numpy(), width=1 / BINS, color="tab:gray", edgecolor="white")
        axes[1, column].set_xlabel("confidence in the predicted class")
    axes[0, 0].set_ylabel("share classified correctly")
    axes[0, 0].legend(loc="upper left")
    axes[1, 0].set_ylabel("images")
    figure.suptitle(f"{title}, {counted(len(labels), 'held-out image')}")
    return figures.to_image(figure)


def _reliability_panel(axis, total: Tensor, confidence: Tensor, accuracy: Tensor) -> None:
    used = total > 0
    x, seen, right = (values[used].numpy() for values in (MIDDLE, confidence, accuracy))
    axis.bar(x, right, width=1 / BINS, color="tab:blue", edgecolor="white", label="accuracy")
    axis.plot(seen, right, "o", color="tab:red", markersize=4, label="at its mean confidence")
    axis.plot((0, 1), (0, 1), color="black", linestyle="--", linewidth=1, label="calibrated")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)


def _list_worst(axis, counts: Tensor, names: tuple[str, ...]) -> None:
    wrong = counts.clone().fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:WORST].tolist()
    pairs = [divmod(place, len(names)) for place in order if wrong.flatten()[place]]
    lines = [f"{int(wrong[i, j])} x {names[i]}\n    read as {names[j]}" for i, j in pairs] or ["none"]
    axis.text(0, 1, "Most frequent confusions\n\n" + "\n".join(lines), va="top", fontsize=9)
    axis.axis("off")


def _drawable(name: str, index: int) -> str:
    """The name where the plot's font can show it, else the class number."""
    from matplotlib.font_manager import findfont
    from matplotlib.ft2font import FT2Font

    font = FT2Font(findfont("DejaVu Sans"))  # matplotlib's own
    if not all(font.get_char_index(ord(c)) for c in name):
        return f"class {index + 1}"
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
    return short.replace("$", r"\$")  # a pair would start a formula
