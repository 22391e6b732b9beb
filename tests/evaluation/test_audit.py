"""An audit of images whose faults are known because they were planted."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image, PngImagePlugin
from torch import nn

from higfa_core.checking.verdict import wilson
from higfa_core.classifier import FineGrainedClassifier, Preprocess
from higfa_core.commands.evaluate import main
from higfa_core.evaluation.audit import MEASURES, Networks, audit
from higfa_core.evaluation.features import penultimate
from higfa_core.evaluation.limits import broken, parse_limit
from higfa_core.evaluation.pair import read_pair
from higfa_core.evaluation.settings import EvaluationSettings
from higfa_core.exports.pictures import encode

LOOK = Preprocess((32, 32), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
CLASSES = ("blue", "green", "red")


class Colour(nn.Module):
    """Logits from the mean colour: right wherever an image is what its class says."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(3).flip(0).repeat_interleave(4, 1) * 10)

    def forward(self, x):
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def picture(name, seed):
    """A texture in the colour of the class."""
    rng = np.random.default_rng([seed, *name.encode()])
    small = Image.fromarray(rng.integers(0, 160, (6, 6, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
    pixels = np.asarray(small).astype(np.float32)
    pixels[..., ("red", "green", "blue").index(name)] += 95
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def judge(name="judge"):
    return FineGrainedClassifier(Colour(), CLASSES, LOOK, source=f"{name}.safetensors", arch="colour")


@pytest.fixture
def folders(tmp_path):
    """8 real images of each colour to train on and 2 held out; 6 synthetic ones of each."""
    real, made = tmp_path / "real", tmp_path / "made"
    for name in CLASSES:
        for part, first, count in (("train", 0, 8), ("val", 50, 2), ("../made/train", 100, 6)):
            place = real / part / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(first, first + count):
                picture(name, i).save(place / f"{i}.png")
    return SimpleNamespace(real=real, made=made)


def audited(folders, **networks):
    looks = judge()
    given = {"features": looks, "judge": looks, **networks}
    return audit(read_pair(folders.real, folders.made), Networks(**given), EvaluationSettings(side=32))


def test_clean_images_have_a_clean_sheet(folders):
    found = audited(folders)
    m = found.measures
    assert m["images"] == 18 and m["classes_without_images"] == 0
    assert m["label_error"] == m["judge_error_on_real"] == 0
    assert (m["label_error_low"], m["label_error_high"]) == wilson(0, 18)
    assert m["copies_of_real"] == m["copies_of_held_out"] == m["duplicates"] == 0
    assert m["marked"] == m["marked_real"] == 0
    assert {name for name, value in m.items() if value is None} == {"guide_error", "guide_minus_judge"}
    assert set(m) == set(MEASURES) and "12 numbers" in found.looked_with
    assert {row["real"] for row in found.classes.values()} == {8}


def test_planted_label_errors_are_counted(folders):
    for i in (100, 101, 102):
        picture("red", 900 + i).save(folders.made / "train/blue" / f"{i}.png")
    found = audited(folders)
    assert found.measures["label_error"] == pytest.approx(3 / 18)
    assert found.classes["blue"]["label_error"] == 0.5 and found.classes["red"]["label_error"] == 0
    wrong = [image for image in found.images if not image["judge_right"]]
    assert {image["judge_sees"] for image in wrong} == {"red"} and len(wrong) == 3


def test_a_guide_that_believes_in_everything_is_shown_to_flatter(folders):
    picture("red", 901).save(folders.made / "train/blue/100.png")
    flatterer = judge("guide")
    found = audited(folders, guide=flatterer)
    assert found.measures["guide_minus_judge"] == 0 and any("no evidence" in note for note in found.notes)
    assert "one family, so not independent" in found.judged_by
    with torch.no_grad():
        flatterer.module.fc.weight.zero_()
        flatterer.module.fc.weight[0] = 1.0  # sees blue wherever it is not dark
    flattered = audited(folders, guide=flatterer).measures
    assert flattered["guide_minus_judge"] == pytest.approx(flattered["label_error"] - flattered["guide_error"])


def test_copies_are_found_wherever_they_are_from(folders):
    made = folders.made / "train/green"
    shutil.copy(folders.real / "train/green/3.png", made / "exact.png")
    picture("green", 4).save(made / "again.jpg", quality=80)
    shutil.copy(folders.real / "val/green/50.png", made / "leak.png")
    shutil.copy(made / "100.png", made / "twice.png")
    m = audited(folders).measures
    assert (m["copies_of_real"], m["copies_of_held_out"], m["duplicates"]) == (2, 1, 1)
    images = {image["file"].rpartition("/")[2]: image for image in audited(folders).images}
    assert images["exact.png"]["distance"] == 0 and not images["exact.png"]["authentic"]
    assert images["exact.png"]["nearest_real"].endswith("green/3.png")
    assert images["leak.png"]["copy_of_held_out"].endswith("val/green/50.png")
    # One of the two is the other's duplicate, not both.
    assert [n for n in ("100.png", "twice.png") if "copy_of_synthetic" in images[n]] in (["100.png"], ["twice.png"])


def test_marks_of_generation_are_counted_on_both_sides(folders):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "{}")
    picture("red", 100).save(folders.made / "train/red/100.png", pnginfo=info)
    for suffix, kind in ((".jpg", "jpeg"), (".webp", "webp"), (".png", "png")):
        (folders.made / f"train/red/x{kind}{suffix}").write_bytes(encode(picture("red", len(kind) + 400), kind))
    (folders.real / "train/red/0.png").write_bytes(encode(picture("red", 0), "png"))
    found = audited(folders)
    assert found.measures["marked"] == pytest.approx(4 / 21) and found.measures["marked_real"] == pytest.approx(1 / 24)
    assert any(note == "Marks: IPTC mark 3, workflow 1." for note in found.notes)


def test_a_class_without_images_is_counted(folders):
    shutil.rmtree(folders.made / "train/red")
    assert audited(folders).measures["classes_without_images"] == 1


def test_too_few_images_are_said_and_not_guessed(folders):
    for name in CLASSES:
        for path in list((folders.made / "train" / name).iterdir())[1:]:
            path.unlink()
    found = audited(folders)
    assert found.measures["coverage"] is None and any("more than 5 images" in note for note in found.notes)
    with pytest.raises(ValueError, match="coverage was not measured"):
        broken([parse_limit("coverage < 0.5", MEASURES)], found.measures)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "resnet10t"])
