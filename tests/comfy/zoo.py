"""Small ComfyUI models of every family, with random weights: real classes, latent formats and noise schedules.

Where ComfyUI's detection leaves the width free (SD3, Flux, Wan), a state dict of the family's layout goes through its
own loader. The UNets are told apart by their full width, so theirs is detected for its layout only and then handed to
the family's class in comfy.supported_models. Import this module after the `comfyui` fixture.
"""

import functools
from dataclasses import dataclass

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ldm.audio.dit
import comfy.ldm.audio.embedders
import comfy.ldm.flux.model
import comfy.ldm.models.autoencoder
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.ldm.wan.vae
import comfy.model_base
import comfy.model_detection
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.supported_models
import timm
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP

from higfa_core.classifier import FineGrainedClassifier, Preprocess
from higfa_core.comfy.guider import HiGFAGuider
from higfa_core.comfy.patchers import attach_patcher
from higfa_core.guidance.settings import Guidance

CLASSES = ("Kite", "Snipe", "Swallow", "Wren", "Rail")
TOKENS = 7
CPU = torch.device("cpu")
BARE = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
SD15_UNET = {
    **UNET, "model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": 16, "num_heads": 8,
    "use_linear_in_transformer": False,
}  # fmt: skip
# Twelve blocks up: by the eleventh ComfyUI tells v-prediction from eps.
SD2_UNET = {
    **UNET, "model_channels": 64, "num_res_blocks": [3, 3, 3], "channel_mult": [1, 1, 1],
    "transformer_depth": [1] + [0] * 8, "transformer_depth_output": [1] + [0] * 11, "transformer_depth_middle": 1,
    "context_dim": 16, "num_head_channels": 64, "use_linear_in_transformer": True,
}  # fmt: skip
SDXL_UNET = {
    **UNET, "model_channels": 64, "num_res_blocks": [1, 1, 1], "channel_mult": [1, 1, 2],
    "transformer_depth": [0, 1, 2], "transformer_depth_output": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": 1,
    "context_dim": 16, "num_head_channels": 64, "use_linear_in_transformer": True, "num_classes": "sequential",
    "adm_in_channels": 2816,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One model with all that a run on it needs.

    Args:
        shape: of one latent.
        cfg: 1 for distilled guidance, where ComfyUI runs no negative.
    """

    model: comfy.model_patcher.ModelPatcher
    positive: list
    negative: list
    vae: comfy.sd.VAE | None
    shape: tuple[int, ...]
    cfg: float = 3.0

    def latents(self, batch: int = 1, seed: int = 0, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """Standard normal noise, of which image i is the same in every batch."""
        singles = [torch.Generator().manual_seed(1000 * seed + i) for i in range(batch)]
        return torch.stack([torch.randn(shape or self.shape, generator=g) for g in singles])


def random_weights(module: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    """Norms near 1, biases near 0, all else with variance 1 / fan-in: no signal dies, explodes or is constant."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, weight in module.state_dict().items():
        values = torch.randn(weight.shape, generator=generator)
        if weight.ndim >= 2:
            state[name] = values / weight[0].numel() ** 0.5
        else:
            state[name] = 0.2 * values + (0.0 if name.endswith(("bias", "running_mean")) else 1.0)
    return state


def prompt(width: int, seed: int, **options) -> list:
    """Conditioning of TOKENS random states, as a text encoder gives it."""
    return [[torch.randn(1, TOKENS, width, generator=torch.Generator().manual_seed(seed)), options]]


def pooled(width: int, seed: int) -> torch.Tensor:
    return torch.randn(1, width, generator=torch.Generator().manual_seed(seed))


def patcher(model: comfy.model_base.BaseModel) -> comfy.model_patcher.ModelPatcher:
    return comfy.model_patcher.CoreModelPatcher(model, load_device=CPU, offload_device=CPU)


def build(config, state: dict) -> comfy.model_patcher.ModelPatcher:
    """As load_diffusion_model_state_dict goes on once it has the model's config."""
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(state, "", device=CPU)
    model.load_model_weights(state, "")
    return patcher(model)


def unet(kind: type, layout: dict) -> comfy.model_patcher.ModelPatcher:
    state = random_weights(UNetModel(**layout, **BARE))
    return build(kind(comfy.model_detection.detect_unet_config(state, "")), state)


def detected(net: torch.nn.Module) -> comfy.model_patcher.ModelPatcher:
    return comfy.sd.load_diffusion_model_state_dict(random_weights(net), model_options={"dtype": torch.float32})


def kl_vae(channels: int = 4, levels: int = 3) -> comfy.sd.VAE:
    """The AutoencoderKL of SD, SDXL, SD3 and Flux with 32 channels; each level above the first doubles the side."""
    layout = {
        "double_z": True, "z_channels": channels, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1] * levels, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    parameters = {"ddconfig": layout, "embed_dim": channels}
    with torch.device("meta"):
        net = comfy.ldm.models.autoencoder.AutoencoderKL(**parameters)
    vae = comfy.sd.VAE(sd=random_weights(net), config={"params": parameters}, dtype=torch.float32)
    # With a config of one's own ComfyUI leaves these at SD's values.
    vae.latent_channels, vae.downscale_ratio, vae.upscale_ratio = channels, 2 ** (levels - 1), 2 ** (levels - 1)
    return vae


def video_vae() -> comfy.sd.VAE:
    """The 5-D autoencoder of Wan and Qwen-Image."""
    net = comfy.ldm.wan.vae.WanVAE(
        dim=4, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]
    )
    return comfy.sd.VAE(sd=random_weights(net), dtype=torch.float32)


