"""Makes ComfyUI importable in a standalone program; inside ComfyUI nothing calls this."""

import os
import sys

import torch


def start_comfyui() -> None:
    """Put the ComfyUI of COMFYUI_PATH on sys.path and let it read its options: only --cpu, if there is no GPU.

    Raises:
        SystemExit: COMFYUI_PATH is not set; `python run.py exec -- ...` sets it.
    """
    if "COMFYUI_PATH" not in os.environ:
        raise SystemExit("COMFYUI_PATH is not set; start this with: python run.py exec -- python ...")
    own, sys.argv = sys.argv, [sys.argv[0], *([] if torch.cuda.is_available() else ["--cpu"])]
    # In front of this repository: ComfyUI's `nodes` is a module, ours a package.
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401  (reads sys.argv when it is imported)
    import utils.install_util  # noqa: F401  (before 0.18.0's nodes.py puts comfy/, which has a utils.py, first)

    sys.argv = own
