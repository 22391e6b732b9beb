"""Check Classifier for Guidance and `higfa check-classifier`, on the miniature."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from higfa_core.checking import verdict
from higfa_core.guidance.settings import NoiseLevels

from ..numeric import in_float64

SPECIES = (0, 5, 10, 15)


@pytest.fixture(scope="module")
def world(pack):
    """What Load Miniature puts on the canvas, in float64, an encoded empty prompt, and the node."""
    from comfy.cli_args import args

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(args, "fp64_unet", True)  # ComfyUI's --fp64-unet
        model, clip, vae, _, classifier, *_ = pack.nodes["HiGFA_LoadMiniature"].execute().args
        in_float64(classifier)
        vae.first_stage_model.double()
        vae.vae_dtype = torch.float64
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    core = importlib.import_module(f"{pack.module.__name__}.higfa_core.comfy.stages")
    return SimpleNamespace(
        model=model, vae=vae, classifier=classifier, prompt=prompt, node=pack.nodes["HiGFA_CheckClassifier"], core=core
    )


@pytest.fixture(scope="module")
def birds(comfyui):
    """Three images of four species in ComfyUI's input folder, the class folders named as CUB names them."""
    import folder_paths

    from higfa_core.miniature import birds

    root = Path(folder_paths.get_input_directory(), "checked")
    for species in SPECIES:
        folder = root / f"{species:03}.{birds.CLASS_NAMES[species].replace(' ', '_')}"
        folder.mkdir(parents=True)
        for seed in range(3):
            Image.fromarray(birds.render(species, seed).image).save(folder / f"{seed}.png")
    files = sorted(root.rglob("*.png"))
    pixels = np.stack([np.array(Image.open(file)) for file in files])
    return SimpleNamespace(
        root=root, images=torch.from_numpy(pixels).float() / 255, labels=[int(file.parent.name[:3]) for file in files]
    )


def run(world, **inputs):
    widgets = {
        "dataset": "checked", "images_from": "all", "per_class": 10, "image_size": 128, "start_percent": 0.7, "cfg": 3.0
    } | inputs  # fmt: skip
    with torch.inference_mode():
        return world.node.execute(classifier=world.classifier, vae=world.vae, **widgets)


def measured(world, birds, **options):
    with torch.inference_mode():
        stages = world.core.measure(world.classifier, [birds.images], len(birds.labels), world.vae, **options)
    return verdict.Check.of(stages, birds.labels, options.get("model") is not None)


def true_probability(world, images, labels):
    return world.classifier.predict_proba(images)[range(len(labels)), labels]


def require_same(reading, expected):
    """Probabilities of networks in float64 are equal but for a few float32 roundings between them."""
    torch.testing.assert_close(torch.tensor(reading.probability), torch.as_tensor(expected))


# --- what is measured


def test_a_guided_model_is_refused(world, birds, pack):
    class_name = world.classifier.class_names[0]
    guided = pack.nodes["HiGFA_GuideModel"].execute(world.model, world.vae, world.classifier, class_name)
    with pytest.raises(ValueError, match="Connect the model from before Guide Model"):
        run(world, model=guided.args[0], positive=world.prompt)


@pytest.mark.releases
def test_decoded_images_are_those_of_the_stock_nodes(world, birds, core_nodes):
    made = measured(world, birds)
    with torch.inference_mode():
        (latent,) = core_nodes["VAEEncode"]().encode(world.vae, birds.images)
        (back,) = core_nodes["VAEDecode"]().decode(world.vae, latent)
    real, vae = made.readings
    require_same(real, true_probability(world, birds.images, birds.labels))
    require_same(vae, true_probability(world, back, birds.labels))
    assert vae.probability != pytest.approx(real.probability, abs=1e-4)
    assert made.classes == 32 and "connect model" in made.missing[0]


