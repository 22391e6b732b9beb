"""What a chart of a run shows, from a trace written by hand."""

import json

import pytest
import torch

from higfa_core.guidance.trace import Call, Trace
from higfa_core.plots.live import DRAWN, MOST_IMAGES, progress, state, step_of

SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.0]


def call(sigma, *probability, evaluated=True, **weights):
    p = torch.tensor(probability)
    return Call(sigma, evaluated, p, p, torch.zeros_like(p), 1 - p, p / 10, **weights)


def trace(*calls):
    made = Trace(SIGMAS, [2, 3], ["Alder Finch", "Kite"], window=(2.0, 0.5), w_text=3.0, w_contour=3.0)
    made.calls.extend(calls)
    return made


def test_the_steps_of_noise_levels_also_between_two_steps():
    assert [step_of(SIGMAS, sigma) for sigma in (9.0, 8.0, 6.0, 1.0, 0.25, 0.0)] == [0, 0, 0.5, 3, 3.75, 4]


def test_the_line_says_what_guides_and_how_the_probability_went():
    assert progress(trace(), 8.0) == "step 1 of 4: text and contour; the classifier joins at step 3"
    kept = call(1.0, 0.9, 0.9, evaluated=False)
    assert progress(trace(call(2.0, 0.5, 0.7), kept), 1.0) == "step 4 of 4: guided, p 0.60 -> 0.60"
    assert progress(trace(call(2.0, 0.5, 0.7), call(1.0, 0.8, 0.9)), 0.0) == "step 4 of 4: guided, p 0.60 -> 0.85"


def test_a_state_has_one_line_of_numbers_per_image():
    weights = {"w_text": torch.tensor([2.4, 2.7]), "w_contour": torch.tensor([1.8, 2.0])}
    found = state(trace(call(2.0, 0.5, 0.75, **weights), call(1.0, 0.8, 0.9, **weights)), 1.0)
    assert found["at"] == [2, 3] and found["stage"] == [2, 3.5] and found["steps"] == 4
    assert found["values"]["probability"] == [[0.5, 0.8], [0.75, 0.9]]
    assert found["values"]["w_text"] == [[pytest.approx(2.4)] * 2, [pytest.approx(2.7)] * 2]
    assert json.loads(json.dumps(found)) == found


def test_weights_that_are_not_ours_are_left_out():
    values = state(trace(call(2.0, 0.5)), 2.0)["values"]
    assert values["w_text"] == values["w_contour"] == [] and values["w_cls"] == [[0.5]]


def test_a_large_batch_is_cut_to_what_can_be_told_apart():
    found = state(trace(call(2.0, *[0.5] * 20)), 2.0)
    assert len(found["values"]["probability"]) == MOST_IMAGES


def test_a_finished_run_keeps_its_outcome_and_its_warnings():
    made = trace(call(2.0, 0.5, 0.7, w_text=torch.ones(2), w_contour=torch.ones(2)))
    made.note("half of it was silent")
    before = state(made, 1.0)["values"]
    made.finish(seconds=2.0, classifier_seconds=1.0)
    found = state(made)
    assert found["text"] == made.outcome() and found["warnings"] == ["half of it was silent"]
    assert found["values"] == before and set(before) == set(DRAWN)


def test_a_run_that_was_never_guided_has_no_lines():
    found = state(trace())
    assert found["text"] == "classifier never ran in 4 steps" and found["at"] == []
    assert not any(found["values"].values())
