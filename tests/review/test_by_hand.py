"""Verdicts by hand: recorded with a date, taken back, and obeyed by filter, quotas and export."""

from datetime import datetime, timezone

import pytest

from higfa_core.exports.collection import read_collection
from higfa_core.plans.rules import Rules
from higfa_core.review.filtering import decide_by_hand, refilter
from higfa_core.store.manifest import Manifest

from .making import accepted, last_rows, make_dataset, png

SCORES = [{"confidence": value, "rank": 1, "margin": 0.1} for value in (0.9, 0.8, 0.3, 0.2)]


@pytest.fixture
def folder(tmp_path):
    make_dataset(tmp_path / "set", SCORES)
    return tmp_path / "set"


def image(folder, number):
    row = Manifest(folder).rows()[number]
    return row["key"], row["index"]


def decide(folder, number, verdict):
    return decide_by_hand(Manifest(folder), [image(folder, number)], verdict)


def test_a_verdict_is_a_row_with_a_date_and_moves_the_image(folder):
    before = datetime.now(timezone.utc).replace(microsecond=0)
    decide(folder, 0, False)
    (row,) = last_rows(folder, 1)
    assert row["human"]["accepted"] is False and row["reason"] == "rejected by hand" and not row["accepted"]
    assert before <= datetime.fromisoformat(row["human"]["at"]) <= datetime.now(timezone.utc)
    assert accepted(folder) == [1, 2, 3]
    assert [item.row["seed"] for item in read_collection([folder]).items] == [1, 2, 3]


def test_other_rules_leave_it(folder):
    decide(folder, 0, False)
    decide(folder, 3, True)
    assert str(refilter(folder, {"min_confidence": 0.5})).endswith("1 changed: 0 accepted now, 1 rejected now")
    assert accepted(folder) == [1, 3]
    refilter(folder, {}, fresh=True)
    assert accepted(folder) == [1, 2, 3]


def test_taken_back_the_rules_decide_again(folder):
    refilter(folder, {"min_confidence": 0.5})
    (before,) = decide(folder, 2, True)
    assert "human" not in before and accepted(folder) == [0, 1, 2]
    decide(folder, 2, None)
    assert accepted(folder) == [0, 1]
    (row,) = last_rows(folder, 1)
    assert "human" not in row and row["reason"] == "confidence 0.3 is below 0.5"


def test_the_same_image_made_again_keeps_it(folder):
    decide(folder, 1, False)
    manifest = Manifest(folder)
    row = {name: value for name, value in manifest.rows()[1].items() if name != "human"}
    again = row | {"accepted": True, "file": row["file"].replace("rejected/", "train/"), "reason": ""}
    assert manifest.write(again, png(1), replace=True) == "same" and accepted(folder) == [0, 2, 3]
    assert manifest.write(again, png(9), replace=True) == "replaced"  # another image: nobody has seen it
    assert accepted(folder) == [0, 1, 2, 3]


def test_an_image_that_was_given_up_cannot_be_accepted(tmp_path):
    make_dataset(tmp_path / "set", [SCORES[0], {**SCORES[0], "given_up": 0.02}])
    before = (tmp_path / "set" / "manifest.jsonl").read_bytes()
    with pytest.raises(ValueError, match="was given up is not finished"):
        decide_by_hand(Manifest(tmp_path / "set"), [image(tmp_path / "set", i) for i in (0, 1)], True)
    assert (tmp_path / "set" / "manifest.jsonl").read_bytes() == before
    decide(tmp_path / "set", 1, False)


def test_an_unknown_image_is_refused_and_nothing_changes(folder):
    text = (folder / "manifest.jsonl").read_bytes()
    with pytest.raises(ValueError, match="No image nobody-0"):
        decide_by_hand(Manifest(folder), [image(folder, 0), ("nobody", 0)], True)
    assert (folder / "manifest.jsonl").read_bytes() == text


def test_of_near_duplicates_the_chosen_one_stays():
    twins = [{"phash": "f0"}, {"phash": "f1"}, {"phash": "f3"}]
    rules = Rules(max_duplicate_bits=1)

    def stay(*scores):
        return [verdict.accepted for verdict in rules.judge_class(scores)]

    assert stay(*twins) == [True, False, False]  # the third differs by one bit from the second
    assert stay(twins[0] | {"human": False}, *twins[1:]) == [False, True, False]
    assert stay(twins[0], twins[1] | {"human": True}, twins[2]) == [True, True, False]
    assert [verdict.like for verdict in rules.judge_class(twins)] == [None, 0, 1]
