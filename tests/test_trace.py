"""The trace: what it keeps, what it says, what its picture shows."""

import json

import torch

from higfa_core.trace import Call, Trace
from higfa_core.trace_plot import plot_trace


def trace(batch=2, **fields):
    """Four steps, the last two guided; the classifier looked once."""
    made = Trace([8.0, 2.0, 0.5, 0.2, 0.0], [2, 3], [f"class {i}" for i in range(batch)], (0.8, 0.05), **fields)

    def call(sigma, evaluated, p):
        values = (torch.full((batch,), v) for v in (1 - p, 0.1, 3.0, 2.0))
        probability, confidence = torch.full((batch,), p), torch.full((batch,), p / 2)
        return Call(sigma, evaluated, probability, confidence, torch.arange(batch), *values)

    made.calls = [call(0.5, True, 0.25), call(0.2, False, 0.75)]
    made.decoder = "vae"
    return made


def test_finish_turns_tensors_into_numbers():
    done = trace()
    done.finish(2.0, 0.5)
    assert done.calls[1].probability == [0.75, 0.75] and done.calls[0].top == [0, 1]
    assert done.confidence == [0.75, 0.75] and done.evaluations == 1


def test_summary():
    done = trace()
    done.finish(2.0, 0.5)
    assert done.summary() == "guided steps 3-4 of 4, confidence 0.25 -> 0.75, decoder vae, +33 % time"


def test_summary_says_why_nothing_happened():
    empty = Trace([8.0, 0.0], [], ["a"])
    empty.note("no step starts between")
    empty.finish(1.0, 0.0)
    assert empty.summary() == "classifier never ran in 1 steps; no step starts between"


def test_non_finite_gradients_are_told():
    done = trace()
    done.non_finite = torch.tensor(3)
    done.finish(1.0, 0.1)
    assert done.summary().endswith("3 classifier gradients were not finite and were left out")


def test_json_holds_everything():
    done = trace(settings={"eta": 0.25}, class_names=["class 0", "class 1"])
    done.finish(2.0, 0.5)
    read = json.loads(done.to_json())
    assert read["window"] == [0.8, 0.05] and read["settings"] == {"eta": 0.25}
    assert read["calls"][0]["w_contour"] == [2.0, 2.0] and read["calls"][1]["evaluated"] is False


def orange(image):
    """Pixels of the shaded stage: more red than blue, and light."""
    return (image[..., 0] > 0.95) & (image[..., 2] < 0.93) & (image[..., 1] > 0.85)


def test_picture_shades_the_final_stage_only():
    done = trace(w_text=3.0, w_contour=3.0)
    done.finish(2.0, 0.5)
    image = plot_trace(done)[0]
    columns = orange(image).float().mean(0)
    shaded = (columns > 0.3).nonzero()
    # sigma 8.8 .. 0.18 on a logarithmic axis: 0.8 stands at 62 % of it, 0.05 beyond its end
    left = shaded.min().item() / image.shape[1]
    assert 0.58 < left < 0.68 and columns[: shaded.min()].max() < 0.05


def test_picture_without_guided_calls_and_with_many_samples():
    empty = Trace([8.0, 2.0, 0.0], [], ["a"], (0.8, 0.05))
    empty.finish(1.0, 0.0)
    assert plot_trace(empty).shape[0] == 1
    many = trace(batch=40)
    many.finish(1.0, 0.1)
    assert plot_trace(many).isfinite().all()