@functools.cache
def family(name: str) -> Family:
    """The family of that name, built once: no run may change it."""
    return globals()[name]()


@functools.cache
def exact(name: str) -> Family:
    """The same in float64, for what is equal but not to the last bit: see numeric.py one folder up."""
    made = globals()[name]()
    if name not in ("flux", "qwen_image"):  # ComfyUI's rotary embedding takes no float64
        made.model.model.diffusion_model.double().dtype = torch.float64
    made.vae.vae_dtype = torch.float64
    return made


def sd15() -> Family:
    return Family(unet(comfy.supported_models.SD15, SD15_UNET), prompt(16, 1), prompt(16, 2), kl_vae(), (4, 8, 8))


def sd2() -> Family:
    return Family(unet(comfy.supported_models.SD20, SD2_UNET), prompt(16, 1), prompt(16, 2), kl_vae(), (4, 8, 8))


def sdxl() -> Family:
    model = unet(comfy.supported_models.SDXL, SDXL_UNET)
    positive, negative = (prompt(16, i, pooled_output=pooled(1280, i)) for i in (1, 2))
    return Family(model, positive, negative, kl_vae(), (4, 8, 8))


def sd3() -> Family:
    net = OpenAISignatureMMDITWrapper(
        in_channels=16, depth=2, adm_in_channels=2048, num_patches=256, pos_embed_max_size=16,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}},
        **BARE,
    )  # fmt: skip
    positive, negative = (prompt(32, i, pooled_output=pooled(2048, i)) for i in (1, 2))
    return Family(detected(net), positive, negative, kl_vae(16), (16, 8, 8))


def flux() -> Family:
    net = comfy.ldm.flux.model.Flux(
        image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=32, context_in_dim=32,
        hidden_size=128, mlp_ratio=4.0, num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56],
        theta=10000, qkv_bias=True, guidance_embed=True, txt_ids_dims=[], **BARE,
    )  # fmt: skip
    positive, negative = (prompt(32, i, pooled_output=pooled(32, i), guidance=3.5) for i in (1, 2))
    return Family(detected(net), positive, negative, kl_vae(16), (16, 8, 8), cfg=1.0)


def qwen_image() -> Family:
    """An image model whose latents are 5-D, with one frame."""
    config = comfy.supported_models.QwenImage(
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 1,
            "num_attention_heads": 1,
            "joint_attention_dim": 32,
        }  # fmt: skip
    )
    with torch.device("meta"):
        net = comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(**config.unet_config, **BARE)
    return Family(build(config, random_weights(net)), prompt(32, 1), prompt(32, 2), video_vae(), (16, 1, 8, 8))


def wan_video() -> Family:
    net = comfy.ldm.wan.model.WanModel(dim=128, ffn_dim=128, num_heads=1, num_layers=1, text_dim=4096, **BARE)
    return Family(detected(net), prompt(4096, 1), prompt(4096, 2), video_vae(), (16, 3, 8, 8))


def stable_audio() -> Family:
    config = comfy.supported_models.StableAudio(
        {"audio_model": "dit1.0", "embed_dim": 48, "depth": 1, "num_heads": 1, "project_cond_tokens": True}
    )
    net = comfy.ldm.audio.dit.AudioDiffusionTransformer(**config.unet_config, **BARE)
    seconds = random_weights(comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=512))
    state = {
        **random_weights(net),
        **{f"conditioner.conditioners.seconds_{k}.{n}": w for k in ("start", "total") for n, w in seconds.items()},
    }
    return Family(build(config, state), prompt(768, 1), prompt(768, 2), None, (64, 16))


class LinearDecoder(torch.nn.Module):
    """Latents [B, C, H, W] of unit size -> images of the same side, well inside -1..1."""

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.mix = torch.nn.Conv2d(channels, 3, 1)
        self.mix.load_state_dict({k: 0.1 * scale * w for k, w in random_weights(self.mix).items()})

    def decode(self, latents):
        return self.mix(latents)


def linear_vae(latent_format) -> comfy.sd.VAE:
    """A VAE around LinearDecoder; ComfyUI builds only networks it knows, so it is set up around one of those."""
    vae = kl_vae(latent_format.latent_channels, levels=1)
    vae.first_stage_model = LinearDecoder(latent_format.latent_channels, latent_format.scale_factor).eval()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(vae.first_stage_model, load_device=CPU, offload_device=CPU)
    return vae


