"""The method: pure functions of tensors, files and jobs. Importing it never imports ComfyUI."""

__version__ = "0.1.0"
