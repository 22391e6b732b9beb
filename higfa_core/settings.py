"""One declaration per setting: default, range, step, tier, unit and help text stand on the field of a dataclass.

    eta: float = Setting(0.25, 0, 10, step=0.05).help("Strength of the classifier's step. 0 only measures.")

The check of the range is derived here, the widget in `nodes/widgets.py`, the command-line option in
`commands/options.py` and the list of the help page in `tests/help_tables.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

BASIC, ADVANCED, HIDDEN = "basic", "advanced", "hidden"


@dataclass(frozen=True)
class Setting:
    """What is known about one setting.

    Args:
        default: None where nothing is asked for unless it is given.
        low, high: the range of a number, both ends included.
        kind: bool, int, float or str; by default the type of `default`.
        choices: the values to choose from.
        step: by how much a widget changes the number.
        round: what a widget rounds the number to; False for no rounding.
        tier: `BASIC`, `ADVANCED` (a widget shown on demand) or `HIDDEN` (no widget).
        unit: for instance "pixels".
        usual: typical values, for the help page.
        optional: a workflow may lack it: it was saved before the setting existed.
        name: of the field and the widget; of the option with dashes. Set by `settings_of`.
        text: set by `help`.
    """

    default: Any
    low: float | None = None
    high: float | None = None
    _: KW_ONLY
    kind: type = type(None)
    choices: tuple = ()
    step: float | None = None
    round: float | bool | None = None
    tier: str = BASIC
    unit: str = ""
    usual: str = ""
    optional: bool = False
    name: str = ""
    text: str = ""

    def help(self, text: str) -> Any:
        """The field of a dataclass, with one to three sentences for the tooltip, the option and the help page."""
        kind = type(self.default) if self.default is not None else self.kind
        return dataclasses.field(default=self.default, metadata={"setting": replace(self, kind=kind, text=text)})

    @property
    def values(self) -> str:
        """The values it can have, in words: those to choose from, or the range."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return "" if self.low is None or self.high is None else f"{_plain(self.low)} to {_plain(self.high)}"

    def check(self, value: object) -> None:
        """ValueError when it cannot have this value."""
        if not self._allows(value):
            kinds = {int: "a whole number from ", float: "a number from ", bool: "on or off", str: "text"}
            form = "one of " if self.choices else kinds[self.kind]
            raise ValueError(f"Invalid {self.name}: {value!r}. Choose {form}{self.values}.")

    def _allows(self, value: Any) -> bool:
        if value is None:
            return self.default is None
        if self.choices:
            return value in self.choices
        if self.low is None or self.high is None:
            return value in (True, False) if self.kind is bool else isinstance(value, self.kind)
        number = issubclass(type(value), Real)
        return number and self.low <= value <= self.high and (self.kind is float or value % 1 == 0)


class Settings:
    """Base of the dataclasses whose fields are declared with `Setting`. ValueError for a value out of range."""

    def __post_init__(self):
        for item in settings_of(type(self)):
            item.check(getattr(self, item.name))

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> Self:
        """The settings found under their names in `values`; where there is none, or None, the default."""
        names = [item.name for item in settings_of(cls)]
        return cls(**{name: value for name in names if (value := values.get(name)) is not None})


def settings_of(cls: type, *names: str) -> list[Setting]:
    """The settings of a dataclass in the order of its fields, or those named, in that order."""
    known = {field.name: field.metadata["setting"] for field in dataclasses.fields(cls) if field.metadata}
    return [replace(known[name], name=name) for name in names or known]


def in_words(value: Any) -> str:
    """A value as a person would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else str(number)