class GaussianDenoiser(torch.nn.Module):
    """The exact model for data N(m, 1), where m is the mean of the prompt's states; predicts eps, or flow velocity."""

    dtype = torch.float32

    def __init__(self, flow: bool):
        super().__init__()
        self.flow = flow

    def forward(self, x, timesteps, context, transformer_options, **_):
        sigma = transformer_options["sigmas"][0]
        signal = 1 - sigma if self.flow else 1.0
        variance = signal**2 + sigma**2
        # ComfyUI hands eps models x / sqrt(1 + sigma^2).
        x = x if self.flow else x * variance.sqrt()
        mean = context.mean((1, 2))[:, None, None, None]
        denoised = mean + (x - signal * mean) * signal / variance
        return (x - denoised) / sigma


def gaussian(flow: bool = False) -> Family:
    """The schedule and latents of SD1.5 or SD3 around a denoiser in closed form; a call takes about a millisecond."""
    kind = comfy.supported_models.SD3 if flow else comfy.supported_models.SD15
    kinds = comfy.model_base.ModelType
    channels = 16 if flow else 4
    config = kind({"in_channels": channels, "disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(config, kinds.FLOW if flow else kinds.EPS)
    model.diffusion_model = GaussianDenoiser(flow)
    return Family(patcher(model), prompt(16, 1), prompt(16, 2), linear_vae(model.latent_format), (channels, 8, 8))


def gaussian_flow() -> Family:
    return gaussian(flow=True)


def controlnet(seed: int = 5, dtype=torch.float32) -> comfy.controlnet.ControlNet:
    """ComfyUI's own ControlNet for the SD1.5-like UNet; hints are eight times the latent's side."""
    shared = {k: v for k, v in SD15_UNET.items() if k not in ("transformer_depth_output", "out_channels")}
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, **shared, **BARE)
    weights = random_weights(net, seed)
    net = net.to_empty(device=CPU)
    net.load_state_dict(weights)
    net.to(dtype).dtype = dtype
    return comfy.controlnet.ControlNet(net.eval(), load_device=CPU)


def classifier(side: int = 32) -> FineGrainedClassifier:
    """Five classes, under ComfyUI's memory management as the loader node puts it."""
    net = timm.create_model("test_resnet", num_classes=len(CLASSES))
    return _classifier(net, side, "test_resnet")


def linear_classifier() -> FineGrainedClassifier:
    """Logits linear in 8 x 8 pixels: with a linear decoder, nearly the same gradient everywhere, in no time."""
    return _classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, len(CLASSES))), 8, "")


def _classifier(net, side, arch):
    net.load_state_dict(random_weights(net, seed=3))
    preprocess = Preprocess((side, side), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0)
    return attach_patcher(FineGrainedClassifier(net, CLASSES, preprocess, temperature=0.25, arch=arch))


def stock(family: Family, positive=None, negative=None, cfg=None) -> comfy.samplers.CFGGuider:
    """ComfyUI's own guider, with the family's prompts unless others are given."""
    guider = comfy.samplers.CFGGuider(family.model.clone())
    guider.set_conds(positive or family.positive, negative or family.negative)
    guider.set_cfg(family.cfg if cfg is None else cfg)
    return guider


def ours(
    family: Family, classifier, positive=None, negative=None, cfg=None, names=("Wren",), **settings
) -> HiGFAGuider:
    """HiGFAGuider with the same defaults; the final stage begins early and the classifier looks at each call."""
    settings = Guidance(**{"start_percent": 0.3, "interval": 1, "max_evals": 1000, **settings})
    guider = HiGFAGuider(family.model, classifier, list(names), family.vae, settings)
    guider.set_conds(positive or family.positive, negative or family.negative)
    guider.set_cfg(family.cfg if cfg is None else cfg)
    return guider


def levels(family: Family, steps=4, scheduler="normal", denoise=1.0, sampler="euler") -> torch.Tensor:
    """The noise levels the stock KSampler takes."""
    return comfy.samplers.KSampler(family.model, steps, CPU, sampler, scheduler, denoise).sigmas


def run(guider, noise, sigmas, sampler="euler", latent=None, mask=None, seen=None) -> torch.Tensor:
    """Sample as ComfyUI's nodes do; `seen` collects the noise level of every model call."""

    def predict(executor, x, timestep, *args, **kwargs):
        seen.append(float(timestep.max()))
        return executor(x, timestep, *args, **kwargs)

    if seen is not None:
        guider.model_patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "seen", predict)
    latent = torch.zeros_like(noise) if latent is None else latent
    torch.manual_seed(0)  # a few samplers draw from the global generator
    with torch.inference_mode():
        return guider.sample(
            noise, latent, comfy.samplers.sampler_object(sampler), sigmas, mask, None, disable_pbar=True, seed=1
        )