@pytest.mark.releases
def test_noise_levels_show_what_the_guidance_sees(world, birds):
    """One call by hand: noise on the latent as the model adds it, the network, the guidance's own decoder."""
    import comfy.model_management
    import comfy.sample

    noise = world.core.Noise(world.prompt, None, NoiseLevels(cfg=3.0, noise_levels=2, seed=7))
    made = measured(world, birds, model=world.model, noise=noise)
    decoder = importlib.import_module(world.core.__name__.replace(".stages", ".decoder"))
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([world.model, world.vae.patcher])
        net, latent_format = world.model.model, world.model.model.latent_format
        z = latent_format.process_in(world.vae.encode(birds.images))
        drawn = comfy.sample.prepare_noise(z, 7)
        words = world.prompt[0][0].expand(len(z), -1, -1)
        levels = made.readings[3:]  # after the real images and the two decoders without noise
        for level in levels:
            name = {"VAE": "vae", "tiny decoder": "tiny"}[level.stage]
            choice = decoder.choose_decoder(name, world.vae, latent_format, 128)
            x = z + level.sigma * drawn
            x0 = net.apply_model(x, torch.full([len(z)], level.sigma), c_crossattn=words)
            shown = choice.build(world.model.load_device)(x0)
            require_same(level, true_probability(world, shown.movedim(1, -1), birds.labels))
    assert levels[0].sigma == levels[1].sigma > levels[2].sigma == levels[3].sigma == pytest.approx(0.05)


