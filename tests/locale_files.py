"""Write locales/en from the nodes: `python run.py exec -- python -m tests.locale_files`.

The other languages are written by hand, with the words of ComfyUI's own translations; `tests/test_locales.py` says what
they lack.
"""

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ROOT / "locales"
SYNTAX = set("{}@|")  # what ComfyUI's page reads as commands in some of the texts, and some releases in all of them


def of_nodes(nodes: dict) -> dict:
    """The texts of the pack's nodes as ComfyUI's nodeDefs.json has them.

    Args:
        nodes: node id -> class.
    """
    return {name.replace(".", "_"): _of_node(node.GET_SCHEMA()) for name, node in sorted(nodes.items())}


def _of_node(schema) -> dict:
    inputs = {item.id: {"name": item.id, "tooltip": item.tooltip} for item in schema.inputs}
    outputs = {}
    for place, item in enumerate(schema.outputs):
        texts = {"name": item.display_name or item.id, "tooltip": item.tooltip}
        outputs[str(place)] = {key: text for key, text in texts.items() if text}
    texts = {"display_name": schema.display_name, "description": schema.description}
    return {**texts, "inputs": inputs, "outputs": outputs}


def flat(texts: dict, path: str = "") -> dict[str, str]:
    """Path -> text."""
    found = {}
    for key, value in texts.items():
        found |= flat(value, f"{path}{key}/") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def plain(texts: dict) -> dict:
    """The same without the texts that the page would not show as they stand: it then shows those of the server."""
    kept = {key: plain(value) if isinstance(value, dict) else value for key, value in texts.items()}
    return {key: value for key, value in kept.items() if not (isinstance(value, str) and SYNTAX & set(value))}


def read(language: str, name: str = "nodeDefs.json") -> dict:
    return json.loads((LOCALES / language / name).read_text("utf-8"))


def written(texts: dict) -> str:
    return json.dumps(texts, ensure_ascii=False, indent=2) + "\n"


def pack_nodes() -> dict:
    """Node id -> class, from ComfyUI's own loader."""
    comfyui = os.environ["COMFYUI_PATH"]
    sys.argv, sys.path[:0] = ["main.py", "--cpu"], [comfyui]
    importlib.import_module("comfy.options").enable_args_parsing()
    importlib.import_module("utils.install_util")
    nodes = importlib.import_module("nodes")
    before = set(nodes.NODE_CLASS_MAPPINGS)
    asyncio.run(nodes.load_custom_node(str(ROOT)))
    return {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name not in before}


if __name__ == "__main__":
    file = LOCALES / "en" / "nodeDefs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(written(plain(of_nodes(pack_nodes()))), "utf-8", newline="\n")
