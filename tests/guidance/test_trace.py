"""The trace: what it keeps, what it says, what its picture shows."""

import json

import pytest
import torch

from higfa_core.guidance.stopwatch import Stopwatch
from higfa_core.guidance.trace import Call, Trace, TraceSlot, fingerprint
from higfa_core.plots.trace_plot import plot_trace


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
    assert done.probability == [0.75, 0.75] and done.evaluations == 1


def test_summary():
    done = trace()
    done.finish(2.0, 0.5)
    assert done.summary() == "guided steps 3-4 of 4, probability 0.25 -> 0.75, decoder vae, +33 % time"


def test_no_time_where_the_device_does_not_tell():
    done = trace()
    done.finish(2.0, Stopwatch("mps").seconds())
    assert done.summary().endswith("decoder vae") and Stopwatch("cpu").seconds() == 0.0


def test_summary_says_why_nothing_happened():
    empty = Trace([8.0, 0.0], [], ["a"])
    empty.note("no step starts between")
    empty.finish(1.0, 0.0)
    assert empty.summary() == "classifier never ran in 1 step; no step starts between"


def test_images_without_a_step_are_told():
    done = trace(batch=3)
    done.calls[1].evaluated = True
    for images in ([True, False, True], [True, False, False]):
        done.left_out("too large", torch.tensor(images))
    done.left_out("never", torch.zeros(3, dtype=torch.bool))
    done.finish(1.0, 0.1)
    assert done.summary().endswith("2 of 3 images got no step at up to 2 of 2 evaluations: too large")
    assert json.loads(done.to_json())["unusable"] == {"too large": [2, 0, 1]}


class TestSlot:
    def slot(self, *latents):
        slot = TraceSlot()
        for z in latents:
            slot.trace = trace()
            slot.trace.result = fingerprint(z)
        return slot

    def test_latents_tell_the_run(self):
        a, b = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        slot = self.slot(a, b)
        assert slot.run_of(a) is slot.runs[0] and slot.run_of(b.half()) is slot.trace is slot.runs[1]

    def test_another_latent_or_none_is_refused(self):
        slot = self.slot(torch.zeros(1, 4, 8, 8))
        with pytest.raises(ValueError, match="Connect the sampler's latent"):
            slot.run_of(None)
        for other in (torch.zeros(4, 8, 8), torch.ones(1, 4, 8, 8)):
            with pytest.raises(ValueError, match="1 run, none of which .*as it leaves the sampler"):
                slot.run_of(other)
        with pytest.raises(ValueError, match="Connect the sampler's latent"):
            TraceSlot().run_of(torch.zeros(1, 4, 8, 8))

    def test_a_samplers_own_needs_none(self):
        own = trace()
        assert TraceSlot(own).run_of(None) is own


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
