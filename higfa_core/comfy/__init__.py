"""The only part of higfa_core, with miniature/models.py, that imports ComfyUI."""
