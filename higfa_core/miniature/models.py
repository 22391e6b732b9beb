"""The miniature as real ComfyUI objects: MODEL, CLIP, VAE and CONTROL_NET that the stock nodes work on."""

import json

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors import safe_open
from safetensors.torch import load_file

from . import networks
from .shipped import WEIGHTS

UNET_CONFIG = {
    "image_size": 16,
    "in_channels": networks.LATENT_CHANNELS,
    "model_channels": 64,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "num_heads": 4,
    "num_head_channels": -1,
    "context_dim": networks.TEXT_WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
}
HINT_RATIO = 8  # ControlNet's hint encoder reduces by 8: a 16 x 16 latent takes a 128 x 128 contour


def build_unet(**kwargs) -> UNetModel:
    """ComfyUI's own UNet class at miniature size."""
    return UNetModel(out_channels=networks.LATENT_CHANNELS, **UNET_CONFIG, **kwargs)


def build_controlnet(**kwargs) -> comfy.cldm.cldm.ControlNet:
    """ComfyUI's own ControlNet class, the encoder half of `build_unet`."""
    config = {k: v for k, v in UNET_CONFIG.items() if k != "transformer_depth_output"}
    return comfy.cldm.cldm.ControlNet(hint_channels=3, **config, **kwargs)


class MiniatureLatent(comfy.latent_formats.LatentFormat):
    latent_channels = networks.LATENT_CHANNELS
    spacial_downscale_ratio = networks.DOWNSCALE
    tiny_decoder_file = WEIGHTS / "tiny.safetensors"
    build_tiny_decoder = networks.TinyDecoder

    def __init__(self):
        meta = _metadata("vae")
        self.scale_factor = float(meta["scale_factor"])
        self.latent_rgb_factors = json.loads(meta["latent_rgb_factors"])
        self.latent_rgb_factors_bias = json.loads(meta["latent_rgb_factors_bias"])


class MiniatureConfig(comfy.supported_models_base.BASE):
    unet_config = {}
    unet_extra_config = {}
    latent_format = MiniatureLatent
    memory_usage_factor = 0.5

    def inpaint_model(self):
        return False  # ComfyUI takes every model with more than four channels for one


def _metadata(name: str) -> dict[str, str]:
    with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as file:
        return file.metadata()


def _weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(WEIGHTS / f"{name}.safetensors")


def _inference_dtypes():
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(
        model_params=1_000_000, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32]
    )
    return device, dtype, comfy.model_management.unet_manual_cast(dtype, device)


def load_model() -> comfy.model_patcher.ModelPatcher:
    """The eps-prediction UNet as a ComfyUI MODEL."""
    device, dtype, cast = _inference_dtypes()
    config = MiniatureConfig({**UNET_CONFIG, "out_channels": networks.LATENT_CHANNELS})
    config.set_inference_dtype(dtype, cast)
    weights = _weights("unet")
    model = config.get_model(weights, "", device=comfy.model_management.unet_offload_device())
    model.load_model_weights(weights, "")
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=offload)


def load_controlnet() -> comfy.controlnet.ControlNet:
    """The contour ControlNet as a ComfyUI CONTROL_NET."""
    device, dtype, cast = _inference_dtypes()
    operations = comfy.ops.pick_operations(dtype, cast)
    net = build_controlnet(dtype=dtype, operations=operations, device=comfy.model_management.unet_offload_device())
    net.load_state_dict(_weights("controlnet"))
    return comfy.controlnet.ControlNet(
        net.eval(), compression_ratio=HINT_RATIO, load_device=device, manual_cast_dtype=cast
    )


class WordTokenizer:
    """Prompt text, with ComfyUI's (word:1.2) weights, -> [[(word id, weight), ...]] padded to MAX_WORDS."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text, return_word_ids=False, **kwargs):
        pairs = []
        for segment, weight in comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0):
            pairs += [(i, weight) for i in networks.word_ids(comfy.sd1_clip.unescape_important(segment))]
        pairs = (pairs + [(networks.PAD, 1.0)] * networks.MAX_WORDS)[: networks.MAX_WORDS]
        return [[(*pair, i + 1) for i, pair in enumerate(pairs)] if return_word_ids else pairs]

    def state_dict(self):
        return {}


class TextModel(torch.nn.Module, comfy.sd1_clip.ClipTokenWeightEncoder):
    """The text encoder with the methods that comfy.sd.CLIP calls; always float32 (0.1 M parameters)."""

    def __init__(self, dtype=None, device=None, model_options=None):
        super().__init__()
        self.net = networks.TextEncoder().to(device)
        self.dtypes = {torch.float32}
        self.special_tokens = {"pad": networks.PAD}

    def encode(self, tokens):
        with torch.no_grad():
            return self.net(torch.tensor(tokens, device=self.net.position.device))

    def load_sd(self, sd):
        return self.net.load_state_dict(sd, strict=False)

    def set_clip_options(self, options):
        pass

    def reset_clip_options(self):
        pass


def load_clip() -> comfy.sd.CLIP:
    """The word-level text encoder as a ComfyUI CLIP."""
    target = comfy.supported_models_base.ClipTarget(WordTokenizer, TextModel)
    weights = _weights("text")
    return comfy.sd.CLIP(target, parameters=sum(w.numel() for w in weights.values()), state_dict=[weights])


class MiniatureVAE(comfy.sd.VAE):
    """A ComfyUI VAE around `networks.Autoencoder`.

    comfy.sd.VAE chooses its network from the weights and does not know ours, so it is created with the smallest network
    that it accepts, which is then replaced.
    """

    def __init__(self, weights: dict[str, torch.Tensor]):
        smallest = {"double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32,
                    "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
        params = {"ddconfig": smallest, "embed_dim": 4}
        stand_in = comfy.ldm.models.autoencoder.AutoencoderKL(**params)
        super().__init__(sd=stand_in.state_dict(), config={"params": params}, dtype=torch.float32)
        net = networks.Autoencoder().eval().requires_grad_(False)
        net.load_state_dict({k: w.float() for k, w in weights.items()})
        self.first_stage_model = net
        self.latent_channels = networks.LATENT_CHANNELS
        self.downscale_ratio = self.upscale_ratio = networks.DOWNSCALE
        self.memory_used_encode = lambda shape, dtype: 600 * shape[2] * shape[3] * 4
        self.memory_used_decode = lambda shape, dtype: 600 * shape[2] * shape[3] * networks.DOWNSCALE**2 * 4
        offload = comfy.model_management.vae_offload_device()
        self.patcher = comfy.model_patcher.CoreModelPatcher(net, load_device=self.device, offload_device=offload)
        self.size = comfy.model_management.module_size(net)


def load_vae() -> MiniatureVAE:
    """The autoencoder (128 x 128 pixels <-> 16 x 16 x 8 latents) as a ComfyUI VAE."""
    return MiniatureVAE(_weights("vae"))
