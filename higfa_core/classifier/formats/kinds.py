"""Files that hold no classifier of timm, torchvision or transformers: what they are, and what to do instead."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

SAVE_HINT = "Save only the weights: safetensors.torch.save_file(model.state_dict(), 'name.safetensors')"
WEIGHTS_OF = "Load it with the code that made it and save only its weights: torch.save(model.state_dict(), 'name.pth')"
TRAIN_HERE = "Choose a model of timm, torchvision or transformers, or train one with Train Fine-Grained Classifier"

NAMES_OF_OTHERS = {
    r"lora_(up|down|A|B|mid|magnitude)\b|^lora_(unet|te)|\.lora\.": (
        "a LoRA: it belongs in models/loras. Choose an image classifier"
    ),
    r"^(model\.diffusion_model|first_stage_model|input_blocks|down_blocks|double_blocks|joint_blocks"
    r"|transformer_blocks)\.": (
        "a diffusion model: it belongs in models/checkpoints or models/diffusion_models. Choose an image classifier"
    ),
    r"(^|[./])(kernel|moving_mean|moving_variance)(:0)?$": (
        f"a model of Keras, TensorFlow or Flax, whose weights have other names and shapes. {TRAIN_HERE}"
    ),
    r"^(model\.)?1\.(4|8)\.weight$": (
        "a model of fastai (learn.save): its body and its head are numbered, and no library has such a head. "
        f"{TRAIN_HERE}"
    ),
}
STARTS = {
    rb"\x89HDF": f"an HDF5 file, as Keras saves its models (.h5). {TRAIN_HERE}",
    rb"GGUF": f"a GGUF file, which holds a language or diffusion model. {TRAIN_HERE}",
    rb"\x93NUMPY": f"a NumPy array, no weights with names. {SAVE_HINT}",
    rb"\x08[\x01-\x20]\x12": f"an ONNX model: no gradients from it. {WEIGHTS_OF}",
}
MEMBERS = {
    r"[^/]*/?constants\.pkl": (
        "TorchScript (torch.jit.save): a program with its weights. Save only these: "
        "torch.save(torch.jit.load('script.pt').state_dict(), 'weights.pth')"
    ),
    r"[^/]*/?(serialized_exported_program\.json|models/[^/]*\.json)": (
        f"an exported program (torch.export, .pt2): no gradients from it. {WEIGHTS_OF}"
    ),
    r"model\.weights\.h5": f"a model of Keras (.keras). {TRAIN_HERE}",
    r"[^/]*\.npy": f"an archive of NumPy arrays (.npz), as JAX models come in. {TRAIN_HERE}",
}


def refuse_other_files(path: Path) -> None:
    """ValueError if the file is of a kind that holds no state dict."""
    with path.open("rb") as file:
        start = file.read(8)
    what = next((what for magic, what in STARTS.items() if re.match(magic, start)), None)
    if zipfile.is_zipfile(path):
        what = what or _member_of_others(path)
    if what:
        raise ValueError(f"{path.name} is {what}")


def refuse_other_models(path: Path, keys: Iterable[str]) -> None:
    """ValueError if a name occurs only in other kinds of models."""
    for key in keys:
        for pattern, what in NAMES_OF_OTHERS.items():
            if re.search(pattern, key):
                raise ValueError(f"{path.name} is {what} (it holds {key})")


def code_in_it(name: str) -> str:
    """What is wrong with a torch file that refers to this Python object."""
    if name.startswith("fastai."):
        return (
            f"is refused: it is a Learner that fastai exported (learn.export), pickled Python code ({name}), which "
            f"could do anything when loaded. {TRAIN_HERE}"
        )
    return f"is refused: it holds pickled Python code ({name}), which could do anything when loaded. {SAVE_HINT}"


def _member_of_others(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeError, ValueError):
        return None  # the reader says what is wrong with it
    return next(
        (what for pattern, what in MEMBERS.items() if any(re.fullmatch(pattern, each) for each in members)), None
    )
