"""What the guider and the MODEL patch share: memory, host synchronisation, masks, mixtures, decoders, checks."""

import copy
import pkgutil
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..numeric import same
from .guiding import CFG, noise_for, ours, run, stock


class Fixed:
    """A decoder choice that gives one decoder."""

    name = "fixed"

    def __init__(self, decoder):
        self.decoder, self.latent_format = decoder, decoder.latent_format

    def build(self, device):
        return self.decoder


def corrector_for(world, decoder=None, known=None, batch=2, names=None, **settings):
    from higfa_core.comfy.corrector import Corrector
    from higfa_core.comfy.decoder import VAEDecoder
    from higfa_core.comfy.engine import Engine, Plan
    from higfa_core.guidance.schedule import Window
    from higfa_core.guidance.settings import Guidance
    from higfa_core.guidance.targets import read_targets
    from higfa_core.guidance.trace import Trace

    targets = read_targets(names or [world.name], world.classifier)
    choice = Fixed(VAEDecoder(world.vae, world.model.model.latent_format, "cpu")) if decoder is None else decoder
    engine = Engine(world.classifier, targets, world.vae, Guidance(**settings))
    trace = Trace([0.4, 0.3, 0.0], [0, 1], [world.name])
    return Corrector(engine, Plan(choice, *targets.for_batch(batch)), Window(0.8, 0.05), trace, "cpu", known)


@pytest.mark.releases
class TestMemory:
    def asked_for(self, monkeypatch, guider, noise):
        import comfy.model_management as mm

        asked = []
        original = mm.load_models_gpu

        def spy(models, memory_required=0, *args, **kwargs):
            asked.append((memory_required, kwargs.get("minimum_memory_required")))
            return original(models, memory_required, *args, **kwargs)

        monkeypatch.setattr(mm, "load_models_gpu", spy)
        run(guider, noise, steps=3)
        return asked[0]

    @pytest.mark.parametrize("batch", [1, 4])
    def test_comfyui_is_told_before_it_loads_models(self, world, monkeypatch, batch):
        from higfa_core.comfy.decoder import choose_decoder
        from higfa_core.comfy.memory import guidance_memory
        from higfa_core.guidance.settings import Guidance

        noise = noise_for(batch)
        with monkeypatch.context() as patch:
            plain = self.asked_for(patch, stock(world, world.text, world.empty), noise)
        guided = self.asked_for(monkeypatch, ours(world, world.text, world.empty), noise)
        choice = choose_decoder("auto", world.vae, world.model.model.latent_format, 128)
        size = guidance_memory(world.classifier, choice, Guidance(), noise.shape)
        weights = sum(p.numel() for p in world.classifier.module.parameters()) * 4
        assert size > weights
        assert [g - p for g, p in zip(guided, plain)] == pytest.approx([size, size])

    def test_grows_with_what_is_decoded_at_once(self, world):
        from higfa_core.comfy.decoder import choose_decoder
        from higfa_core.comfy.memory import guidance_memory
        from higfa_core.guidance.settings import Guidance

        latent_format = world.model.model.latent_format
        choice = choose_decoder("vae", world.vae, latent_format, 512)

        def size(batch, side, **settings):
            side //= latent_format.spacial_downscale_ratio
            return guidance_memory(world.classifier, choice, Guidance(**settings), (batch, 8, side, side))

        assert size(4, 512) == size(1, 512) < size(4, 512, micro_batch=4) < size(8, 512, micro_batch=8)
        assert size(4, 256) > size(1, 256)


class _HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a device: .item(), float(), bool(), nonzero."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


class TestHostReads:
    def test_counter_counts(self):
        with _HostReads() as reads:
            float(torch.ones(1)), bool(torch.ones(1) > 0)
        assert reads.count == 2

    @pytest.mark.parametrize("preset", ["relax", "boost", "custom"])
    def test_a_guided_call_reads_nothing_back(self, world, preset):
        corrector = corrector_for(world, preset=preset, eta=0.5, views=2)
        with _HostReads() as reads:  # not in inference mode, which hides the calls from the counter
            corrector(noise_for(2), 0.4)
            corrector(noise_for(2, seed=1), 0.3)
        assert reads.count == 0 and len(corrector.trace.calls) == 2

    def test_a_model_call_reads_the_noise_level_once(self, world):
        guider, reads = ours(world, interval=1), []
        original = guider._guided

        def counted(run, call):
            with torch.inference_mode(False), _HostReads() as host:
                run.call(call.x, call.timestep.clone(), call.options)
            reads.append(host.count)
            return original(run, call)

        guider._guided = counted
        run(guider, noise_for(1))
        assert reads and set(reads) == {1}


