import pytest
import timm
import torch
import torchvision
from torch import nn

from higfa_core.classifier import FineGrainedClassifier, Preprocess

from ..numeric import in_float64, same
from .nets import NAMES, SETTINGS, VIT, classifier, module, picture, transformers_model, write_transformers

# gradients


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_gradient_matches_finite_differences(interpolation):
    settings = Preprocess((32, 32), SETTINGS.mean, SETTINGS.std, interpolation, 0.9)
    c = in_float64(classifier("test_vit", settings, img_size=32))  # smooth, unlike a ReLU net
    x = (picture(40, 50) * 0.8 + 0.1).requires_grad_()
    grad = torch.autograd.grad(c.logits(x)[:, 2].sum(), x)[0]
    sign = grad.sign() * (torch.arange(50) < 25)  # a half at a time: the two slopes differ
    for direction in (sign, grad.sign() - sign):
        with torch.no_grad():
            plus, minus = (c.logits(x + s * 2e-3 * direction)[:, 2].double().sum() for s in (1, -1))
        slope = (plus - minus) / 4e-3
        assert slope > 0.05
        torch.testing.assert_close((grad * direction).sum().double(), slope, rtol=0.005, atol=0)


# test_vit_relpos indexes a table with a buffer that state_dict() leaves out
@pytest.mark.parametrize(("arch", "size"), [("test_resnet", 64), ("test_vit_relpos", 160)])
def test_gradient_inside_inference_mode_with_inference_weights(arch, size):
    settings = Preprocess((size, size), SETTINGS.mean, SETTINGS.std, "bicubic", 1.0)
    image = picture(size, size)
    reference = in_float64(classifier(arch, settings))  # where no rounding error switches a ReLU
    x = image.clone().requires_grad_()
    expected = torch.autograd.grad(reference.logits(x)[:, 1].sum(), x)[0]
    with torch.inference_mode():  # as ComfyUI runs every node
        loaded = in_float64(classifier(arch, settings))
        born_here = picture(size, size)
        assert next(loaded.module.parameters()).is_inference()
        with torch.inference_mode(False), torch.enable_grad():
            params = loaded.clone_params("cpu")
            x = born_here.clone().requires_grad_()
            grad = torch.autograd.grad(loaded.logits(x, params)[:, 1].sum(), x)[0]
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad, expected)


def test_gradient_of_a_transformers_file_inside_inference_mode(tmp_path):
    path = write_transformers(tmp_path)
    image = picture(80, 80)
    reference = FineGrainedClassifier.load(path)
    x = image.clone().requires_grad_()
    expected = torch.autograd.grad(reference.logits(x)[:, 1].sum(), x)[0]
    with torch.inference_mode():
        loaded = FineGrainedClassifier.load(path)
        assert not next(loaded.module.parameters()).is_inference()  # usable outside, too
        loaded.module.to(torch.float64).to(torch.float32)  # moved by ComfyUI: its weights are inference tensors now
        assert next(loaded.module.parameters()).is_inference()
        with torch.inference_mode(False), torch.enable_grad():
            params = loaded.clone_params("cpu")
            x = image.clone().requires_grad_()
            grad = torch.autograd.grad(loaded.logits(x, params)[:, 1].sum(), x)[0]
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad, expected)


def test_params_are_copies_that_replace_the_weights():
    c = classifier()
    params = c.clone_params("cpu")
    before = c.logits(picture())
    params["fc.bias"] += 3
    torch.testing.assert_close(c.logits(picture(), params), before + 3)
    assert torch.equal(c.logits(picture()), before)


def test_a_samples_gradient_does_not_depend_on_its_batch():
    c = in_float64(classifier())
    images = picture(batch=4)

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(c.logits(x).log_softmax(dim=1)[:, 0].sum(), x)[0]

    together = gradient(images)
    alone = torch.cat([gradient(image) for image in images.split(1)])
    assert together.abs().amax(dim=(1, 2, 3)).min() > 1e-4
    assert same(together, alone, torch.finfo(torch.float32).eps)


# probabilities


def test_predict_proba_is_calibrated_and_chunked():
    c = in_float64(classifier())
    images = picture(70, 70, batch=35)
    proba = c.predict_proba(images.movedim(1, -1))
    expected = torch.softmax(c.logits(images) / 1.7, dim=1)
    assert proba.shape == (35, 5)
    assert not proba.requires_grad
    torch.testing.assert_close(proba, expected)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        classifier(temperature=temperature)


# class names


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("Sooty Albatross", 1),
        ("sooty_albatross", 1),
        ("черноногий альбатрос", 2),
        ("Crested_Auklet", 3),
        ("crested  auklet", 3),
    ],
)
def test_index(asked, index):
    assert classifier().index(asked) == index


def test_exact_name_wins_and_ambiguity_is_an_error():
    c = classifier()
    c.class_names = ("Blue Jay", "blue_jay", "Robin")
    assert c.index("blue_jay") == 1
    with pytest.raises(ValueError, match="No class 'BLUE JAY'"):
        c.index("BLUE JAY")


def test_numbering_of_a_dataset_is_forgiven():
    assert classifier().index("001.Laysan_Albatross") == 0


def test_unknown_class_names_the_closest():
    with pytest.raises(ValueError) as error:
        classifier().index("Laysan Albatros")
    assert str(error.value) == (
        "No class 'Laysan Albatros' in cub200.safetensors: closest 'Laysan Albatross'. It has 5 classes: "
        "Laysan Albatross, Sooty Albatross, Черноногий альбатрос, Crested_Auklet, Least Auklet"
    )
    with pytest.raises(ValueError, match=r"No class 'zzz' in cub200.safetensors\. It has"):
        classifier().index("zzz")


