"""How many jobs a plan has, and what they start from."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import HIDDEN, Setting, Settings
from .plan import CONTOUR_FROM
from .prompts import DEFAULT


@dataclass(frozen=True)
class PlanSettings(Settings):
    """The first four are also those of Dataset Job; None: not requested."""

    prompt_template: str = Setting(DEFAULT).help(
        "The prompt. {class} is the class name without its number and underscores, {a class} the same with a or an, "
        "{index} the number of the job."
    )
    replicas: int = Setting(1, 1, 100_000, unit="images").help("Images to make from each real one.")
    plan_seed: int = Setting(0, 0, 2**31 - 1).help(
        "Changes the seeds of all jobs. The same value gives the same seeds everywhere."
    )
    contour_from: str = Setting("same", choices=CONTOUR_FROM).help(
        "Whose contour to use: the job's own image's, or that of another image of the same class."
    )
    per_class: int | None = Setting(None, 1, 10_000_000, kind=int, tier=HIDDEN).help("Images to make for every class.")
    fill_to: int | None = Setting(None, 1, 10_000_000, kind=int, tier=HIDDEN).help(
        "Real and synthetic images together in every class."
    )
    only_rare: int | None = Setting(None, 1, 10_000_000, kind=int, tier=HIDDEN).help(
        "Make images only for classes with fewer real images than this."
    )
    accepted: bool = Setting(False, tier=HIDDEN).help("Count accepted images only, and try until there are enough.")
    max_tries: int = Setting(3, 1, 1000, tier=HIDDEN).help("With --accepted: maximum number of tries per wanted image.")