class _Spy:
    name, dtype, latent_format = "spy", torch.float32, SimpleNamespace(spacial_downscale_ratio=8)

    def __init__(self):
        self.seen = []

    def __call__(self, latents):
        self.seen.append(latents.detach())
        return latents[:, :3].sigmoid()


@pytest.mark.releases
class TestMask:
    """Inpainting: the classifier sees the kept part around the new one; the step stays in the new part."""

    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1.0

    def test_classifier_sees_the_kept_part(self, world):
        decoder = _Spy()
        new, known = noise_for(2), noise_for(2, seed=3)
        delta = corrector_for(world, Fixed(decoder), known, eta=1.0)(new, 0.4, self.mask).delta
        assert torch.equal(decoder.seen[0][..., :8], known[..., :8])
        assert torch.equal(decoder.seen[0][..., 8:], new[..., 8:])
        assert delta[..., :8].abs().max() == 0 < delta[..., 8:].abs().max()

    def test_in_a_whole_run(self, world):
        latent = noise_for(1, seed=5)
        guider = ours(world, eta=1.0)
        result = run(guider, noise_for(1), mask=self.mask, latent=latent)
        torch.testing.assert_close(result[..., :8], latent[..., :8])
        unguided = run(ours(world, eta=0.0), noise_for(1), mask=self.mask, latent=latent)
        assert not torch.equal(result[..., 8:], unguided[..., 8:])

    def test_mask_function_of_the_model_is_used(self, world):
        """Differential Diffusion turns a grey mask into another one at every noise level."""
        seen, model = [], world.model.clone()

        def denoise_mask_function(sigma, mask, extra_options):
            seen.append((float(sigma[0]), extra_options["sigmas"].shape[0]))
            return (mask >= 0.5).float()

        model.set_model_denoise_mask_function(denoise_mask_function)
        guider = ours(world, model=model, interval=1, max_evals=100)
        result = run(guider, noise_for(1), mask=self.mask * 0.6, latent=noise_for(1, seed=5))
        assert torch.isfinite(result).all()
        sigmas = [s for s, _ in seen]
        assert all(sigmas.count(call.sigma) == 2 for call in guider.trace.calls), "once by ComfyUI, once by us"


class TestMixtures:
    def test_weights_steer_between_two_classes(self, world):
        a, b = world.names[2], world.names[3]
        noise, shares = noise_for(4), {}
        for line in (a, f"{a}:0.5 | {b}:0.5", b):
            latent = run(ours(world, world.text, world.empty, names=[line], eta=1.0, interval=1), noise)
            with torch.inference_mode():
                p = world.classifier.predict_proba(world.vae.decode(latent))
            shares[line] = p[:, world.classifier.index(b)].mean().item()
        values = list(shares.values())
        assert values[0] < values[1] < values[2]

    def test_probability_is_the_agreement(self, exact):
        line = f"{exact.names[2]}:0.5 | {exact.names[3]}:0.5"
        corrector = corrector_for(exact, names=[line], batch=1)
        corrector(noise_for(1), 0.4)
        image = corrector.ladder.decoder(noise_for(1))
        p = exact.classifier.predict_proba(image.movedim(1, -1))[0, [2, 3]]
        # In float32 logarithms of 10 and more are rounded a few times: 1e-4 is some hundred roundings of p.
        # exp(-KL) of two equal halves: sqrt(p_a / 0.5) sqrt(p_b / 0.5)
        torch.testing.assert_close(corrector.signal.probability[0], 2 * (p[0] * p[1]).sqrt(), rtol=1e-4, atol=0)

    def test_cycled_over_the_batch(self, world):
        noise, (a, b) = noise_for(4), world.names[2:4]
        cycled = run(ours(world, names=[a, b]), noise)
        assert torch.equal(cycled, run(ours(world, names=[a, b, a, b]), noise))


