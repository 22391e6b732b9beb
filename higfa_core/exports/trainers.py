"""The class names that the trainers of other papers use, taken from their loaders.

Diff-Mix (commit a81337b) looks up a row's class among the labels of a Hub copy or in lists of its own: words with
spaces, no number. DiffDA-Eval (00f7dd8) takes CUB's name after the number and writes `_` for a space and a slash.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable

from ..files.names import matching_key
from ..files.paths import folder_name
from ..sources.source import prompt_name

# Oxford Flowers-102 in their lists.
DIFF_MIX = {"cyclamen": "cyclamen ", "hippeastrum": "hippeastrum "}
DIFFDA_EVAL = {"pink-yellow_dahlia": "pink-yellow_dahlia?"} if os.name == "posix" else {}  # Windows allows no "?"


def diff_mix_names(classes: Iterable[str]) -> dict[str, str]:
    """Class -> its name in `meta.csv`."""
    return _distinct(classes, _diff_mix_name, lambda name: name.replace("/", " "))


def diffda_eval_folders(classes: Iterable[str]) -> dict[str, str]:
    """Class -> its folder."""
    return _distinct(classes, _diffda_eval_folder, folder_name)


def _diff_mix_name(name: str) -> str:
    name = prompt_name(name).replace("/", " ")
    return DIFF_MIX.get(name, name)


def _diffda_eval_folder(name: str) -> str:
    name = prompt_name(name).replace("/", "_").replace(" ", "_")
    return DIFFDA_EVAL.get(name) or folder_name(name)


def _distinct(classes: Iterable[str], call: Callable[[str], str], own: Callable[[str], str]) -> dict[str, str]:
    """The name of each class; where two would share one, both keep their names in the dataset."""
    names = {name: call(name) for name in classes}
    twins = Counter(map(matching_key, names.values()))
    return {name: found if twins[matching_key(found)] == 1 else own(name) for name, found in names.items()}