def test_the_tiny_decoder_gets_the_latents_of_the_model(world, birds, tiny, monkeypatch):
    import comfy.taesd.taesd

    monkeypatch.setattr(world.model.model.latent_format, "scale_factor", 3.0)
    made = measured(world, birds, model=world.model)
    taesd = comfy.taesd.taesd.TAESD(None, str(tiny), latent_channels=8)
    with torch.inference_mode():
        z = world.vae.encode(birds.images) * 3.0
        shown = (taesd.decode(z) / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    expected = true_probability(world, shown, birds.labels)
    assert [r.stage for r in made.readings] == ["real images", "VAE", "tiny decoder"]
    require_same(made.readings[2], expected)


def test_negative_prompt_and_cfg_count(world, birds):
    core, model = world.core, world.model
    with_cfg = [
        measured(
            world, birds, model=model, noise=core.Noise(world.prompt, negative, NoiseLevels(cfg=cfg, noise_levels=1))
        ).noisy("VAE")[0]
        for negative, cfg in ((None, 7.5), (world.prompt, 1.0), (world.prompt, 7.5))
    ]
    # The same prompt on both sides: cfg has nothing to multiply.
    require_same(with_cfg[0], with_cfg[1].probability)
    require_same(with_cfg[0], with_cfg[2].probability)
    other = [[cond + 1.0, options] for cond, options in world.prompt]
    strong = measured(
        world, birds, model=model, noise=core.Noise(world.prompt, other, NoiseLevels(noise_levels=1))
    ).noisy("VAE")[0]
    assert strong.probability != pytest.approx(with_cfg[0].probability, abs=1e-2)


def test_levels_span_the_window_evenly(world):
    sampling = world.model.get_model_object("model_sampling")
    levels = world.core.noise_levels(world.model, NoiseLevels(0.6, end_sigma=0.1, noise_levels=4))
    sigmas = [sigma for sigma, _ in levels]
    assert sigmas[0] == pytest.approx(sampling.percent_to_sigma(0.6)) and sigmas[-1] == pytest.approx(0.1)
    assert sigmas[1] / sigmas[0] == pytest.approx(sigmas[3] / sigmas[2])
    assert levels[0][1] == pytest.approx(0.6, abs=1e-3)
    assert [sampling.percent_to_sigma(percent) for _, percent in levels] == pytest.approx(sigmas, rel=1e-2)
    everything = world.core.noise_levels(world.model, NoiseLevels(0.0, noise_levels=1))
    assert everything[0][0] == pytest.approx(float(sampling.sigma_max))


def test_levels_of_a_flow_model(world):
    import comfy.model_sampling

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    model = world.model.clone()
    model.add_object_patch("model_sampling", Flow())
    levels = world.core.noise_levels(model, NoiseLevels(0.7, end_sigma=0.05, noise_levels=2))
    assert [sigma for sigma, _ in levels] == pytest.approx([0.3, 0.05 / 1.05])
    assert [percent for _, percent in levels] == pytest.approx([0.7, 1 - 0.05 / 1.05], abs=1e-3)


# --- the node


def test_verdict_plot_and_table_on_the_miniature(world, birds):
    output = run(world, model=world.model, positive=world.prompt, negative=world.prompt, noise_levels=2)
    words, plot, table = output.args
    assert "n=12" in words and "start_percent 0.70 is fine" in words and "Not measured" not in words
    assert [line.split("  ")[0] for line in table.splitlines()[1:4]] == ["real images", "VAE", "tiny decoder"]
    assert len(table.splitlines()) == 8 and plot.shape == (1, 550, 1100, 3)
    assert output.ui["text"][0].startswith(words) and len(output.ui["images"]) == 1


def test_a_random_tiny_decoder_is_not_to_be_used(world, birds, tiny):
    words, _, table = run(world, model=world.model).args
    assert "The tiny decoder costs" in words and "use the full VAE (decoder: vae)" in words
    assert words.startswith("Ready to guide after a change") or words.startswith("A change is needed")
    assert table.splitlines()[3].startswith("tiny decoder")
    assert "Not measured: the noise levels" in words


def test_images_with_a_name_a_line_are_read_as_the_folder_is(world, birds):
    names = "\n".join(world.classifier.class_names[label] for label in birds.labels)
    batch = torch.cat([birds.images, torch.ones_like(birds.images[..., :1])], dim=-1)  # transparent ones, too
    from_batch = run(world, dataset="", images=batch, class_names=names).args[2]
    assert from_batch == run(world).args[2]


def test_grey_images_are_read_as_grey(world, birds):
    grey = birds.images.mean(-1, keepdim=True)
    tables = [
        run(world, dataset="", images=images, class_names="Dune Kite").args[2]
        for images in (grey, grey.expand(-1, -1, -1, 3))
    ]
    assert tables[0] == tables[1]


def test_held_out_images_are_the_default(world, birds):
    """A fifth of three images is one; two thirds are two."""
    counts = [
        run(world, images_from="validation", **share).args[2].splitlines()[1].split()[2]
        for share in ({}, {"validation_share": 0.67})
    ]
    assert counts == ["4", "8"]


def test_one_class_name_serves_the_whole_batch(world, birds):
    table = run(world, dataset="", images=birds.images[:3], class_names=world.classifier.class_names[0]).args[2]
    assert table.splitlines()[1].split()[2] == "3"


def test_the_seed_draws_the_images(world, birds):
    # At half of the model's size, where the VAE does not keep every image's marks.
    tables = [run(world, per_class=1, seed=seed, image_size=64).args[2] for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]


def test_a_changed_folder_is_checked_again(world, birds):
    stamp = world.node.fingerprint_inputs(dataset="checked", per_class=3)
    assert stamp == world.node.fingerprint_inputs(dataset="checked", per_class=3)
    extra = next(birds.root.iterdir()) / "extra.png"
    extra.write_bytes(b"x")
    assert stamp != world.node.fingerprint_inputs(dataset="checked", per_class=3)
    extra.unlink()


def test_interrupt_stops_it(world, birds):
    from comfy import model_management

    model_management.interrupt_current_processing(True)
    with pytest.raises(model_management.InterruptProcessingException):
        run(world)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"dataset": ""}, "Give either a dataset folder or images"),
        ({"images": torch.zeros(1, 64, 64, 3)}, "Give either a dataset folder or images"),
        ({"dataset": "../elsewhere"}, "must be relative and without"),
        ({"dataset": "nowhere"}, "No dataset folder at .*nowhere"),
        ({"dataset": "", "images": torch.zeros(3, 64, 64, 3), "class_names": "A\nB"}, "2 class names for 3 images"),
        ({"dataset": "", "images": torch.zeros(3, 64, 64, 3), "class_names": " "}, "0 class names for 3 images"),
        (
            {"dataset": "", "images": torch.zeros(1, 64, 64, 3), "class_names": "Dune Kit"},
            "does not know 1 of 1 class name: 'Dune Kit'.*closest 'Dune Kite'",
        ),
        ({"dataset": "", "images": torch.zeros(1, 64, 64, 2), "class_names": "Dune Kite"}, r"got \[1, 64, 64, 2\]"),
        ({"dataset": "", "images": torch.zeros(64, 64, 3), "class_names": "Dune Kite"}, r"got \[64, 64, 3\]"),
        ({"per_class": 0}, "Invalid per_class: 0. Choose a whole number from 1 to 10,000"),
        ({"validation_share": 1.0}, "Invalid validation_share: 1.0. Choose a number from 0.01 to 0.9"),
    ],
)
def test_bad_input_is_named(world, birds, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(world, **inputs)


def test_folder_without_images_and_folder_of_other_classes(world, birds):
    empty = birds.root.with_name("empty")
    (empty / "Dune Kite").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Dune Kite holds no image"):
        run(world, dataset="empty")
    others = birds.root.with_name("others")
    for i, name in enumerate(("Gull", "Tern", "Dune Kite")):
        (others / name).mkdir(parents=True)
        for j in range(2):
            Image.new("RGB", (8, 8), (i, j, 0)).save(others / name / f"{j}.png")
    with pytest.raises(ValueError, match="does not know 2 of 3 class names: 'Gull', 'Tern'"):
        run(world, dataset="others")


def test_vae_of_another_model(world, birds, monkeypatch):
    import comfy.latent_formats

    monkeypatch.setattr(world.model.model, "latent_format", comfy.latent_formats.SD3())
    with pytest.raises(ValueError, match="latents of 8 channels, the model of 16. Connect the VAE that belongs"):
        run(world, model=world.model)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"start_percent": 0.999, "end_sigma": 0.5}, "No noise level to check: start_percent 0.999 is sigma 0.0"),
        ({"noise_levels": 0}, "Invalid noise_levels: 0"),
        ({"end_sigma": 0.0}, "Invalid end_sigma: 0.0. Choose a number from 0.001 to 100"),
    ],
)
def test_an_impossible_window(world, birds, inputs, message):
    with pytest.raises(ValueError, match=message):
        run(world, model=world.model, positive=world.prompt, **inputs)