@pytest.mark.releases
class TestDecoder:
    def test_half_precision_gradient_points_where_the_full_one_does(self, world):
        from higfa_core.comfy.decoder import VAEDecoder

        def gradient(dtype):
            vae = SimpleNamespace(
                first_stage_model=world.vae.first_stage_model,
                process_output=world.vae.process_output,
                vae_dtype=dtype,
            )
            decoder = VAEDecoder(vae, world.model.model.latent_format, "cpu")
            corrector = corrector_for(world, Fixed(decoder), parallel=1.0)
            return corrector._read(noise_for(2), corrector.targets).gradient.flatten(1)

        exact = gradient(torch.float32)
        for dtype in (torch.float16, torch.bfloat16):
            assert torch.cosine_similarity(exact, gradient(dtype)).min() > 0.97

    def test_equals_vae_decode(self, exact):
        from higfa_core.comfy.decoder import VAEDecoder

        latent = noise_for(2)
        mine = VAEDecoder(exact.vae, exact.model.model.latent_format, "cpu")(latent)
        with torch.inference_mode():
            theirs = exact.vae.decode(exact.model.model.latent_format.process_out(latent))
        torch.testing.assert_close(mine.movedim(1, -1), theirs.float())

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"latent_channels": 16}, "16 channels, the model of 8"), ({"output_channels": 2}, "2 channels, not to an")],
    )
    def test_vae_of_another_model_is_refused_before_the_model_is_loaded(self, world, monkeypatch, change, message):
        import comfy.model_management as mm

        vae = copy.copy(world.vae)
        for name, value in change.items():
            setattr(vae, name, value)
        guider = ours(SimpleNamespace(**{**world.__dict__, "vae": vae}), decoder="vae")
        monkeypatch.setattr(mm, "load_models_gpu", lambda *args, **kwargs: pytest.fail("loaded"))
        with pytest.raises(ValueError, match=message):
            run(guider, noise_for(1))

    def test_without_step_the_classifier_only_measures(self, exact):
        corrector = corrector_for(exact, eta=0.0)
        delta = corrector(noise_for(2), 0.4).delta
        stepped = corrector_for(exact, eta=0.5)
        stepped(noise_for(2), 0.4)
        assert delta.abs().max() == 0
        torch.testing.assert_close(corrector.signal.probability, stepped.signal.probability)


class TestOutOfMemory:
    """Wherever a guided call may want memory; what raises is replaced, the rest is real."""

    PLACES = {
        "weights of the decoder": "higfa_core.comfy.decoder.VAEDecoder.__init__",
        "weights of the classifier": "higfa_core.classifier.FineGrainedClassifier.clone_params",
        "forward": "higfa_core.comfy.decoder.VAEDecoder.__call__",
        "backward": "torch.autograd.grad",
    }
    KINDS = (
        torch.cuda.OutOfMemoryError("no"),
        getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    )

    def called(self, world):
        """A corrector after its first guided call, as a run makes it."""
        from higfa_core.comfy.decoder import choose_decoder

        choice = choose_decoder("vae", world.vae, world.model.model.latent_format, 128)
        corrector = corrector_for(world, choice, eta=1.0, batch=1)
        return corrector, corrector(noise_for(1), 0.4)

    def raise_at(self, monkeypatch, place, error, times=100):
        """The calls that raised; after so many the function is itself again."""
        name, calls = self.PLACES[place], []
        owner, attribute = name.rsplit(".", 1)
        original = getattr(pkgutil.resolve_name(owner), attribute)

        def function(*args, **kwargs):
            if len(calls) == times:
                return original(*args, **kwargs)
            calls.append(1)
            raise error

        monkeypatch.setattr(name, function)
        return calls

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
    def test_no_classifier_rather_than_no_image(self, world, no_tiny_decoder, monkeypatch, place, error):
        calls = self.raise_at(monkeypatch, place, error)
        corrector, correction = self.called(world)
        assert len(calls) == 1 and correction is None
        assert corrector.trace.notes == [
            "out of memory: continued without the classifier; use decoder 'tiny' or a smaller image"
        ]

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("whose", ["the latent format's own", "TAESD"])
    def test_the_tiny_decoder_comes_before_none(self, world, request, monkeypatch, place, whose):
        if whose == "TAESD":
            request.getfixturevalue("tiny")
        self.raise_at(monkeypatch, place, self.KINDS[0], times=1)
        corrector, correction = self.called(world)
        assert corrector.ladder.decoder.name == "tiny" and correction.delta.abs().max() > 0
        assert corrector.trace.notes == ["out of memory: continued with the tiny decoder"]

    def test_no_memory_for_the_tiny_decoder_either(self, exact, rounding, tiny, monkeypatch):
        """In a whole run, which gives what stock gives."""
        monkeypatch.setattr(exact.model.model.latent_format, "taesd_decoder_name", tiny.stem, raising=False)
        self.raise_at(monkeypatch, "weights of the decoder", self.KINDS[0])
        monkeypatch.setattr("comfy.taesd.taesd.TAESD", Mock(side_effect=self.KINDS[0]))
        guider, noise = ours(exact), noise_for(1)
        expected = run(stock(exact, exact.on_positive, exact.empty), noise)
        assert same(run(guider, noise), expected, rounding)
        assert guider.trace.summary().startswith("classifier never ran in 12 steps; out of memory: continued with")

    def test_any_other_error_ends_the_run(self, world, monkeypatch):
        self.raise_at(monkeypatch, "forward", RuntimeError("shapes do not match"))
        with pytest.raises(RuntimeError, match="shapes do not match"):
            self.called(world)


