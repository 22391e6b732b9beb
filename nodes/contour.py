"""Extract Contour and Transform Contour."""

import comfy.model_management
from comfy_api.latest import io, ui

from ..higfa_core.contour import MAX_VARIANTS, ContourTransform, Extraction, extract, transform_batch
from .types import HiGFATransform
from .widgets import widgets

PREVIEWED = 64  # images shown on the node; the outputs hold all


class ExtractContour(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_ExtractContour",
            display_name="Extract Contour",
            category="HiGFA",
            description="Draw the contour of an image as white lines on black, of the same size, for a "
            "ControlNet. With a mask, the foreground only.",
            search_aliases=["canny", "edge map", "soft edge", "silhouette", "outline", "line art"],
            inputs=[
                io.Image.Input("image", tooltip="Images to find contours in, of any size. Alpha is ignored."),
                *widgets(Extraction),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Foreground (1) whose edges are kept. Load Image gives 1 for TRANSPARENT pixels: "
                    "put Invert Mask in between. An empty mask counts as none.",
                ),
            ],
            outputs=[io.Image.Output(display_name="contour", tooltip="White lines on black, same size.")],
        )

    @classmethod
    def execute(cls, image, method, blur, low_threshold, high_threshold, mask=None) -> io.NodeOutput:
        contour = extract(image, method, low_threshold or None, high_threshold or None, blur, mask)
        return io.NodeOutput(contour, ui=ui.PreviewImage(contour[:PREVIEWED], cls=cls))


class TransformContour(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_TransformContour",
            display_name="Transform Contour",
            category="HiGFA",
            description="Warp contours at random, masks alike, so that each synthetic image gets its own "
            "pose and layout. The object stays in the frame.",
            search_aliases=[
                "augment contour",
                "random affine",
                "warp",
                "flip, rotate, scale",
                "elastic",
                "jitter",
            ],
            accept_all_inputs=True,  # width and height, as older workflows have them
            inputs=[
                io.Image.Input("contour", tooltip="White lines on black, from any node."),
                io.Int.Input(
                    "variants",
                    default=1,
                    min=1,
                    max=MAX_VARIANTS,
                    tooltip="Warps of each contour. All variants of the first contour come first.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Same seed, same warps. Variant 3 is the same whether you ask for 4 or for 40.",
                ),
                *widgets(ContourTransform),
                _pixels("image_width", "Width of the images to generate, in pixels. 0: the contour's own."),
                _pixels("image_height", "Height of the images to generate, in pixels. 0: the contour's own."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Foreground (1) to carry along. It also says where the object is; without it, "
                    "the object is all that is drawn.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="contour", tooltip="Warped contours, sources x variants."),
                io.Mask.Output(
                    display_name="mask",
                    tooltip="The warped mask; without a mask, the pixels that come from inside the source.",
                ),
                HiGFATransform.Output(
                    display_name="transform", tooltip="What was done to each image, for the manifest."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, contour, variants, seed, image_width=0, image_height=0, mask=None, width=0, height=0, **ranges
    ) -> io.NodeOutput:
        width, height = image_width or width, image_height or height  # what workflows of version 0.1.0 call them
        if bool(width) != bool(height):
            raise ValueError(
                f"Give image_width and image_height, or neither, got {width} and {height}: those of the latent image."
            )
        size = (height, width) if width else None
        cancel = comfy.model_management.throw_exception_if_processing_interrupted
        images, masks, params = transform_batch(
            contour, ContourTransform.pick(ranges), seed, variants, mask, cancel, size
        )
        preview = ui.PreviewImage(images[:PREVIEWED], cls=cls)
        return io.NodeOutput(images, masks, [p.to_dict() for p in params], ui=preview)


def _pixels(name: str, tooltip: str) -> io.Int.Input:
    tooltip += " Contours of another shape lose their sides in a ControlNet; here the object stays in the frame."
    return io.Int.Input(name, default=0, min=0, max=16384, step=8, optional=True, advanced=True, tooltip=tooltip)


NODES = [ExtractContour, TransformContour]
