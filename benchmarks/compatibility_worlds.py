"""The models on which benchmarks/compatibility.py runs ComfyUI's nodes, and those nodes applied to them."""

import importlib.util

import torch
from compatibility_cases import FLUX, MINIATURE, SD3, SD15, STEPS, Case, declared_inputs
from guided_digests import SETTINGS, World
from miniature_world import ROOT


class Miniature(World):
    """The miniature, with the contour on positive and negative; `alone` has it on the positive only."""

    def __init__(self, nodes):
        super().__init__(nodes)
        self.alone = self.positive, self.empty
        self.both = self.positive, self.negative
        self.other = self.prompt(self.names[5])

    def soft_mask(self):
        """Rises from 0 to 1 over the width."""
        return torch.linspace(0, 1, 128).expand(1, 128, 128).contiguous()

    def lora(self):
        """Rank 2 on every attention projection, in the layout of kohya's trainer."""
        import comfy.lora

        generator, weights = torch.Generator().manual_seed(7), {}
        shapes = self.model.model.state_dict()
        known = sorted(comfy.lora.model_lora_keys_unet(self.model.model, {}).items())
        once = {target: key for key, target in known if key.startswith("lora_unet_")}  # some weights have two names
        for target, key in once.items():
            if "_attn" in key:
                out, inner = shapes[target].shape
                weights[f"{key}.lora_up.weight"] = 0.3 * torch.randn(out, 2, generator=generator)
                weights[f"{key}.lora_down.weight"] = torch.randn(2, inner, generator=generator) / inner**0.5
        return weights

    def hooked(self, positive):
        """The positive with a LoRA that belongs to it alone."""
        import comfy.hooks

        hooks = comfy.hooks.create_hook_lora(self.lora(), 1.0, 1.0)
        return comfy.hooks.set_hooks_for_conditioning(positive, hooks)

    def masked(self, positive):
        """A second prompt in the right half, and nowhere else."""
        mask = torch.zeros(1, 128, 128)
        mask[..., 64:] = 1.0
        part = self.nodes["ConditioningSetMask"]().append(self.prompt(self.names[5]), mask, "default", 1.0)[0]
        return self.nodes["ConditioningCombine"]().combine(positive, part)[0]

    def scheduled(self, positive):
        """Another prompt from half of the noise schedule on."""
        window = self.nodes["ConditioningSetTimestepRange"]().set_range
        late = window(self.prompt(self.names[5]), 0.5, 1.0)[0]
        return self.nodes["ConditioningCombine"]().combine(window(positive, 0.0, 0.5)[0], late)[0]


class Small(Miniature):
    """A small model of another family with random weights and no ControlNet, from the tests."""

    def __init__(self, nodes, family):
        spec = importlib.util.spec_from_file_location("zoo", ROOT / "tests" / "comfy" / "zoo.py")
        zoo = importlib.util.module_from_spec(spec)  # ComfyUI has a package `tests` of its own
        spec.loader.exec_module(zoo)
        made = zoo.family(family)
        self.nodes, self.model, self.vae, self.classifier = nodes, made.model, made.vae, zoo.classifier()
        self.names, self.shape, self.positive = list(zoo.CLASSES), made.shape, made.positive
        self.empty = self.negative = made.negative
        self.alone = self.both = made.positive, made.negative

    def latent(self, batch, mask=None):
        return {"samples": torch.zeros(batch, *self.shape)}


MAKERS = {
    MINIATURE: Miniature,
    SD15: lambda nodes: Small(nodes, "sd15"),
    SD3: lambda nodes: Small(nodes, "sd3"),
    FLUX: lambda nodes: Small(nodes, "flux"),
}


def apply(world: Miniature, name: str, case: Case, model=None):
    """The MODEL that the node of that name gives."""
    special = {
        "other": lambda: world.other,
        "lora": world.lora,
        "sharpen": lambda: world.nodes["LatentOperationSharpen"].execute(9, 1.0, 0.1)[0],
    }
    inputs = {k: special[v]() if isinstance(v, str) and v in special else v for k, v in case.inputs.items()}
    return call(world.nodes[name], model=model or world.model, **inputs)


def call(node, **given):
    """The first output of a node of either API, with its defaults for what is not given."""
    known = {name: default(kind, options) for name, (kind, options) in declared_inputs(node).items()}
    inputs = {name: value for name, value in {**known, **given}.items() if value is not None}
    function = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
    return function(**inputs)[0]


def default(kind, options):
    """None where there is nothing to choose by itself."""
    choices = kind if isinstance(kind, list | tuple) else options.get("options")
    return options.get("default", choices[0] if choices else None)


def sampled_with(guider, world: Miniature) -> torch.Tensor:
    """Latents of SamplerCustomAdvanced with that guider."""
    import comfy.sample
    import comfy.samplers

    latent = world.latent(1)["samples"]
    noise = comfy.sample.prepare_noise(latent, SETTINGS["seed"])
    schedule = world.model, STEPS, world.model.load_device, SETTINGS["sampler_name"], SETTINGS["scheduler"], 1.0
    sampler = comfy.samplers.sampler_object(SETTINGS["sampler_name"])
    return guider.sample(noise, latent, sampler, comfy.samplers.KSampler(*schedule).sigmas, disable_pbar=True, seed=7)
