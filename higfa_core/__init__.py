"""The method: pure functions of tensors, files and jobs. Importing it never imports ComfyUI."""
