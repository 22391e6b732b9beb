"""What benchmarks/compatibility.py runs: ComfyUI's nodes that take a MODEL and return a MODEL or a GUIDER.

`RUN` holds the nodes that are run, `GUIDERS` the guiders, `LEFT_OUT` the reasons for the rest, by patterns of names. A
node of ComfyUI that is in none of them fails tests/test_compatibility.py.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

STEPS = 8
MINIATURE, SD15, SD3, FLUX = "miniature", "SD 1.5", "SD3", "Flux"


@dataclass(frozen=True)
class Case:
    """How a node is run.

    Args:
        inputs: other than the node's defaults; `"model"` stands for the model itself.
        on: the model, where the node acts on others than the miniature's UNet.
        masked: with a denoise mask.
        pairs: whether it is also run together with each of the others.
        note: what the table says about it, beside what a run says.
    """

    inputs: dict = field(default_factory=dict)
    on: str = MINIATURE
    masked: bool = False
    pairs: bool = True
    note: str = ""


LATE = {"start_percent": 0.0, "end_percent": 1.0}
WEIGHTS = "a weight patch: a model like any other"
SCHEDULE = "changes the noise schedule: another run"

RUN = {
    "APG": Case({"eta": 0.5, "momentum": -0.3}),
    "CFGNorm": Case(),
    "CFGOverride": Case({"cfg": 1.5}),
    "CFGZeroStar": Case(),
    "ContextWindowsManual": Case(pairs=False, note="for video; nothing to cut in a single image"),
    "DifferentialDiffusion": Case({"strength": 1.0}, masked=True),
    "EasyCache": Case(LATE),
    "Epsilon Scaling": Case({"scaling_factor": 1.05}),
    "FluxKVCache": Case(on=FLUX, pairs=False, note="acts on reference latents only"),
    "FreSca": Case({"freq_cutoff": 4}),
    "FreeU": Case(pairs=False),
    "FreeU_V2": Case(),
    "HyperTile": Case({"tile_size": 32, "max_depth": 2}),
    "LatentApplyOperationCFG": Case({"operation": "sharpen"}),
    "LazyCache": Case(LATE),
    "LoraModelLoader": Case({"lora": "lora"}, pairs=False, note=WEIGHTS),
    "Mahiro": Case(),
    "ModelComputeDtype": Case({"dtype": "bf16"}, pairs=False, note=WEIGHTS),
    "ModelNoiseScale": Case({"noise_scale": 0.9}, on=SD3, pairs=False, note=SCHEDULE),
    "ModelSamplingAuraFlow": Case(on=SD3, pairs=False, note=SCHEDULE),
    "ModelSamplingContinuousEDM": Case({"sampling": "eps", "sigma_max": 20.0}, pairs=False, note=SCHEDULE),
    "ModelSamplingContinuousV": Case(pairs=False, note=SCHEDULE),
    "ModelSamplingDiscrete": Case({"sampling": "lcm"}, pairs=False, note=SCHEDULE),
    "ModelSamplingFlux": Case({"max_shift": 2.0}, on=FLUX, pairs=False, note=SCHEDULE),
    "ModelSamplingSD3": Case({"shift": 2.0}, on=SD3, pairs=False, note=SCHEDULE),
    "MultiGPU_WorkUnits": Case(pairs=False, note="measured with one device, where it changes nothing"),
    "NAGuidance": Case(),
    "PatchModelAddDownscale": Case({"block_number": 1, "downscale_factor": 2.0}, note="Deep Shrink"),
    "PerpNeg": Case(
        {"empty_conditioning": "other"},
        pairs=False,
        note="deprecated; runs the model at each call of CFG, three times in the final stage",
    ),
    "PerturbedAttentionGuidance": Case(),
    "RenormCFG": Case(),
    "RescaleCFG": Case(),
    "ScaleROPE": Case({"scale_x": 1.5, "scale_y": 1.5}, on=FLUX, pairs=False),
    "SelectModelDevice": Case(pairs=False, note="measured with one device, where it changes nothing"),
    "SelfAttentionGuidance": Case(),
    "SkipLayerGuidanceDiT": Case(LATE | {"double_layers": "0", "single_layers": ""}, on=SD3),
    "SkipLayerGuidanceDiTSimple": Case({"double_layers": "0", "single_layers": ""}, on=SD3),
    "SkipLayerGuidanceSD3": Case(LATE | {"layers": "0"}, on=SD3),
    "TCFG": Case(),
    "TemporalScoreRescaling": Case(),
    "TomePatchModel": Case(on=SD15),
    "TorchCompileModel": Case(pairs=False),
    "UNetCrossAttentionMultiply": Case({"k": 1.3}, pairs=False, note=WEIGHTS),
    "UNetSelfAttentionMultiply": Case({"k": 1.3}, pairs=False, note=WEIGHTS),
    "VideoLinearCFGGuidance": Case(pairs=False, note="for video: every image of the batch gets another cfg"),
    "VideoTriangleCFGGuidance": Case(pairs=False, note="for video: every image of the batch gets another cfg"),
    "wanBlockSwap": Case(pairs=False, note="does nothing, by design of ComfyUI"),
}

GUIDERS = ("BasicGuider", "CFGGuider", "DualCFGGuider", "DualModelGuider", "PerpNegGuider")

LEFT_OUT = {
    "ModelMerge*": "two models become one, with other weights: a model like any other",
    "LoraLoader*": "needs a file; the same weight patches as LoraModelLoader",
    "HypernetworkLoader": "needs a file; a patch of the attention's keys and values",
    "AnimaLLLiteApply": "needs a model patch of Anima",
    "QwenImageDiffsynthControlnet": "needs a model patch; a contour in the MODEL cannot be eased off",
    "ZImageFunControlnet": "needs a model patch; a contour in the MODEL cannot be eased off",
    "SUPIRApply": "needs a model patch of SUPIR",
    "USOStyleReference": "needs a model patch of USO",
    "ChromaRadianceOptions": "options of one model (Chroma Radiance)",
    "HiDreamO1PatchSeamSmoothing": "acts on one model (HiDream O1)",
    "ModelSamplingStableCascade": "acts on Stable Cascade, whose latents no decoder of ours reads",
    "UNetTemporalAttentionMultiply": "acts on the frames of a video model",
    "ARVideoI2V": "video",
    "LTXV*": "video",
    "ModelSamplingLTXV": "video",
    "MiniMaxH3SigmaShift": "video with sound",
    "Wan*": "video",
    "TripoSplatSamplingPreview": "3D",
}


def why_left_out(node: str) -> str | None:
    """The reason; None for a node that is run."""
    return next((why for pattern, why in LEFT_OUT.items() if fnmatchcase(node, pattern)), None)


def declared_inputs(node) -> dict[str, tuple]:
    """Name -> (type, options) of a node class of either API."""
    groups = node.INPUT_TYPES()
    found = {**groups.get("required", {}), **groups.get("optional", {})}
    return {name: (item[0], item[1] if len(item) > 1 else {}) for name, item in found.items()}


def model_nodes(nodes: dict) -> list[str]:
    """By rule, all nodes that take a MODEL and return a MODEL or a GUIDER."""
    return sorted(
        name
        for name, node in nodes.items()
        if not name.startswith("HiGFA_")
        and any(kind == "MODEL" for kind, _ in declared_inputs(node).values())
        and {"MODEL", "GUIDER"} & set(node.RETURN_TYPES)
    )