def test_features_are_what_timm_calls_pre_logits(arch):
    size = timm.create_model(arch, num_classes=0).pretrained_cfg["input_size"][-2:]
    torch.manual_seed(0)
    net = timm.create_model(arch, num_classes=3)
    made = FineGrainedClassifier(net, CLASSES, Preprocess(size, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0), arch=arch)
    images = torch.rand(2, 3, *size)
    features, logits = penultimate(made, images)
    with torch.no_grad():
        x = net.forward_features(made.preprocess(images))
        torch.testing.assert_close(features, net.forward_head(x, pre_logits=True))
        torch.testing.assert_close(logits, net(made.preprocess(images)))


class Halves(nn.Module):
    """Two heads, whose mean are the logits, as of a distilled DeiT."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = x.mean((2, 3))
        return (self.one(x) + self.two(x)) / 2


def test_a_network_without_a_last_layer_is_refused():
    made = FineGrainedClassifier(Halves(), CLASSES, LOOK, arch="halves")
    with pytest.raises(ValueError, match="no single last layer.*--features"):
        penultimate(made, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("label_eror > 5%", "Did you mean label_error"),
        ("label_error", "Not a limit"),
        ("label_error > many", "Not a limit"),
        ("zzz > 1", "Choose from images, classes_without"),
    ],
)
def test_a_limit_that_is_none_is_refused(text, fault):
    with pytest.raises(ValueError, match=fault):
        parse_limit(text, MEASURES)


def test_limits_are_conditions_that_must_not_hold():
    limits = [parse_limit(text, MEASURES) for text in ("label_error > 5%", "coverage<.5", "duplicates >= 1")]
    assert broken(limits, {"label_error": 0.05, "coverage": 0.5, "duplicates": 0}) == []
    assert broken(limits, {"label_error": 0.051, "coverage": 0.49, "duplicates": 1}) == limits
    for value in (float("nan"), float("inf"), None):
        with pytest.raises(ValueError, match="was not measured"):
            broken(limits[:1], {"label_error": value})


@pytest.fixture
def judge_file(tmp_path):
    torch.manual_seed(3)
    net = timm.create_model("test_resnet", num_classes=3)
    FineGrainedClassifier(net, CLASSES, LOOK, arch="test_resnet").save(tmp_path / "judge.safetensors")
    return tmp_path / "judge.safetensors"


def test_the_command_writes_the_sheet_and_its_exit_code_is_the_limits(folders, judge_file, tmp_path, capsys):
    call = [str(folders.real), str(folders.made), "--judge", str(judge_file)]
    assert main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    sheet = tmp_path / "made_evaluation"
    assert {path.name for path in sheet.iterdir()} == {"evaluation.html", "evaluation.md", "evaluation.json"}
    stored = json.loads((sheet / "evaluation.json").read_text("utf-8"))
    assert stored["measures"] == said["measures"] and len(stored["images"]) == 18
    loaded, wrong = FineGrainedClassifier.load(judge_file), 0
    for image in stored["images"]:
        pixels = torch.from_numpy(np.asarray(Image.open(image["file"])).copy()).float()[None] / 255
        wrong += loaded.class_names[int(loaded.predict_proba(pixels).argmax())] != image["class"]
    assert stored["measures"]["label_error"] == wrong / 18 > 0
    page = (sheet / "evaluation.html").read_text("utf-8")
    assert page.count("data:image/png") >= 26 and "http" not in page.replace("http-equiv", "")
    assert main([*call, "--fail-if", "label_error > 99%", "--fail-if", "images < 10"]) == 0
    assert main([*call, "--fail-if", "label_error >= 0"]) == 1
    assert "limit label_error >= 0: BROKEN" in capsys.readouterr().out
    assert "| label\\_error" not in (sheet / "evaluation.md").read_text("utf-8")


def test_wrong_data_never_pass(folders, judge_file, tmp_path, capsys):
    call = [str(folders.real), str(folders.made), "--judge", str(judge_file)]

    def error(*words):
        assert main(list(words)) == 1
        return capsys.readouterr().err

    assert "No network to look with" in error(*call[:2])
    assert "is the guide itself" in error(*call, "--guide", str(judge_file))
    assert "guide_error was not measured" in error(*call, "--fail-if", "guide_error > 1")
    assert "at once" in error(str(folders.real), str(folders.real), *call[2:])
    (folders.made / "train/red/103.png").write_bytes(b"no image")
    assert "103.png" in error(*call)
    (folders.made / "train/red/103.png").unlink()
    (folders.made / "train/red").rename(folders.made / "train/rose")
    assert "No class 'rose'" in error(*call)
    (folders.made / "train/rose").rename(folders.made / "train/red")
    net = timm.create_model("test_resnet", num_classes=2)
    FineGrainedClassifier(net, ("blue", "red"), LOOK, arch="test_resnet").save(tmp_path / "two.safetensors")
    assert "does not know 1 of 3 class names: 'green'" in error(*call[:2], "--judge", str(tmp_path / "two.safetensors"))
    shutil.rmtree(folders.made / "train")
    assert "No class folders" in error(*call)
