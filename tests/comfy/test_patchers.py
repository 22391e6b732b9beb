"""The classifier under ComfyUI's memory management."""

from types import SimpleNamespace

import pytest
import timm
import torch

pytestmark = pytest.mark.releases


@pytest.mark.parametrize("arch", ["resnet10t", "convnext_atto", "test_vit"])
def test_loaded_whole_however_little_memory_is_left(comfyui, monkeypatch, arch):
    """As --novram or a full GPU asks for it; "meta" stands for the GPU."""
    import comfy.model_management as mm

    from higfa_core.comfy.patchers import attach_patcher

    monkeypatch.setattr(mm, "get_torch_device", lambda: torch.device("meta"))
    net = timm.create_model(arch, num_classes=5).eval().requires_grad_(False)
    patcher = attach_patcher(SimpleNamespace(module=net)).patcher
    loaded = mm.LoadedModel(patcher)
    loaded.model_load(0.1)
    assert {tensor.device.type for tensor in net.state_dict().values()} == {"meta"}
    assert patcher.loaded_size() == patcher.model_size()
