"""One declaration per setting: what is derived from it is what it says."""

import argparse
import math
from dataclasses import dataclass, fields, replace

import pytest

from higfa_core.checking.settings import CheckSettings
from higfa_core.commands.options import add_options, given
from higfa_core.contour import ContourTransform, Extraction
from higfa_core.evaluation.settings import EvaluationSettings
from higfa_core.evaluation.tuning import TuneSettings
from higfa_core.guidance.settings import Guidance, NoiseLevels, Sampling, SamplingPart
from higfa_core.guidance.sweep import SweepGrid
from higfa_core.plans.rules import Rules
from higfa_core.plans.settings import PlanSettings
from higfa_core.settings import ADVANCED, HIDDEN, Setting, Settings, settings_of
from higfa_core.training.settings import TrainOptions, TrainSettings

DECLARED = (
    *(Guidance, Sampling, SamplingPart, NoiseLevels, CheckSettings, ContourTransform, Extraction),
    *(TrainSettings, TrainOptions, PlanSettings, Rules, EvaluationSettings, TuneSettings, SweepGrid),
)


@dataclass(frozen=True)
class Toy(Settings):
    share: float = Setting(0.5, 0, 1, step=0.1).help("A share.")
    count: int = Setting(3, 1, 2_000, tier=ADVANCED, unit="images").help("How many; 50 % is usual.")
    colour: str = Setting("red", choices=("red", "blue"), tier=HIDDEN).help("Which.")
    loud: bool = Setting(False).help("Whether.")
    limit: int | None = Setting(None, 1, 9, kind=int).help("Most.")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("share", 1.5, "a number from 0 to 1"),
        ("share", math.nan, "a number from 0 to 1"),
        ("share", "0.5", "a number from 0 to 1"),
        ("share", None, "a number from 0 to 1"),
        ("count", 0, "a whole number from 1 to 2,000"),
        ("count", 2.5, "a whole number from 1 to 2,000"),
        ("colour", "green", "one of red, blue"),
        ("loud", 2, "on or off"),
        ("limit", 10, "a whole number from 1 to 9"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_remedy(name, value, remedy):
    with pytest.raises(ValueError) as error:
        Toy(**{name: value})
    assert str(error.value) == f"Invalid {name}: {value!r}. Choose {remedy}."


def test_the_ends_of_a_range_are_in_it():
    assert Toy(share=0, count=2_000, limit=9, colour="blue", loud=True).share == 0
    assert Toy(share=1, limit=None).limit is None


def test_values_are_picked_by_name():
    assert Toy.pick({"share": 0.25, "count": None, "other": 7}) == Toy(share=0.25)
    with pytest.raises(ValueError, match="Invalid count: 0"):
        Toy.pick({"count": 0})


def test_options_are_the_settings(capsys):
    parser = argparse.ArgumentParser()
    add_options(parser, Toy, count=7)
    args = parser.parse_args(["--share", "0.25", "--no-loud"])
    assert vars(args) == {"share": 0.25, "count": 7, "colour": "red", "loud": False, "limit": None}
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--count IMAGES How many; 50 % is usual. (default: 7)" in shown
    assert "Whether. (default: off)" in shown and "--colour {red,blue}" in shown


def test_options_that_are_not_given_are_told_apart():
    parser = argparse.ArgumentParser()
    add_options(parser, Toy, "share", "loud", unset="the workflow's")
    assert given(Toy, parser.parse_args([])) == {}
    assert given(Toy, parser.parse_args(["--share", "0", "--no-loud"])) == {"share": 0.0, "loud": False}


@pytest.mark.parametrize("cls", DECLARED, ids=lambda cls: cls.__name__)
def test_every_declaration_is_whole(cls):
    items = settings_of(cls)
    assert [item.name for item in items] == [field.name for field in fields(cls)]
    assert cls.pick({}) == cls()
    for item in items:
        item.check(item.default)
        assert item.text.endswith(".") and item.kind in (bool, int, float, str), item
        if item.low is not None and item.default is not None:
            assert isinstance(item.default, item.kind) and item.kind in (int, float), item
            for beyond in (item.low - 1, item.high + 1):
                with pytest.raises(ValueError, match=f"Invalid {item.name}: {beyond}"):
                    replace(cls(), **{item.name: beyond})
