"""Classify Images, called as ComfyUI calls it."""

import numpy as np
import pytest
import torch

from ..numeric import in_float64


@pytest.fixture(scope="module")
def classifier(pack):
    """In float64, where the batch and the strides of the images change nothing that float32 shows."""
    with torch.inference_mode():
        return in_float64(pack.nodes["HiGFA_LoadMiniature"].execute().args[4])


def birds_of(*species, size=64):
    from higfa_core.miniature import birds

    views = [birds.render(s, 20 + i, size).image for i, s in enumerate(species)]
    return torch.from_numpy(np.stack(views)).float() / 255


def classify(pack, images, classifier, **widgets):
    """All inputs as lists, as ComfyUI passes them to a node with is_input_list."""
    node = pack.nodes["HiGFA_ClassifyImages"]
    with torch.inference_mode():
        return node.execute(images=images, classifier=[classifier], **{k: [v] for k, v in widgets.items()}).args


def blocked(value):
    return type(value).__name__ == "ExecutionBlocker" and value.message is None


@pytest.mark.releases
def test_outputs_keep_their_places(pack):
    schema = pack.nodes["HiGFA_ClassifyImages"].GET_SCHEMA()
    shown = [(output.display_name, output.is_output_list) for output in schema.outputs]
    expected = [("table", False), ("mean_confidence", False), ("plot", False)]
    assert shown == [*expected, ("confidences", True), ("passed", True), ("rejected", True)]
    assert [item.id for item in schema.inputs][:3] == ["images", "classifier", "class_name"]
    assert all(item.optional for item in schema.inputs[2:]), "prompts saved before these inputs came must still run"


def test_batch_with_a_class_a_line(pack, classifier):
    images = birds_of(0, 5, 10)
    names = f"{classifier.class_names[0]}\n{classifier.class_names[5]}\n{classifier.class_names[3]}"
    expected = classifier.predict_proba(images)[[0, 1, 2], [0, 5, 3]]
    lowest, middle, _ = sorted(expected.tolist())
    assert middle > lowest + 1e-3  # so that a threshold fits in between
    least = (lowest + middle) / 2
    table, mean, plot, each, passed, rejected = classify(
        pack, [images], classifier, class_name=names, min_confidence=least
    )
    assert each == pytest.approx(expected.tolist(), abs=1e-5) and mean == pytest.approx(
        expected.mean().item(), abs=1e-5
    )
    assert torch.equal(torch.cat(passed), images[expected >= least])
    assert torch.equal(torch.cat(rejected), images[expected < least])
    assert [len(image) for image in passed] == [1, 1]
    assert "2 of 3 pass" in table and table.count("\n") == 4 and plot.shape == (1, 210, 1260, 3)


def test_list_of_images_of_several_sizes(pack, classifier):
    images = [birds_of(0, 5), birds_of(10, size=96)]
    table, _, _, each, passed, rejected = classify(pack, images, classifier, class_name="", top_k=1)
    assert len(each) == 3 and [tuple(i.shape[1:3]) for i in passed] == [(64, 64), (64, 64), (96, 96)]
    assert blocked(rejected)
    assert table.splitlines()[2].startswith(f"3: {classifier.class_names[10]} ") and "," not in table.splitlines()[0]


def test_grey_and_transparent_images(pack, classifier):
    images = birds_of(0, 5)
    alpha = torch.cat([images, torch.zeros_like(images[..., :1])], dim=-1)
    expected = classify(pack, [images], classifier)[3]
    outputs = classify(pack, [alpha], classifier)
    assert outputs[3] == pytest.approx(expected, abs=1e-5) and outputs[4][0].shape[-1] == 4
    grey = images.mean(-1, keepdim=True)
    repeated = classify(pack, [grey.repeat(1, 1, 1, 3)], classifier)[3]
    assert classify(pack, [grey], classifier)[3] == pytest.approx(repeated, abs=1e-5)


def test_many_images_are_classified_as_few_are(pack, classifier):
    images = birds_of(*range(16)).repeat(3, 1, 1, 1)
    each = classify(pack, [images], classifier)[3]
    assert each == pytest.approx(classifier.predict_proba(images[:16]).amax(1).repeat(3).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "widgets", "message"),
    [
        ((2, 64, 64, 3), {"class_name": "Marsh Finsh"}, "No class 'Marsh Finsh' in .*: closest 'Marsh Finch'"),
        (
            (3, 64, 64, 3),
            {"class_name": "Marsh Finch\nDune Kite"},
            "2 class names for 3 images. Give one, or one per line",
        ),
        ((2, 64, 64, 3), {"min_confidence": 1.5}, "min_confidence must be from 0 to 1, got 1.5"),
        ((2, 64, 64, 3), {"min_confidence": float("nan")}, "min_confidence must be from 0 to 1, got nan"),
        ((2, 64, 64, 2), {}, r"shape \[B, H, W, 3\] \(or 1 channel, or 4\), got \[2, 64, 64, 2\]"),
        ((64, 64, 3), {}, r"got \[64, 64, 3\]"),
        ((0, 64, 64, 3), {}, r"got \[0, 64, 64, 3\]"),
    ],
)
def test_bad_input_is_named(pack, classifier, shape, widgets, message):
    with pytest.raises(ValueError, match=message):
        classify(pack, [torch.rand(shape)], classifier, **widgets)


@pytest.mark.releases
def test_interrupt_stops_between_chunks(pack, classifier):
    from comfy import model_management

    seen = []

    def interrupt(module, arguments):
        seen.append(len(arguments[0]))
        model_management.interrupt_current_processing(True)

    with classifier.module.register_forward_pre_hook(interrupt):
        with pytest.raises(model_management.InterruptProcessingException):
            classify(pack, [torch.rand(100, 16, 16, 3)], classifier)
    assert seen == [32]
