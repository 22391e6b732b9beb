"""The pack loads as ComfyUI loads it, and has nothing in it that the registry or a user refuses."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.releases

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "higfa_core"
MAY_IMPORT_COMFY = (CORE / "comfy", CORE / "miniature" / "models.py")
# Programs of their own (a client of a running server, the command line): ComfyUI never loads them.
MAY_USE_NETWORK = (CORE / "batch", CORE / "commands")


def sources():
    """The modules of the archive that the registry gets."""
    left_out = {ROOT / line.strip("/") for line in (ROOT / ".comfyignore").read_text().split()}
    found = [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *CORE.rglob("*.py")]
    return sorted(path for path in found if path not in left_out)


def within(path, places):
    return any(place == path or place in path.parents for place in places)


def test_comfyuis_loader_accepts_the_pack(pack):
    assert pack.loaded, "see the captured log for the traceback"
    assert not hasattr(pack.module, "NODE_CLASS_MAPPINGS"), "ComfyUI would then never call comfy_entrypoint"
    assert (pack.folder / pack.module.WEB_DIRECTORY).is_dir()


def test_root_module_only_declares_the_extension():
    assert len((ROOT / "__init__.py").read_text().splitlines()) <= 25


def test_node_ids_are_ours_alone(pack, core_nodes):
    nodes = sys.modules[f"{pack.module.__name__}.nodes"].NODES
    ids = [node.GET_SCHEMA().node_id for node in nodes]
    assert len(set(ids)) == len(ids) > 0
    assert all(node_id.startswith("HiGFA_") for node_id in ids), ids
    assert not set(ids) & set(core_nodes)
    assert set(pack.nodes) == set(ids)


def test_every_node_is_explained(pack):
    assert pack.nodes
    for node_id, node in pack.nodes.items():
        schema = node.GET_SCHEMA()
        assert schema.category == "HiGFA", node_id
        assert schema.display_name and schema.description and schema.search_aliases, node_id
        bare = [item.id for item in schema.inputs if not item.tooltip]
        assert not bare, f"{node_id}: no tooltip on {bare}"


def test_no_node_shows_more_than_eight_widgets(pack):
    from comfy_api.latest import io

    assert pack.nodes
    for node_id, node in pack.nodes.items():
        shown = []
        for item in node.GET_SCHEMA().inputs:
            if isinstance(item, io.WidgetInput) and not item.advanced and not item.force_input:
                shown += [item.id] + ["after generate"] * bool(getattr(item, "control_after_generate", False))
        assert len(shown) <= 8, f"{node_id}: {shown}"


def test_comfyui_reads_the_registry_fields(comfyui):
    from comfy_config import config_parser

    config = config_parser.extract_node_configuration(str(ROOT))
    assert config.project.name == "higfa"
    assert "comfyui" not in config.project.name.lower()
    assert config.project.dependencies == [] or "timm>=1.0.26" in config.project.dependencies
    assert config.project.supported_accelerators
    assert config.tool_comfy.publisher_id == "higfa"
    assert config.tool_comfy.display_name == "HiGFA"


IMPORT_ALL = """
import importlib, json, sys
foreign = ("comfy", "comfy_api", "comfy_extras", "folder_paths", "nodes", "server")
broken = {}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    loaded = [module for module in sys.modules if module.split(".")[0] in foreign]
    if loaded:
        broken[name] = loaded
        break
print(json.dumps(broken))
"""


@pytest.mark.slow
def test_importing_the_core_never_imports_comfyui(tmp_path):
    files = [path for path in sorted(CORE.rglob("*.py")) if not within(path, MAY_IMPORT_COMFY)]
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in files]
    names = [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("COMFYUI_PATH", "")])}
    command = [
        sys.executable,
        "-c",
        IMPORT_ALL,
        json.dumps([name for name in names if "__main__" not in name]),
    ]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {}


FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "marshal", "shelve", "subprocess", "multiprocessing", "pty"}
NETWORK_IMPORTS = {"socket", "http", "urllib", "requests", "aiohttp", "ftplib", "httpx", "websocket"}
FORBIDDEN_DOTTED = {
    *("os.system", "os.popen", "os.putenv", "os.unsetenv", "os.startfile"),
    *(f"os.environ.{name}" for name in ("update", "setdefault", "pop", "clear", "popitem")),
}


def dotted(node):
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "?")


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module.split(".")[0]]
    return []


def findings(code, network=False):
    """What the registry's scanner or a reviewer would flag: [(line, what)]."""
    refused = FORBIDDEN_IMPORTS if network else FORBIDDEN_IMPORTS | NETWORK_IMPORTS
    for node in ast.walk(ast.parse(code)):
        for name in set(imported(node)) & refused:
            yield node.lineno, f"import {name}"
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            if dotted(node.value) == "os.environ":
                yield node.lineno, "writes os.environ"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name in FORBIDDEN_CALLS | FORBIDDEN_DOTTED or name.startswith(("os.exec", "os.spawn")):
                yield node.lineno, name
            safe = any(key.arg == "weights_only" and dotted_constant(key.value) for key in node.keywords)
            if name == "torch.load" and not safe:
                yield node.lineno, "torch.load without weights_only=True"


def dotted_constant(node):
    return isinstance(node, ast.Constant) and node.value is True


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_the_registry_flags(path):
    network = within(path, MAY_USE_NETWORK)
    assert list(findings(path.read_text(encoding="utf-8"), network)) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "import pickle",
        "from subprocess import run",
        "import urllib.request",
        "import os\nos.environ['A'] = '1'",
        "import os\nos.environ.setdefault('A', '1')",
        "import os\nos.system('ls')",
        "import os\nos.execv('a', [])",
        "import torch\ntorch.load('a.pt')",
        "try:\n    pass\nexcept:\n    pass",
    ],
)
def test_the_scan_sees_what_is_forbidden(code):
    assert len(list(findings(code))) == 1


def test_the_scan_lets_ordinary_code_pass():
    code = "import os\nmodel.eval()\nhome = os.environ['HOME']\ntorch.load('a.pt', weights_only=True)"
    assert list(findings(code)) == []


def test_the_pack_imports_itself_relatively():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not {"nodes", "higfa_core"} & set(imported(node)), f"{path}:{node.lineno}"


def test_no_text_follows_what_counts_up(pack):
    # The page puts "control after generate" there. Converters of workflows that do not know that take it for the value
    # of the next input, where that may be a text.
    from comfy_api.latest import io

    counted = set()
    for node_id, node in pack.nodes.items():
        kept = [item for item in node.GET_SCHEMA().inputs if isinstance(item, io.WidgetInput) and not item.force_input]
        for item, following in zip(kept, kept[1:]):
            if getattr(item, "control_after_generate", None):
                counted.add(node_id)
                assert isinstance(following, (io.Int.Input, io.Float.Input, io.Boolean.Input)), (node_id, following.id)
    assert {"HiGFA_DatasetJob", "HiGFA_TransformContour", "HiGFA_KSampler"} <= counted