@pytest.mark.releases
class TestGuiderInput:
    def test_no_negative_needs_cfg_one(self, world):
        guider = ours(world)
        guider.set_conds(world.positive, None)
        with pytest.raises(ValueError, match="cfg is 3 and no negative"):
            run(guider, noise_for(1))
        guider.set_cfg(1.0)
        assert torch.isfinite(run(guider, noise_for(1))).all()

    def test_conditions_of_an_earlier_call_are_gone(self, world):
        noise = noise_for(1)
        guider = ours(world, eta=0.0, preset="constant", contour_scale=0.5)
        guider.set_conds(world.text, world.empty)
        assert torch.equal(run(guider, noise), run(stock(world, world.text, world.empty), noise))

    def test_nested_takes_the_control_off_the_negative_even_if_it_is_the_only_one(self, world):
        noise = noise_for(1)
        guider = ours(world, world.text, world.negative, eta=0.0, preset="constant")
        assert torch.equal(run(guider, noise), run(stock(world, world.text, world.empty), noise))

    def test_joint_contour_scale_is_the_strength_of_the_control(self, world):
        import nodes

        noise = noise_for(1)
        with torch.inference_mode():
            hint = world.positive[0][1]["control"].cond_hint_original.movedim(1, -1)
            control = world.positive[0][1]["control"]
            both = nodes.ControlNetApplyAdvanced().apply_controlnet(
                world.text, world.empty, control.copy(), hint, 0.4, 0.0, 1.0
            )
        result = run(ours(world, eta=0.0, preset="constant", composition="joint", contour_scale=0.4), noise)
        assert torch.equal(result, run(stock(world, *both), noise))
        assert control.strength == 1.0

    def test_classifier_with_other_outputs_than_names(self, world):
        wrong = copy.copy(world.classifier)
        wrong.logits = lambda images, params=None: images.mean((2, 3))
        with pytest.raises(ValueError, match="3 outputs for 32 class names"):
            run(ours(world, classifier=wrong), noise_for(1))

    def test_targets_that_do_not_fill_the_batch_are_refused_before_the_model_is_loaded(self, world, monkeypatch):
        import comfy.model_management as mm

        monkeypatch.setattr(mm, "load_models_gpu", lambda *args, **kwargs: pytest.fail("loaded"))
        with pytest.raises(ValueError, match="2 class names for a batch of 3.*2 or 4"):
            run(ours(world, names=list(world.names[:2])), noise_for(3))

    def test_state_is_gone_after_a_run(self, world):
        guider = ours(world)
        run(guider, noise_for(1))
        assert guider.run is None and guider.cfg == CFG

    def test_no_trace_of_an_earlier_run_where_nothing_is_sampled(self, world):
        guider, noise = ours(world), noise_for(1)
        run(guider, noise)
        import comfy.samplers

        guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), torch.FloatTensor([]))
        assert guider.trace is None
