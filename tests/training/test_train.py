import copy
import hashlib
import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import timm
import torch
from PIL import Image

from higfa_core.classifier import FineGrainedClassifier
from higfa_core.classifier.calibrate import fit_temperature
from higfa_core.files.images import load_image
from higfa_core.training import backbone
from higfa_core.training.data import LabelledSet, read_labelled
from higfa_core.training.judge import judge_settings, names_of
from higfa_core.training.loop import Loop, _half
from higfa_core.training.outputs import checkpoint_of, summary, train_files
from higfa_core.training.settings import TrainOptions, TrainSettings
from higfa_core.training.trainer import _deterministic, train

from .. import numeric

pytestmark = pytest.mark.slow

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "тёмный": (30, 30, 60)}
FAST = TrainSettings(
    arch="test_resnet", pretrained=False, image_size=32, steps=24, batch_size=8, augment="light", patience=40
)
PAIR = TrainOptions(judge=True, judge_arch="test_efficientnet", resume=False)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """Three classes of noisy plain colours, 6 images each: 15 to train on, 3 held out."""
    root = tmp_path_factory.mktemp("colours")
    for label, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir()
        for i in range(6):
            noise = np.random.default_rng([label, i]).normal(0, 30, (36, 40, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return read_labelled(root)


@pytest.fixture(scope="session")
def result(labelled):
    return train(labelled, FAST)


def weights(one):
    return {k: v.clone() for k, v in one.classifier.module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Interrupt(BaseException):
    """As ComfyUI's interrupt or Ctrl-C: no Exception."""


READ = 16  # calls while images are read: one for each to train on, one for the batch held out


def interrupt(after):
    """A callback that interrupts when it is asked for the (after + 1)th time."""
    asked = iter(range(10**6))

    def check():
        if next(asked) >= after:
            raise Interrupt

    return check


# what it learns


def test_plain_colours_are_learnt_and_the_history_says_how(result, labelled):
    assert result.accuracy == 1.0 and result.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert result.classifier.class_names == labelled.class_names == ("green", "red", "тёмный")
    assert [row.step for row in result.history] == list(range(1, 25)) and result.stopped == ""
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss
    assert result.held_out == tuple(path for path, *_ in labelled.validation)


def test_the_kept_weights_are_those_of_the_best_evaluation(result, labelled):
    images = torch.cat([load_image(path).movedim(-1, 1) for path, *_ in labelled.validation])
    exact = copy.copy(result.classifier)
    exact.module = copy.deepcopy(exact.module)
    with torch.no_grad():
        logits, expected = result.classifier.logits(images), numeric.in_float64(exact).logits(images)
    noise = max(numeric.relative(logits, expected), torch.finfo(torch.float32).eps)
    assert numeric.same(result.logits, expected, noise)
    best = min(result.history, key=lambda row: row.loss)
    assert best.step == result.best_step


def test_guidance_uses_the_calibrated_temperature(result, labelled):
    t = result.classifier.temperature
    assert t == result.calibration.temperature == fit_temperature(result.logits, result.labels) != 1.0
    image = load_image(labelled.validation[0][0])
    expected = (result.logits[:1] / t).softmax(1)
    torch.testing.assert_close(result.classifier.predict_proba(image), expected)


def test_without_held_out_images_the_last_weights_are_kept_uncalibrated(labelled):
    whole = LabelledSet(labelled.class_names, labelled.train + labelled.validation, ())
    got = train(whole, replace(FAST, steps=3))
    assert got.calibration is None and got.classifier.temperature == 1.0 and math.isnan(got.accuracy)
    assert got.best_step == 3 and all(math.isnan(row.loss) for row in got.history)


def test_it_stops_when_patience_is_lost(labelled):
    got = train(labelled, replace(FAST, patience=1, learning_rate=1e-9))
    assert "no improvement in 1 evaluation" in got.stopped
    assert got.history[-1].step == got.best_step + 1 < 24


def test_rare_classes_count_as_much_as_frequent_ones():
    # Balanced softmax: with logits log(share) subtracted, the loss is that of a classifier that knows the prior.
    loop = Loop(torch.nn.Linear(2, 3), replace(FAST, learning_rate=0.1), [70, 20, 10], torch.device("cpu"))
    torch.testing.assert_close(loop.log_share.softmax(0), torch.tensor([0.7, 0.2, 0.1]))
    balanced = Loop(torch.nn.Linear(2, 3), replace(FAST, learning_rate=0.1), [4, 4, 4], torch.device("cpu"))
    assert balanced.log_share.tolist() == [0, 0, 0]


def test_the_learning_rate_rises_and_falls():
    loop = Loop(torch.nn.Linear(2, 3), replace(FAST, steps=100, learning_rate=0.1), [4, 4, 4], torch.device("cpu"))
    rates = []
    for loop.step in range(100):
        rates.append(loop.rate())
    assert rates[0] == 0.1 and max(rates) == rates[9] == pytest.approx((1 + math.cos(math.pi * 0.09)) / 2)
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[50] == pytest.approx(0.5) and rates[99] < 0.001


@pytest.mark.parametrize("change", [{"mixup": 0.4}, {"cutmix": 1.0}, {"precision": "bfloat16"}])
def test_options_train_too(labelled, change):
    got = train(labelled, replace(FAST, steps=3, **change))
    assert all(math.isfinite(row.train_loss) for row in got.history)
    assert not same(weights(got), weights(train(labelled, replace(FAST, steps=3))))


def test_too_high_a_learning_rate_is_named_and_nothing_to_resume_is_left(labelled, tmp_path):
    with pytest.raises(ValueError, match="loss is not finite after step .*Lower the learning rate"):
        train(
            labelled,
            replace(FAST, steps=100, learning_rate=1.0, weight_decay=10.0),
            checkpoint=tmp_path / "run.training",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_not_emulated(monkeypatch, native):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
    assert _half("auto", torch.device("cuda")) == native and not _half("auto", torch.device("cpu"))
    assert _half("bfloat16", torch.device("cuda")) and not _half("float32", torch.device("cuda"))


def test_it_trains_inside_inference_mode(labelled):
    with torch.inference_mode():  # as ComfyUI runs every node
        got = train(labelled, replace(FAST, steps=3))
        assert not next(got.classifier.module.parameters()).is_inference()
    assert same(weights(got), weights(train(labelled, replace(FAST, steps=3))))


# the same again


def test_the_seed_decides(labelled, result):
    torch.manual_seed(99)
    again = train(labelled, FAST)
    assert same(weights(again), weights(result)) and again.history == result.history
    assert not same(weights(train(labelled, replace(FAST, seed=1))), weights(result))


def test_attention_on_a_gpu_takes_its_deterministic_kernel():
    def fused():
        return torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()

    before = fused()
    with _deterministic(torch.device("cuda")):
        assert fused() == (False, False)
    with _deterministic(torch.device("cpu")):
        assert fused() == before
    assert fused() == before == (True, True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "convnext_atto", "resnet18"])
def test_the_seed_decides_on_a_gpu(labelled, arch):
    settings = replace(FAST, arch=arch, image_size=224, steps=8)
    one, two = (train(labelled, settings, device="cuda") for _ in range(2))
    assert same(weights(one), weights(two)) and one.history == two.history


def test_the_callers_state_is_left_alone(labelled):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(labelled, replace(FAST, steps=2))
    assert torch.equal(torch.rand(1), expected) and not torch.are_deterministic_algorithms_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("change", [{}, {"arch": "test_vit", "mixup": 0.4}])
def test_an_interrupted_run_continues_exactly(tmp_path, labelled, change):
    settings = replace(FAST, steps=8, **change)
    whole = train(labelled, settings)
    checkpoint, kept = tmp_path / "run.training", []
    with pytest.raises(Interrupt):
        train(labelled, settings, check=interrupt(READ + 3), checkpoint=checkpoint, keep=kept.append)
    assert kept[0].history == whole.history[:3] and kept[0].stopped == "interrupted"
    with pytest.raises(Interrupt):
        train(labelled, settings, check=interrupt(READ + 2), checkpoint=checkpoint, keep=kept.append)
    assert kept[1].history == whole.history[:5]
    resumed = train(labelled, settings, checkpoint=checkpoint)
    assert same(weights(resumed), weights(whole)) and resumed.history == whole.history
    finished = train(labelled, settings, check=interrupt(READ), checkpoint=checkpoint)
    assert same(weights(finished), weights(whole))


def test_an_evaluation_that_is_broken_off_is_made_again(tmp_path, labelled):
    settings, checkpoint, kept = replace(FAST, steps=4, batch_size=2), tmp_path / "run.training", []
    whole = train(labelled, settings)
    for calls in (READ + 1 + 3, READ + 1):  # between the two batches held out: after step 2, and when that is resumed
        with pytest.raises(Interrupt):
            train(labelled, settings, check=interrupt(calls), checkpoint=checkpoint, keep=kept.append)
    assert [one.history for one in kept] == [whole.history[:1]] * 2
    resumed = train(labelled, settings, checkpoint=checkpoint)
    assert same(weights(resumed), weights(whole)) and resumed.history == whole.history


def test_reading_is_interrupted_too(tmp_path, labelled):
    seen, kept = [], []

    def progress(*at):
        seen.append(at)

    with pytest.raises(Interrupt):
        train(labelled, FAST, progress, interrupt(4), tmp_path / "run.training", kept.append)
    assert seen == [(i, 18) for i in range(1, 6)] and not kept and not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_run_is_refused(tmp_path, labelled):
    checkpoint = tmp_path / "run.training"
    train(labelled, replace(FAST, steps=2), checkpoint=checkpoint)
    with pytest.raises(ValueError, match="belongs to other images, settings or software. Delete it"):
        train(labelled, replace(FAST, steps=2, seed=1), checkpoint=checkpoint)
    fewer = LabelledSet(labelled.class_names, labelled.train[:-1], labelled.validation)
    with pytest.raises(ValueError, match="belongs to other images"):
        train(fewer, replace(FAST, steps=2), checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="run.training is damaged"):
        train(labelled, replace(FAST, steps=2), checkpoint=checkpoint)


# settings


def test_length_follows_from_the_images():
    # 125 images: shown 1000 / 5 = 200 times, 25,000 in batches of 32; 8,000 images: 1000 / 20 = 50 times.
    assert TrainSettings().resolved(125).steps == 781 and TrainSettings().resolved(8000).steps == 12_500
    assert TrainSettings(pretrained=False).resolved(125).steps == 2344
    assert TrainSettings().resolved(10).steps == 200 and TrainSettings(steps=7).resolved(8000).steps == 7
    assert TrainSettings(pretrained=False).resolved(9).learning_rate > TrainSettings().resolved(9).learning_rate > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("image_size", -224),
        ("batch_size", 0),
        ("batch_size", 1),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("weight_decay", -1.0),
        ("label_smoothing", 1.0),
        ("mixup", -0.2),
        ("patience", 0),
        ("seed", -1),
        ("augment", "wild"),
        ("precision", "float8"),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"Invalid {name}: .*Choose"):
        TrainSettings(**{name: value})


def test_mixup_wants_pairs():
    with pytest.raises(ValueError, match="need an even batch_size, got 9"):
        TrainSettings(mixup=0.2, batch_size=9)


# architectures


def test_unknown_architecture_names_the_closest():
    with pytest.raises(ValueError, match="no arch 'resnet5O'.*closest 'resnet50'"):
        backbone.check("resnet5O", 3, False)


def test_a_size_that_the_architecture_cannot_take():
    with pytest.raises(ValueError, match="test_vit at 50 pixels: .*divisible"):
        backbone.check("test_vit", 3, False, 50)
    with pytest.raises(ValueError, match="convnext_atto at 2 pixels: the model does not take"):
        backbone.check("convnext_atto", 3, False, 2)


def test_a_fixed_size_transformer_is_built_for_another_size(labelled, tmp_path):
    got = train(labelled, replace(FAST, arch="test_vit", steps=2, image_size=48))
    got.classifier.save(tmp_path / "vit.safetensors")
    loaded = FineGrainedClassifier.load(tmp_path / "vit.safetensors")
    assert loaded.preprocessing == got.classifier.preprocessing and loaded.preprocessing.input_size == (48, 48)
    image = load_image(labelled.train[0][0])
    torch.testing.assert_close(loaded.predict_proba(image), got.classifier.predict_proba(image))


def test_architecture_without_pretrained_weights():
    arch = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(ValueError, match=f"no pretrained weights for {arch}.*Turn pretrained off"):
        backbone.check(arch, 3, True)


def test_pretrained_weights_out_of_reach(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    with pytest.raises(ValueError, match="resnet18 cannot be downloaded .*huggingface.co/.*turn pretrained off"):
        backbone.check("resnet18", 3, True)


def test_pretrained_weights_from_the_cache_get_a_new_head(monkeypatch, tmp_path):
    torch.manual_seed(1)
    known = timm.create_model("test_resnet", num_classes=1000).state_dict()
    safetensors.torch.save_file(known, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: str(tmp_path / "model.safetensors"))
    module, kwargs, _ = backbone.build("test_resnet", 7, True)
    state = module.state_dict()
    assert state["fc.weight"].shape[0] == 7 and kwargs == {}
    assert all(torch.equal(state[key], known[key]) for key in known if not key.startswith("fc."))


# files, guide and judge


def file_hash(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metadata(path):
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def test_guide_and_judge_are_saved_with_what_was_found_out(tmp_path, labelled):
    out = tmp_path / "birds.safetensors"
    short = replace(FAST, steps=3)
    guide, judge = train_files(labelled, short, out, PAIR)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["birds.judge.safetensors", "birds.safetensors"]
    assert metadata(out)["role"] == "guide" and metadata(judge.path)["role"] == "judge"
    facts, found = metadata(out), guide.result.calibration
    assert float(facts["temperature"]) == found.temperature and facts["validation_size"] == "3"
    assert (float(facts["ece_before"]), float(facts["ece_after"])) == (found.ece_before, found.ece_after)
    loaded = [FineGrainedClassifier.load(one.path) for one in (guide, judge)]
    assert loaded[0].temperature == found.temperature and loaded[1].arch == "test_efficientnet"
    assert judge.result.settings.seed == 1 and judge.result.held_out == guide.result.held_out
    assert names_of(*loaded) == (
        "guide birds.safetensors (test_resnet), judge birds.judge.safetensors (test_efficientnet)"
    )
    text = summary([guide, judge])
    assert "birds.judge.safetensors: test_efficientnet, 3 classes" in text and "ECE" in text
    before = file_hash(out), file_hash(judge.path)
    train_files(labelled, short, out, replace(PAIR, overwrite=True))
    assert (file_hash(out), file_hash(judge.path)) == before


def test_an_interrupted_pair_keeps_the_best_and_is_finished_by_resume(tmp_path, labelled):
    short = replace(FAST, steps=3)
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    train_files(labelled, short, whole, PAIR)
    with pytest.raises(Interrupt):
        train_files(labelled, short, out, PAIR, check=interrupt(READ + 2))
    partial = tmp_path / "out.partial.safetensors"
    assert not out.exists() and metadata(partial)["role"] == "partial guide" and checkpoint_of(out).is_file()
    assert FineGrainedClassifier.load(partial).class_names == labelled.class_names
    with pytest.raises(Interrupt):  # one step ends the guide, two of the judge
        train_files(labelled, short, out, replace(PAIR, resume=True), check=interrupt(READ + 1 + READ + 2))
    assert out.exists() and not partial.exists() and (tmp_path / "out.judge.partial.safetensors").is_file()
    train_files(labelled, short, out, replace(PAIR, resume=True))
    for one, other in ((out, whole), (tmp_path / "out.judge.safetensors", tmp_path / "whole.judge.safetensors")):
        assert file_hash(one) == file_hash(other)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupt_before_the_first_step_leaves_no_classifier(tmp_path, labelled):
    with pytest.raises(Interrupt):
        train_files(labelled, FAST, tmp_path / "x.safetensors", check=interrupt(READ))
    assert [p.name for p in tmp_path.iterdir()] == ["x.training"]


def test_files_are_looked_at_before_any_image(tmp_path, labelled):
    def read(done, total):
        raise AssertionError("an image was read")

    out = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="saved as .safetensors, got 'x.pth'"):
        train_files(labelled, FAST, tmp_path / "x.pth", progress=read)
    with pytest.raises(ValueError, match="no arch 'test_resnetx'"):
        train_files(labelled, FAST, out, replace(PAIR, judge_arch="test_resnetx"), progress=read)
    for name in ("x.judge.safetensors", "x.safetensors"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(FileExistsError, match=f"{name} exists. Choose another name, or allow overwriting"):
            train_files(labelled, FAST, out, PAIR, progress=read)
        assert (tmp_path / name).read_bytes() == b"mine"
        (tmp_path / name).unlink()


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("arch", ["resnet50.a1_in1k", "resnet18", "convnext_tiny", "mobilenetv3_small_100", "vit_tiny"])
def test_the_judge_is_of_another_family_and_seed(arch, pretrained):
    guide = TrainSettings(arch=arch, pretrained=pretrained, seed=4)
    judge = judge_settings(guide)
    assert judge.seed == 5 and judge.pretrained == pretrained and timm.is_model(judge.arch)
    assert judge.arch[:6] != arch[:6]


def test_the_judge_cannot_have_the_guides_architecture():
    guide = TrainSettings(arch="resnet50.a1_in1k")
    with pytest.raises(ValueError, match="an architecture other than the guide's: resnet50.* For example: convnext"):
        judge_settings(guide, "resnet50.tv_in1k")


def test_a_judge_of_the_same_family_is_named_as_such():
    guide = SimpleNamespace(source="guide.safetensors", arch="resnet50")
    judge = SimpleNamespace(source="judge.safetensors", arch="resnet18")
    assert names_of(guide, judge).endswith("judge judge.safetensors (resnet18): one family, so not independent")
    assert names_of(guide) == "guide guide.safetensors (resnet50), no judge"
