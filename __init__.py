"""HiGFA for ComfyUI: text, contour and classifier guidance for fine-grained synthetic training images."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class HiGFAExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> HiGFAExtension:
    return HiGFAExtension()
