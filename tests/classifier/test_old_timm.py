"""Files of timm 0.4.12, 0.5.4, 0.6.13 and 0.9.16, from the names, shapes and logits that these releases gave.

`benchmarks/old_timm.py --write` keeps them; the weights follow from names and shapes, there as here.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch

from benchmarks import old_timm, old_timm_files
from higfa_core.classifier import FineGrainedClassifier
from higfa_core.classifier.formats import architectures, timm_models, weights
from higfa_core.classifier.formats.facts import Facts
from higfa_core.classifier.formats.skeletons import skeleton

FILES = json.loads(gzip.decompress(Path(__file__).with_name("old_timm.json.gz").read_bytes()))
REFUSED = {
    ("poolformer_s12", "0.6.13"): "last normalisation",
    ("convnext_tiny_hnf", "0.5.4"): "n - 1",
    ("botnet26t_256", "0.4.12"): "more blocks",
    ("gcresnet50t", "0.4.12"): "epsilon of 1e-5",
}
RUN = {  # their names or networks have changed, and they are small
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224",
    "levit_128s",
    "pit_ti_224",
    "tnt_s_patch16_224",
    "sequencer2d_s",
    "ecaresnext50t_32x4d",
    "tresnet_m",
}
RENAMED = [file for file in FILES if file["arch"] in RUN and file["releases"][0] != "0.9.16"]


def of(file):
    return f"{file['arch']}-{file['releases'][0]}"


def state_of(file, device):
    whole = {key: torch.zeros(file["shapes"][key], dtype=torch.int64, device=device) for key in file["whole"]}
    return {key: whole.get(key, torch.zeros(shape, device=device)) for key, shape in file["shapes"].items()}


def reason(file):
    return next((REFUSED[file["arch"], each] for each in file["releases"] if (file["arch"], each) in REFUSED), None)


@pytest.mark.parametrize("file", FILES, ids=of)
def test_every_name_and_shape_is_todays_or_the_file_is_refused(file):
    arch, state = file["arch"], state_of(file, "meta")
    kwargs = architectures.arguments(Facts(arch=arch), state)
    module = skeleton(lambda: timm_models.build(arch, old_timm_files.CLASSES, kwargs))
    if reason(file):
        with pytest.raises(ValueError, match=f"the {arch} of an earlier timm, .*{reason(file)}.*Train it again"):
            weights.fitted(module, state, arch, old_timm_files.CLASSES)
        return
    fitted = weights.fitted(module, state, arch, old_timm_files.CLASSES)
    assert {key: tensor.shape for key, tensor in fitted.items()} == {
        key: tensor.shape for key, tensor in module.state_dict().items() if key in fitted
    }
    assert {key for key in module.state_dict() if not key.endswith("num_batches_tracked")} <= set(fitted)


@pytest.mark.parametrize(
    "file", [file for file in FILES if file["arch"] in RUN and file["releases"][0] != "0.9.16"], ids=of
)
def test_logits_are_those_of_the_release(file):
    state = state_of(file, "cpu")
    old_timm_files.randomise(state)
    kwargs = architectures.arguments(Facts(arch=file["arch"]), state)
    net = architectures.load(file["arch"], state, old_timm_files.CLASSES, kwargs).eval()
    with torch.no_grad():
        logits = net(old_timm_files.image(file["size"]))[0]
    torch.testing.assert_close(logits, torch.tensor(file["logits"]), rtol=0, atol=1e-4)


def test_the_files_of_every_release_are_among_them():
    found = {(file["arch"], release) for file in FILES for release in file["releases"]}
    assert {arch for arch, _ in found} == set(old_timm.ARCHITECTURES)
    assert {release for _, release in found} == set(old_timm.RELEASES)


def test_names_that_todays_timm_has_given_up():
    args = {"model": "vit_tiny_patch16_224_in21k", "img_size": 160}
    assert timm_models.trained_kwargs("vit_tiny_patch16_224_in21k", args) == {"img_size": 160}
    assert timm_models.size_kwargs("vit_tiny_patch16_224_in21k", (224, 224)) == {}
    assert timm_models.trained_kwargs("tf_efficientnet_b0_ns", {"model": "tf_efficientnet_b0_ns"}) == {}


def earlier(arch, release, folder, **beside):
    """A file of that release, with what is in the JSON file beside it."""
    (file,) = (each for each in FILES if each["arch"] == arch and release in each["releases"])
    state = state_of(file, "cpu")
    old_timm_files.randomise(state)
    torch.save({"arch": arch, "state_dict": state, "class_names": list("abcde")}, folder / f"{arch}.pth")
    (folder / f"{arch}.json").write_text(json.dumps(beside), "utf-8")
    return folder / f"{arch}.pth", file


def apart(classifier, file):
    with torch.no_grad():
        found = classifier.module(old_timm_files.image(file["size"]))[0]
    return float((found - torch.tensor(file["logits"])).abs().max() / max(1, max(map(abs, file["logits"]))))


@pytest.mark.parametrize("arch", ["dpn68", "convnext_tiny", "gcresnet50t"])
def test_who_knows_the_release_gets_its_logits(arch, tmp_path):
    path, file = earlier(arch, "0.5.4", tmp_path, timm="0.5.4")
    loaded = FineGrainedClassifier.load(path)
    assert apart(loaded, file) <= 1e-5
    loaded.save(tmp_path / "again.safetensors")  # which does not forget it
    assert apart(FineGrainedClassifier.load(tmp_path / "again.safetensors"), file) <= 1e-5


def test_a_network_that_may_be_either_of_two_is_refused(tmp_path):
    path, _ = earlier("dpn68", "0.6.13", tmp_path)
    with pytest.raises(ValueError, match='before timm 0.9 dpn68 was another network .*ELU.*"timm": "0.6.13"'):
        FineGrainedClassifier.load(path)
    path, file = earlier("dpn68", "0.9.16", tmp_path, timm="0.9.16")
    today = FineGrainedClassifier.load(path)
    assert apart(today, file) <= 1e-5
    today.save(tmp_path / "ours.safetensors")  # of today's timm: it needs no JSON file
    assert apart(FineGrainedClassifier.load(tmp_path / "ours.safetensors"), file) <= 1e-5


def test_a_config_of_the_hub_tells_that_the_network_is_todays(tmp_path):
    path, file = earlier("dpn68", "0.9.16", tmp_path)
    path.with_suffix(".json").unlink()
    saved = torch.load(path, weights_only=True)
    torch.save(saved["state_dict"], path)
    config = {"architecture": "dpn68", "num_classes": 5, "label_names": list("abcde"), "pretrained_cfg": {"tag": ""}}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert apart(FineGrainedClassifier.load(path), file) <= 1e-5


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ("last year", "timm must be a release such as"),
        ("0.5.4", "no longer builds the regnetz_d8_evos of release 0.5.4"),
    ],
)
def test_releases_that_cannot_be_built(release, message):
    with pytest.raises(ValueError, match=message):
        timm_models.build("regnetz_d8_evos", 5, {"timm": release})
