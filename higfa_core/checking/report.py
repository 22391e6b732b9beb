"""The numbers of a check as a table and as a plot."""

from __future__ import annotations

from torch import Tensor

from ..plots.figures import new_figure, to_image
from .verdict import REAL, TINY, VAE, Check, Reading, loss, p_value, percentage

COLOURS = {REAL: "#666666", VAE: "#2f6db3", TINY: "#d9822b"}
HEAD = ("stage", "n", "accuracy", "95 % interval", "p(true class)", "lost against", "McNemar")


def table(check: Check) -> str:
    """One line per stage; the last two columns compare it with the stage before it, on the same images."""
    rows = [HEAD, *(_row(check, reading) for reading in check.readings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = [f"{row[0]:<{widths[0]}}" + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:])) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def plot(check: Check, title: str = "") -> Tensor:
    """Accuracy by stage and, where measured, by noise level: [1, H, W, 3] float32 in 0..1."""
    noisy = any(reading.sigma is not None for reading in check.readings)
    figure, axes = new_figure(
        11 if noisy else 5, 5.5 if noisy else 4.5, columns=2 if noisy else 1, squeeze=False, sharey=True
    )
    figure.suptitle(title, parse_math=False)
    _draw_stages(axes[0, 0], check)
    if noisy:
        _draw_noise(axes[0, 1], check)
    return to_image(figure)


def _row(check: Check, reading: Reading) -> tuple[str, ...]:
    low, high = reading.interval
    name = reading.stage if reading.sigma is None else f"sigma {reading.sigma:.3g}, {reading.stage}"
    numbers = (f"{reading.accuracy:.1%}", f"{low:.1%} to {high:.1%}", f"{reading.mean_probability:.1%}")
    base = _base(check, reading)
    if base is None:
        return (name, str(reading.n), *numbers, "", "")
    cost = loss(base, reading)
    return (name, str(reading.n), *numbers, f"{100 * cost.points:+.1f} {base.stage}", p_value(cost.p))


def _base(check: Check, reading: Reading) -> Reading | None:
    """What a reading is compared with: noise levels with their decoder, the tiny decoder with the VAE."""
    before = reading.stage if reading.sigma is not None else {VAE: REAL, TINY: VAE}.get(reading.stage)
    return check.clean(before) if before else None


def _draw_stages(axes, check: Check) -> None:
    stages = [reading for reading in check.readings if reading.sigma is None]
    for x, reading in enumerate(stages):
        low, high = reading.interval
        error = [[reading.accuracy - low], [high - reading.accuracy]]
        colour = COLOURS[reading.stage]
        axes.bar(x, reading.accuracy, 0.6, yerr=error, capsize=6, color=colour, alpha=0.55, ecolor="#222222")
        axes.plot(x, reading.mean_probability, "D", color="white", markeredgecolor="#222222")
    axes.set_xticks(range(len(stages)), [f"{r.stage}\n{percentage(r.accuracy)}, n={r.n}" for r in stages])
    axes.set_ylim(0, 1.05)
    axes.set_ylabel("accuracy (bar), p of the true class (diamond)")
    axes.axhline(1 / check.classes, color="#444444", linestyle=":")
    axes.text(-0.48, 1 / check.classes, "chance", va="bottom", ha="left")
    axes.set_xlim(-0.5, len(stages) - 0.5)


def _draw_noise(axes, check: Check) -> None:
    for stage in (VAE, TINY):
        levels, colour = check.noisy(stage), COLOURS[stage]
        if not levels:
            continue
        sigmas = [reading.sigma for reading in levels]
        low, high = zip(*(reading.interval for reading in levels))
        axes.fill_between(sigmas, low, high, color=colour, alpha=0.15)
        axes.plot(sigmas, [r.accuracy for r in levels], "o-", color=colour, label=f"accuracy, {stage}")
        p = [reading.mean_probability for reading in levels]
        axes.plot(sigmas, p, "D--", color=colour, markerfacecolor="white", label=f"p of the true class, {stage}")
    vae = check.noisy(VAE)
    if clean := check.clean(VAE):
        axes.axhline(check.needed(clean), color="#b03030", linestyle="--", label="accuracy needed")
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.set_xticks([r.sigma for r in vae], [f"{r.sigma:.2g}\n{r.percent:.2f}" for r in vae])
    axes.minorticks_off()
    axes.set_xlabel("noise level: sigma, and as start_percent (sampling runs to the right)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