def test_a_contour_of_one_image_is_refused(world, birds):
    controlled = [[cond, {**options, "control": object()}] for cond, options in world.prompt]
    with pytest.raises(ValueError, match="from before Apply ControlNet"):
        run(world, model=world.model, positive=controlled)


# --- the command


@pytest.mark.releases
def test_command(comfyui, birds, tmp_path, capsys):
    from higfa_core.commands import check_classifier as check_cli
    from higfa_core.miniature import models

    file, plot = models.WEIGHTS / "guide.safetensors", tmp_path / "plots" / "check.png"
    options = ["--miniature", "--images-from", "all", "--noise-levels", "1", "--plot", str(plot)]
    assert check_cli.main([str(file), str(birds.root), *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("stage") and "sigma 0.8" in out and "n=12" in out
    assert Image.open(plot).size == (1100, 550)


def test_command_says_what_is_wrong(comfyui, birds, tmp_path, capsys):
    from higfa_core.commands import check_classifier as check_cli
    from higfa_core.miniature import models

    guide = str(models.WEIGHTS / "guide.safetensors")
    missing, other = str(tmp_path / "missing.safetensors"), str(tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(2)}, other)
    for arguments, message in (
        ([missing, str(birds.root), "--miniature"], "No classifier file"),
        ([guide, str(tmp_path), "--miniature"], "No class folders"),
        ([guide, str(birds.root)], "No models given"),
        ([guide, str(birds.root), "--vae", missing], "No file"),
        ([guide, str(birds.root), "--vae", other], "ComfyUI cannot use"),
        ([guide, str(birds.root), "--checkpoint", other], "ComfyUI cannot use"),
    ):
        assert check_cli.main(arguments) == 1
        assert message in capsys.readouterr().err
