"""Commands that are killed between any two steps, run twice at once, or find the clock set back: the next start makes
what a calm run makes, byte for byte."""

import shutil

import pytest

from .children import boundaries, finish, start
from .world import COMMANDS, again, check_order, command, result

pytestmark = pytest.mark.slow
BACK = -2 * 86400.0


@pytest.fixture
def place_of(made, tmp_path):
    """A new folder with copies of the images and the dataset, always of the same length of name."""

    def make(number):
        place = tmp_path / f"{number:04}"
        place.mkdir()
        for part in ("set", "real"):
            shutil.copytree(made / part, place / part)
        return place

    return make


@pytest.fixture
def calm(made, place_of, tmp_path):
    """Files of a calm run of a command, and the calls to die before."""

    def run(name):
        place = place_of(0)
        assert finish(command(name, place, made), tmp_path / "log", trace=str(tmp_path / "trace")) == 0
        return result(name, place), boundaries(tmp_path / "trace", last=name != "train-classifier")  # that takes long

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_between_any_two_steps(made, place_of, tmp_path, calm, name):
    whole, numbers = calm(name)
    assert len(numbers) >= {"report": 2, "plan": 4}.get(name, 5)
    for number in numbers:
        place, log = place_of(number + 1), tmp_path / "log"
        assert finish(command(name, place, made), log, die_before=number) == -9
        again(name, place, made, lambda words, log=log: finish(words, log))
        assert result(name, place) == whole, number
        check_order(place)


@pytest.mark.parametrize("name", COMMANDS)
def test_two_at_once(made, place_of, tmp_path, calm, name):
    whole, _ = calm(name)
    place = place_of(1)
    words = command(name, place, made)
    both = [start(words, tmp_path / f"log {number}") for number in range(2)]
    for process in both:
        process.join(120)
    assert {process.exitcode for process in both} in ({0}, {0, 1}), [p.exitcode for p in both]
    text = "".join((tmp_path / f"log {number}").read_text() for number in range(2))
    assert "Traceback" not in text, text[-3000:]
    assert result(name, place) == whole
    check_order(place)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_clock_is_set_back_after_a_kill(made, place_of, tmp_path, calm, name):
    whole, numbers = calm(name)
    place, log = place_of(1), tmp_path / "log"
    assert finish(command(name, place, made), log, die_before=numbers[len(numbers) // 2]) == -9
    again(name, place, made, lambda words: finish(words, log, clock=BACK))
    found = result(name, place)
    assert found.keys() == whole.keys()
    assert all(found[file] == whole[file] for file in whole if not file.endswith("croissant.json"))  # it has the date
    check_order(place)
