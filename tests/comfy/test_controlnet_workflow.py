"""The workflow for real checkpoints on a real server, with files of SD1.5's layout and random weights.

The files have the names, keys, shapes and dtype of the real ones (3 GB), so that the stock loaders recognise them; what
they draw is noise. 64 x 64 pixels and two steps, because full size on a CPU would take many minutes; two steps leave
none below start_percent 0.7, so the final stage begins at once.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from higfa_core.batch.client import Client
from higfa_core.classifier import FineGrainedClassifier, Preprocess

from ..server.server import running_server

pytestmark = pytest.mark.releases

PROMPT = Path(__file__).resolve().parents[2] / "workflows" / "api" / "controlnet_augment.json"
CLASSES = ("Kite", "Snipe", "Swallow")
UNET = {
    "image_size": 32, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "num_heads": 8, "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1, "context_dim": 768, "use_spatial_transformer": True, "legacy": False,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def shapes(module: torch.nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    return {prefix + name: tuple(weight.shape) for name, weight in module.state_dict().items()}


def write_weights(path: Path, layout: dict[str, tuple[int, ...]]) -> None:
    """Norms 1, biases 0, all else small noise, as fp16 safetensors, written tensor by tensor: 2 GB fit in no one's way.

    The noise is one block repeated (drawing 1.4 billion numbers takes a minute); its length is prime, so that no two
    rows are alike. Its scale keeps every activation finite.
    """
    block = (np.random.default_rng(0).standard_normal(1_000_003) * 0.02).astype(np.float16)
    header, end = {}, 0
    for name, shape in layout.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in layout.items():
            flat = len(shape) < 2
            values = np.full(shape, not name.endswith("bias")) if flat else np.resize(block, math.prod(shape))
            file.write(values.astype(np.float16).data)


def write_models(models: Path, comfyui: Path) -> None:
    import comfy.cldm.cldm
    import comfy.clip_model
    import comfy.ldm.models.autoencoder
    import comfy.ops
    import comfy.taesd.taesd
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    own = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float16, "device": "meta"}
    unet = UNetModel(out_channels=4, transformer_depth_output=[1] * 9 + [0] * 3, **UNET, **own)
    control = comfy.cldm.cldm.ControlNet(hint_channels=3, **UNET, **own)
    config = json.loads((comfyui / "comfy" / "sd1_clip_config.json").read_text(encoding="utf-8"))
    clip = comfy.clip_model.CLIPTextModel(config, own["dtype"], own["device"], own["operations"])
    with torch.device("meta"):
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=4)
        tiny = comfy.taesd.taesd.Decoder(4)
    text = {key: shape for key, shape in shapes(clip).items() if key.startswith("text_model.")}
    text = {f"cond_stage_model.transformer.{key}": shape for key, shape in text.items()}
    checkpoint = shapes(unet, "model.diffusion_model.") | text | shapes(vae, "first_stage_model.")
    write_weights(models / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors", checkpoint)
    write_weights(models / "controlnet" / "control_v11p_sd15_canny_fp16.safetensors", shapes(control, "control_model."))
    write_weights(models / "vae_approx" / "taesd_decoder.safetensors", shapes(tiny))


def write_classifier(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    net = timm.create_model("test_resnet", num_classes=len(CLASSES))
    preprocess = Preprocess((64, 64), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0)
    FineGrainedClassifier(net, CLASSES, preprocess, arch="test_resnet").save(path)


def write_images(folder: Path) -> None:
    rows, columns = np.mgrid[:64, :64]
    for number, name in enumerate(CLASSES):
        disc = (rows - 32) ** 2 + (columns - 32) ** 2 < (12 + 4 * number) ** 2
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.where(disc, 230, 40).astype(np.uint8)).convert("RGB").save(folder / name / "0.png")


@pytest.fixture
def sd15_server(comfyui, tmp_path):
    write_models(tmp_path / "models", comfyui)
    for seed, name in enumerate(("my_classifier", "my_classifier.judge")):
        write_classifier(tmp_path / "models" / "higfa_classifiers" / f"{name}.safetensors", seed)
    write_images(tmp_path / "input" / "my_dataset")
    try:
        with running_server(comfyui, tmp_path) as server:
            yield server
    finally:
        shutil.rmtree(tmp_path / "models")  # pytest keeps the folders of three runs


def small(prompt: dict) -> dict:
    def only(class_type):
        (node,) = [node for node in prompt.values() if node["class_type"] == class_type]
        return node["inputs"]

    only("EmptyLatentImage").update(width=64, height=64)
    only("HiGFA_KSampler").update(steps=2)
    only("HiGFA_Guidance").update(start_percent=0.0)
    return prompt


def test_the_workflow_runs_on_files_of_sd15s_layout(sd15_server):
    prompt = small(json.loads(PROMPT.read_text(encoding="utf-8")))
    client = Client(sd15_server.url)
    entry = client.wait(client.submit(prompt), timeout=1800)
    log = sd15_server.log_text()
    # Nodes of an old ComfyUI may miss a package that we do not need; weights must not miss anything.
    weights = [line for line in log.splitlines() if "dependencies" not in line]
    assert not [line for line in weights if "missing" in line or "left over" in line]

    (sampler,) = [key for key, node in prompt.items() if node["class_type"] == "HiGFA_KSampler"]
    (summary,) = entry["outputs"][sampler]["text"]
    assert summary.startswith("guided steps 1-1 of 2") and "decoder tiny" in summary
    assert "not finite" not in summary

    folder = sd15_server.base / "output" / "my_dataset_synthetic"
    (row,) = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["guidance"] == summary
    assert row["class_name"] == CLASSES[0] and 0 < row["scores"]["confidence"] < 1
    assert row["accepted"] == (row["scores"]["judge_confidence"] >= 0.5) and row["scores"]["judge_confidence"] < 1
    assert row["file"].split("/")[:2] == ["train" if row["accepted"] else "rejected", CLASSES[0]]
    with Image.open(folder / row["file"]) as image:
        assert image.size == (64, 64) and image.getextrema() != ((0, 0),) * 3  # NaN would be black
