"""Draws a Trace: probability and confidence, the three weights and the classifier's step against the noise level."""

import textwrap
from typing import Any

import torch

from ..guidance.trace import Trace
from .figures import new_figure, to_image

MOST_LINES = 8
STAGE = {"color": "tab:orange", "alpha": 0.12}


def plot_trace(trace: Trace) -> torch.Tensor:
    """[1, H, W, 3] image in 0..1. The noise level falls from left to right, the final stage is shaded.

    Every sample has the same colour in all panels; dots are the calls at which the classifier was evaluated.
    """
    figure, axes = new_figure(9, 9, rows=3, sharex=True)
    _stages(axes, trace)
    for i in range(min(len(trace.targets), MOST_LINES)):
        _sample(axes, trace, i)
    _weights_of_the_fixed_stage(axes[1], trace)
    _labels(axes, trace)
    figure.suptitle(textwrap.fill(trace.summary(), 110), fontsize=9)
    return to_image(figure)


def _stages(axes, trace):
    levels = [s for s in trace.sigmas if s > 0]
    on, off = trace.window
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlim(max(levels) * 1.1, min(levels) / 1.1)
        ax.axvspan(min(on, max(levels)), max(off, min(levels) / 1.1), **STAGE)
        ax.grid(alpha=0.3)
    for x, side, text, color in (
        (0.01, "left", "fixed strengths", "gray"),
        (0.99, "right", "final stage shaded", STAGE["color"]),
    ):
        axes[2].text(x, 0.95, text, transform=axes[2].transAxes, va="top", ha=side, fontsize=8, color=color)


def _sample(axes, trace, i):
    calls, color = trace.calls, f"C{i}"
    sigmas = [c.sigma for c in calls]
    looked = [k for k, c in enumerate(calls) if c.evaluated]

    def line(ax, name, **style):
        values = [getattr(c, name)[i] for c in calls]
        ax.plot(sigmas, values, color=color, marker="o", markersize=4, markevery=looked, **style)

    line(axes[0], "probability", label=trace.targets[i])
    line(axes[0], "confidence", linestyle=":")
    if calls and calls[0].w_text is not None:
        line(axes[1], "w_text")
        line(axes[1], "w_contour", linestyle="--")
    line(axes[1], "w_cls", linestyle=":")
    line(axes[2], "step_rms")


def _weights_of_the_fixed_stage(ax, trace):
    if trace.w_text is None:
        return
    span = [max(trace.sigmas), min(trace.window[0], max(trace.sigmas))]
    ax.plot(span, [trace.w_text] * 2, color="gray")
    ax.plot(span, [trace.w_contour] * 2, color="gray", linestyle="--")


def _labels(axes, trace):
    from matplotlib.lines import Line2D

    def legend(ax, **names):
        styles: dict[str, Any] = {"solid": "-", "dashed": "--", "dotted": ":"}
        lines = [Line2D([], [], color="gray", linestyle=styles[k], label=v) for k, v in names.items()]
        ax.add_artist(ax.legend(handles=lines, loc="lower left", fontsize=8))

    legend(axes[0], solid="probability of the target", dotted="confidence (smoothed)")
    if trace.w_text is None:
        legend(axes[1], dotted="classifier")
    else:
        legend(axes[1], solid="text", dashed="contour", dotted="classifier")
    if trace.calls:
        axes[0].legend(loc="center left", fontsize=8, title="target")
    hidden = len(trace.targets) - MOST_LINES
    more = f" (first {MOST_LINES} of {len(trace.targets)} samples)" if hidden > 0 else ""
    axes[0].set(ylabel="probability, confidence" + more, ylim=(-0.03, 1.03))
    axes[1].set(ylabel="weight")
    axes[1].set_ylim(bottom=0)
    axes[2].set(ylabel="size of the step (RMS)", xlabel="noise level sigma, falling")
    axes[2].set_ylim(bottom=0)
