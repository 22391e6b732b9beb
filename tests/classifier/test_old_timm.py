"""Files of timm 0.4.12, 0.5.4, 0.6.13 and 0.9.16, from the names, shapes and logits that these releases gave.

`benchmarks/old_timm.py --write` keeps them; the weights follow from names and shapes, there as here.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch

from benchmarks import old_timm, old_timm_files
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


def test_weights_that_do_not_tell_whether_they_are_of_a_changed_network(caplog):
    with pytest.raises(ValueError, match="dpn68"):
        architectures.load("dpn68", {}, 5, {})
    assert "up to timm 0.6 its last activation was ELU" in caplog.text
