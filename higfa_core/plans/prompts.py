"""Prompt templates with named fields; which variant a job gets is a pure function of the job."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..sources.source import ClassInfo
from ..wording import with_article

FIELDS = ("class", "a class", "super", "a super", "background", "style", "index")
DEFAULT = "a photo of {a class}"


@dataclass(frozen=True)
class Prompts:
    """Templates and the lists that fill them.

    `{class}` is the class as a prompt spells it, `{super}` what it is a kind of (`super_class`, or the layout's own),
    `{a class}` and `{a super}` are the same with "a" or "an"; `{background}` and `{style}` are entries of these lists,
    `{index}` is the job's number. A template has `{class}` or `{a class}`.
    """

    templates: tuple[str, ...] = (DEFAULT,)
    backgrounds: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    super_class: str = ""

    def __post_init__(self):
        if not self.templates:
            raise ValueError(f"A plan needs at least one prompt template, for example {DEFAULT!r}.")
        for template in self.templates:
            used = check_template(template)
            for name, values in (("background", self.backgrounds), ("style", self.styles)):
                if name in used and not values:
                    raise ValueError(f"Prompt {template!r} has {{{name}}}, but no {name}s are given. Add a list.")
        for name, values in (("background", self.backgrounds), ("style", self.styles)):
            if values and not any(f"{{{name}}}" in template for template in self.templates):
                raise ValueError(f"{name}s are given, but no prompt has {{{name}}}. Add it to a prompt.")

    @property
    def variants(self) -> int:
        """How many different prompts one class may get."""
        return len(self.templates) * max(1, len(self.backgrounds)) * max(1, len(self.styles))

    def check_classes(self, classes: Sequence[ClassInfo]) -> None:
        """ValueError when a template wants `{super}` of a class that has none."""
        lacking = [info.name for info in classes if not (self.super_class or info.super_class)]
        if lacking and any("super}" in template for template in self.templates):
            raise ValueError(f"Class {lacking[0]!r} has no super-class for {{super}}. Give one for all classes.")

    def render(self, info: ClassInfo, index: int, draw: int) -> str:
        """The prompt of job `index`; `draw`, a large random number, picks the variants."""
        parts = {"class": info.prompt, "super": self.super_class or info.super_class, "index": index}
        parts |= {f"a {name}": with_article(str(parts[name])) for name in ("class", "super")}
        draw, choice = divmod(draw, len(self.templates))
        for name, values in (("background", self.backgrounds), ("style", self.styles)):
            if values:
                draw, position = divmod(draw, len(values))
                parts[name] = values[position]
        return self.templates[choice].format(**parts)


def check_template(template: str) -> set[str]:
    """The fields of a template. ValueError unless `{class}` is one and all others are known."""
    valid = ", ".join(f"{{{name}}}" for name in FIELDS)
    try:
        parsed = string.Formatter().parse(template)
        used = [(name, spec, conversion) for _, name, spec, conversion in parsed if name is not None]
    except ValueError as error:
        raise ValueError(f"prompt_template {template!r}: {error}. Write a literal brace twice.") from error
    for name, spec, conversion in used:
        if name not in FIELDS or spec or conversion:
            raise ValueError(f"prompt_template has an unknown placeholder: {{{name}}}. Use {valid}.")
    if not {"class", "a class"} & {name for name, _, _ in used}:
        raise ValueError(
            f"prompt_template {template!r} names no class. Put {{class}} where the name goes, or {{a class}} for the "
            'name with "a" or "an".'
        )
    return {name for name, _, _ in used}


def read_lines(path: str | Path) -> tuple[str, ...]:
    """The lines of a text file, without empty lines and `#` comments. ValueError when none is left."""
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read the list {path} ({error}). Give a UTF-8 text file.") from error
    if not (kept := tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))):
        raise ValueError(f"The list {path} has no entries. Write one on each line.")
    return kept
