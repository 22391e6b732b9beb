"""Train Fine-Grained Classifier on a real ComfyUI: files in models/, progress, cancel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.releases

COLOURS = {"blue": (60, 60, 200), "красный": (200, 60, 60)}


@pytest.fixture(scope="module")
def dataset(pack) -> Path:
    import folder_paths

    root = Path(folder_paths.get_input_directory()) / "colours"
    for label, (name, colour) in enumerate(COLOURS.items()):
        (root / "train" / name).mkdir(parents=True)
        for i in range(5):
            noise = np.random.default_rng([label, i]).normal(0, 30, (36, 40, 3))
            pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "train" / name / f"{i}.png")
    return root


@pytest.fixture
def models(pack) -> Path:
    import folder_paths

    return Path(folder_paths.models_dir) / "higfa_classifiers"


def execute(pack, file_name, dataset="colours", **changes):
    inputs = {
        **dict(arch="test_resnet", pretrained=False, image_size=32, steps=4, seed=0, judge=False, overwrite=False),
        **dict(batch_size=4),
        **changes,
    }
    with torch.inference_mode():
        return pack.nodes["HiGFA_TrainClassifier"].execute(dataset, file_name, **inputs)


def test_trained_classifier_is_saved_listed_and_usable(pack, dataset, models):
    output = execute(pack, "Цвета", judge=True, judge_arch="test_convnext")
    classifier, plots, text = output.args
    assert sorted(p.name for p in models.iterdir()) == ["Цвета.judge.safetensors", "Цвета.safetensors"]
    assert plots.shape == (6, 800, 1000, 3) and 0 <= plots.min() < plots.max() <= 1
    assert "guide        Цвета.safetensors: test_resnet, 2 classes" in text
    assert "judge        Цвета.judge.safetensors: test_convnext" in text and output.ui.as_dict()["text"] == (text,)
    assert classifier.patcher is not None and classifier.class_names == tuple(COLOURS)
    load = pack.nodes["HiGFA_LoadClassifier"]
    assert {"Цвета.safetensors", "Цвета.judge.safetensors"} <= set(load.GET_SCHEMA().inputs[0].options)
    image = torch.rand(1, 40, 40, 3)
    loaded = load.execute("Цвета.safetensors", 0.0).args[0]
    torch.testing.assert_close(loaded.predict_proba(image), classifier.predict_proba(image))
    assert loaded.temperature == classifier.temperature


def test_what_was_held_out_is_no_job_of_dataset_job(pack, dataset, models):
    def jobs(folder):
        pick = pack.nodes["HiGFA_DatasetJob"].execute
        first = pick(folder, 0, "a {class}", 1, 0, "same").args
        return first[6], {pick(folder, i, "a {class}", 1, 0, "same").args[5][0].source for i in range(first[6])}

    listed = dataset / "held_out.txt"
    listed.unlink(missing_ok=True)
    fingerprint = pack.nodes["HiGFA_TrainClassifier"].fingerprint_inputs
    before = fingerprint(dataset="colours", validation_share=0.2)
    assert jobs("colours")[0] == jobs("colours/train")[0] == 10
    execute(pack, "splitter")
    held = set(listed.read_text("utf-8").splitlines())
    assert len(held) == 2 and fingerprint(dataset="colours", validation_share=0.2) == before
    for folder, start in (("colours", ""), ("colours/train", "train/")):
        count, sources = jobs(folder)
        assert count == 8 == len(sources) and not {start + source for source in sources} & held


def test_cancel_keeps_the_best_and_is_no_error_and_the_next_run_continues(pack, dataset, models):
    import comfy.utils
    from comfy import model_management

    execute(pack, "whole", steps=30)
    seen = []

    def cancel(value, total, preview, **kwargs):
        seen.append((value, total))
        if total == 30:
            model_management.interrupt_current_processing(True)

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(cancel)
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            execute(pack, "cancelled", steps=30)
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        model_management.interrupt_current_processing(False)
    assert (10, 10) in seen and seen[-1][0] < 30  # all images were read, not all steps done
    assert (models / "cancelled.partial.safetensors").is_file() and not (models / "cancelled.safetensors").exists()
    execute(pack, "cancelled", steps=30)
    assert not list(models.glob("cancelled.*[!s]")) and not (models / "cancelled.partial.safetensors").exists()
    assert (models / "cancelled.safetensors").read_bytes() == (models / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "a/b", "a\\b", "", "x.pth", "con"])
def test_file_names_stay_in_the_folder(pack, dataset, name):
    with pytest.raises(ValueError, match="file_name|saved as .safetensors"):
        execute(pack, name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "No dataset given"),
        ("../models", "has to stay inside"),
        ("/etc", "has to stay inside"),
        ("colours/test/x", "validation or test split"),
        ("nowhere", "No dataset folder at"),
    ],
)
def test_datasets_stay_in_the_input_folder(pack, dataset, name, message):
    with pytest.raises(ValueError, match=message):
        execute(pack, "x", dataset=name)


def test_an_existing_file_is_not_replaced_unasked(pack, dataset, models):
    models.mkdir(parents=True, exist_ok=True)
    (models / "mine.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="mine.safetensors exists"):
        execute(pack, "mine")
    assert (models / "mine.safetensors").read_bytes() == b"mine"


def test_it_runs_again_when_the_dataset_changes(pack, dataset):
    fingerprint = pack.nodes["HiGFA_TrainClassifier"].fingerprint_inputs
    before = fingerprint(dataset="colours", seed=0)
    assert fingerprint(dataset="colours", seed=0) == before != fingerprint(dataset="colours", seed=1)
    path = dataset / "train" / "blue" / "new.png"
    Image.new("RGB", (30, 30)).save(path)
    assert fingerprint(dataset="colours", seed=0) != before
    path.unlink()
    assert fingerprint(dataset="colours", seed=0) == before
    path.with_name("0.png").touch()
    assert fingerprint(dataset="colours", seed=0) != before
    assert fingerprint(dataset=None, seed=0)  # linked
