"""The shipped workflows: the name of each in `workflows/api` and in addresses, and its title.

ComfyUI's page shows the name of a template's file as its title, and takes no spaces in an address.
"""

TITLES = {
    "miniature_augment": "Augment birds, no download",
    "miniature_compare": "Compare text + contour against HiGFA",
    "miniature_sweep": "Sweep any two settings",
    "miniature_three_ways": "Three ways to guide",
    "miniature_app": "Folder in, dataset out (app mode)",
    "controlnet_augment": "Your images with SD 1.5",
    "controlnet_train": "Train a classifier, then augment",
}