# what a module must return


def test_as_many_outputs_as_names():
    with pytest.raises(ValueError, match="the model has 4 outputs, but there are 5 class names. Give one name"):
        FineGrainedClassifier(module(classes=4), NAMES, SETTINGS)
    with pytest.raises(ValueError, match=r"must return logits \[B, 5\], got shape \[1, 512, 2, 2\]"):
        FineGrainedClassifier(timm.create_model("resnet18", num_classes=0, global_pool=""), NAMES, SETTINGS)
    with pytest.raises(ValueError, match="got a ImageClassifierOutput. Use an image classifier"):
        FineGrainedClassifier(transformers_model(), NAMES, SETTINGS)


def test_images_of_another_size_than_the_model_takes():
    message = r"does not take images of 3 x 64 x 64: .*32.*Correct input_size"
    with pytest.raises(ValueError, match=message):
        FineGrainedClassifier(module("vit_tiny_patch16_224", img_size=32, depth=1), NAMES, SETTINGS)
    with pytest.raises(ValueError, match=message):
        FineGrainedClassifier(transformers_model(**VIT | {"image_size": 32}, patch_size=16), NAMES, SETTINGS)


class Recorder(nn.Module):
    """Linear on the mean colour. Keeps a tensor that it computed, and where it ran."""

    def __init__(self):
        super().__init__()
        self.head, self.kept, self.devices = nn.Linear(3, 5), None, []

    def forward(self, x):
        self.devices.append(x.device.type)
        if self.kept is None:
            self.kept = self.head.weight.sum()
        return self.head(x.mean(dim=(2, 3))) * self.kept


def test_the_check_does_not_run_the_model():
    net = Recorder()
    c = FineGrainedClassifier(net, NAMES, SETTINGS)
    assert net.devices == []
    x = picture()
    torch.testing.assert_close(c.logits(x), net.head(c.preprocess(x).mean(dim=(2, 3))) * net.head.weight.sum())


def test_a_model_that_only_runs_for_real_is_checked_too():
    class Reads(Recorder):
        def forward(self, x):
            return super().forward(x) * float(x.abs().sum() + 1)

    net = Reads()
    FineGrainedClassifier(net, NAMES, SETTINGS)
    assert net.devices == ["cpu"]
    with pytest.raises(ValueError, match="5 outputs, but there are 4 class names"):
        FineGrainedClassifier(Reads(), NAMES[:4], SETTINGS)


# smooth activations


class TwoLayers(nn.Module):
    """fc2(relu(fc1(mean colour))), with the ReLU as a module or as a plain call."""

    def __init__(self, plain_call):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(3, 8), nn.Linear(8, 5)
        self.act = torch.relu if plain_call else nn.ReLU(inplace=True)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x.mean(dim=(2, 3)))))


@pytest.mark.parametrize("plain_call", [False, True])
@pytest.mark.parametrize("beta", [3.0, 50.0])
def test_softplus_replaces_relu(plain_call, beta):
    sharp = FineGrainedClassifier(TwoLayers(plain_call), NAMES, SETTINGS)
    before = sharp.logits(picture())
    smooth = sharp.with_smooth_activations(beta)
    net = sharp.module
    x = picture().requires_grad_()
    hidden = net.fc1(sharp.preprocess(x).mean(dim=(2, 3)))
    expected = net.fc2(torch.log1p(torch.exp(beta * hidden)) / beta)
    torch.testing.assert_close(smooth.logits(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(smooth.logits(x, smooth.clone_params("cpu")), expected, rtol=1e-4, atol=1e-5)
    slope = torch.autograd.grad(expected[:, 1].sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(smooth.logits(x)[:, 1].sum(), x)[0], slope, rtol=1e-3, atol=1e-7)
    assert torch.equal(sharp.logits(picture()), before)  # the original is as it was
    assert (smooth.logits(picture()) - before).abs().max() > (0.02 if beta == 3 else 1e-5)


def test_smooth_copy_keeps_everything_else(tmp_path, caplog):
    sharp = classifier()
    sharp.patcher = object()
    with caplog.at_level("INFO"):
        smooth = sharp.with_smooth_activations(3)
    relus = sum(isinstance(layer, nn.ReLU) for layer in sharp.module.modules())
    assert f"Softplus(3) for {relus} ReLU of cub200.safetensors" in caplog.text
    assert (smooth.smooth_relu, sharp.smooth_relu, smooth.patcher) == (3.0, 0.0, None)
    assert smooth.module is sharp.module and smooth.class_names == sharp.class_names
    sharp.save(tmp_path / "sharp.safetensors")
    smooth.save(tmp_path / "smooth.safetensors")
    assert (tmp_path / "sharp.safetensors").read_bytes() == (tmp_path / "smooth.safetensors").read_bytes()


def test_smooth_activations_of_functional_relus_and_without_any():
    net = torchvision.models.googlenet(num_classes=5, aux_logits=False, init_weights=False)  # F.relu throughout
    c = FineGrainedClassifier(net, NAMES, SETTINGS)
    assert (c.with_smooth_activations(3).logits(picture()) - c.logits(picture())).abs().max() > 1e-3
    settings = Preprocess((32, 32), SETTINGS.mean, SETTINGS.std, "bilinear", 1.0)
    with pytest.raises(ValueError, match=r"0 ReLU replaced: cub200.safetensors \(test_vit\) has none. Set smooth_relu"):
        classifier("test_vit", settings, img_size=32).with_smooth_activations(3)


@pytest.mark.parametrize("beta", [0, -1, float("nan"), float("inf")])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta of the smooth activations must be above 0"):
        classifier().with_smooth_activations(beta)
