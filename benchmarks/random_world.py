"""A model, ControlNet, VAE and classifier of SD 1.5's sizes with random weights: for time, not for images."""

import guided_call as parts
from miniature_world import World

RANDOM_CLASSES = [f"class {i}" for i in range(parts.CLASSES)]


class RandomWorld(World):
    """A `World` whose text encoder is a random generator. The classifier is never satisfied: the dearest case."""

    def encode(self, texts):
        import torch

        states = [torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return [[torch.cat(states), {}]]


def random_world(side: int, quick: bool = False) -> RandomWorld:
    """`side`: of the images, in pixels. `quick`: narrow networks."""
    from comfy.model_management import get_torch_device

    from higfa_core.comfy.patchers import attach_patcher

    classifier = attach_patcher(parts.random_classifier(quick))
    device = get_torch_device()
    return RandomWorld(_model(device, quick), None, parts.kl_vae(quick), _control(device, quick), classifier, side // 8)


def _model(device, quick):
    import comfy.model_detection
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    state = parts.unet("cpu", quick).state_dict()
    dtype = comfy.model_management.unet_dtype(model_params=860_000_000)
    config = comfy.supported_models.SD15(comfy.model_detection.detect_unet_config(state, ""))
    config.set_inference_dtype(dtype, None)
    model = config.get_model(state, "", device="cpu")
    model.load_model_weights(state, "")
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=offload)


def _control(device, quick):
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    dtype = comfy.model_management.unet_dtype(model_params=361_000_000)
    layout = {
        k: v for k, v in parts.unet_layout(quick).items() if k not in ("transformer_depth_output", "out_channels")
    }
    operations = comfy.ops.pick_operations(dtype, None)
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, **layout, dtype=dtype, operations=operations, device="cpu")
    return comfy.controlnet.ControlNet(parts.randomise(net.eval().requires_grad_(False)), load_device=device)
