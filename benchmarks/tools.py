"""Tools that people use around ComfyUI, each tried on this pack: checkers, clients, converters.

python run.py exec -- python benchmarks/tools.py [--only comfy-lint comfyui-xy]

Each comes from PyPI into an environment of its own below .higfa/tools. A headless ComfyUI runs the pack as the registry
would install it (without what .comfyignore names), and the tools talk to it or read its files. Prints a table; fails
where a tool that should work does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import run  # noqa: E402
from higfa_core.plans.templates import TITLES  # noqa: E402

FOLDER = ROOT / ".higfa" / "tools"
BASE = FOLDER / "base"
PACK = BASE / "custom_nodes" / run.PACK
API = ROOT / "workflows" / "api"
GRAPH = API / "miniature_augment.json"
CANVAS = ROOT / "workflows" / f"{TITLES['miniature_augment']}.json"
NEED_FILES = ("controlnet_augment", "controlnet_train")  # a checkpoint that nobody has here
LEVELS = "syntax install registration instantiation static_capture validation execution_light execution".split()
TIMEOUT = 900  # seconds for one call of a tool

# comfy-test asks a torch for CUDA about its memory, also on a machine without a GPU.
NO_GPU = """
import sys
if sys.orig_argv[1:2] == ["-c"]:
    import collections, torch
    torch.cuda.memory_stats = lambda *_: collections.defaultdict(int)
    torch.cuda.mem_get_info = lambda *_: (2**33, 2**33)
"""

# comfy-test's level execution asks for the route of a node pack that it fetches from GitHub: this answers as that does.
VALIDATE = """
from aiohttp import web
import execution, server
@server.PromptServer.instance.routes.post("/validate")
async def validate(request):
    prompt = (await request.json())["prompt"]
    valid, error, _, node_errors = await execution.validate_prompt("", prompt, None)
    return web.json_response({"error": error, "node_errors": node_errors}, status=200 if valid else 400)
NODE_CLASS_MAPPINGS = {}
"""

SIMPLIFIED = """
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
graph = ComfyWorkflowWrapper(graph)
graph.set_node_param("HiGFA KSampler", "steps", 10)
images = ComfyApiWrapper(url + "/").queue_and_wait_images(graph, "Real image")
print(f"{len(images)} image by the title of its node")
"""
XY = """
import json
from comfyui_xy import ComfyUiClient
graph = json.load(open(graph))
graph["10"]["inputs"]["steps"] = 10
found = ComfyUiClient(url).process_workflow(graph)
texts = [each for each in found if each.output_type == "text"]
assert any("guided steps" in each.text for each in texts)
print(f"{len(found) - len(texts)} images, {len(texts)} texts, the sampler's summary among them")
"""
SDK = """
from comfy_sdk import Comfy
client = Comfy()
graph = client.workflows.from_file(graph)
graph.set_input("10", "steps", 10)
job = client.run(graph)
(image,) = job.get_outputs("15")
assert image.to_bytes()
print(f"{job.status}, {len(job.get_outputs('15'))} image")
"""
SCRIPT = """
from comfy_script.runtime import *
load(url)
from comfy_script.runtime.nodes import *
with Workflow(wait=True):
    image, mask, *_ = HiGFADatasetJob(dataset="higfa_demo", index=0)
    images = PreviewImage(HiGFAExtractContour(image=image, mask=mask))
assert images.wait()[0].size
print("a script with HiGFADatasetJob and HiGFAExtractContour")
"""


class ToolError(Exception):
    """What a tool says is wrong."""


@dataclass(frozen=True)
class Environment:
    """The environment of one tool, and the ComfyUI that it works with."""

    folder: Path
    url: str

    def call(self, program: str, *arguments: str, **env: str) -> str:
        """What a program of the environment prints; ToolError with its last line where it fails."""
        command = [str(self.folder / "bin" / program), *arguments]
        settings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        cwd = PACK if program == "comfy-test" else FOLDER
        done = subprocess.run(command, env={**settings, **env}, cwd=cwd, timeout=TIMEOUT, **options)
        if done.returncode:
            raise ToolError(done.stdout)
        return done.stdout

    def python(self, program: str, **env: str) -> str:
        """The last line that a Python program prints, which finds `url` and `graph` set."""
        file = self.folder / "tried.py"  # comfy-script reads the source of who calls it
        file.write_text(f"url, graph = {self.url!r}, {str(GRAPH)!r}\n{program}", encoding="utf-8")
        return self.call("python", str(file), **env).strip().splitlines()[-1]


def lint(tool: Environment) -> str:
    files = [file for file in sorted(API.glob("*.json")) if file.stem not in NEED_FILES]
    tool.call("comfy-lint", "--server", tool.url, "--strict", *map(str, files))
    return f"{len(files)} workflows clean; `{NEED_FILES[0]}` lacks only the model files that it names"


def import_guard(tool: Environment) -> str:
    clone = FOLDER / "history" / "ComfyUI"
    if not clone.exists():
        keep_as_repository(Path(os.environ["COMFYUI_PATH"]), clone)
    options = ("--offline", "--json", "--quiet", "--cache-dir", str(clone.parent))
    text = tool.call("comfy-import-guard", *options, "check", "--comfy-dir", str(BASE), "--target", "HEAD")
    (pack,) = json.loads(text)["packs"]
    return f"{pack['verdict'].lower()}: the {pack['references']} names of `comfy.*` that the pack uses are there"


def keep_as_repository(comfyui: Path, target: Path) -> None:
    """Python files of ComfyUI as a Git repository, which comfy-import-guard asks for."""
    for file in comfyui.rglob("*.py"):
        place = file.relative_to(comfyui)
        if place.parts[0] not in ("custom_nodes", "models", "input", "output"):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target / place)
    identity = ("-c", "user.name=tools", "-c", "user.email=tools@localhost")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "ComfyUI")):
        subprocess.run(["git", "-C", str(target), *command], check=True)


def preflight(tool: Environment) -> str:
    schema = FOLDER / "schema.json"
    parts = ("required", "optional", "hidden")
    inputs = {
        name: [key for part in parts for key in node["input"].get(part, {})]
        for name, node in object_info(tool.url).items()
    }
    schema.write_text(json.dumps(inputs), encoding="utf-8")
    options = ("--schema", str(schema), "--saved", str(GRAPH), "--json")
    found = json.loads(tool.call("comfy-preflight", "check", str(GRAPH), *options))
    verdicts = [check["verdict"] for check in found["checks"]]
    if set(verdicts) - {"pass", "not_applicable"}:
        raise ToolError(str(verdicts))
    passed = verdicts.count("pass")
    return f"{passed} checks pass, {len(verdicts) - passed} do not apply (they need a checkpoint)"


def object_info(url: str) -> dict:
    import urllib.request

    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/object_info") as answer:
        return json.load(answer)


def levels(tool: Environment) -> str:
    """comfy-test, one level at a time: one that fails would hide the rest."""
    packages = next(tool.folder.glob("lib/python*/site-packages"))
    (packages / "comfyui.pth").write_text("\n".join(site.getsitepackages()))
    (packages / "sitecustomize.py").write_text(NO_GPU)
    outcomes = {}
    settings = (ROOT / "comfy-test.toml").read_text(encoding="utf-8").splitlines()
    for level in LEVELS:
        wanted = list(dict.fromkeys(["install", "registration", level]))
        lines = [f"levels = {json.dumps(wanted)}" if line.startswith("levels") else line for line in settings]
        (PACK / "comfy-test.toml").write_text("\n".join(lines), encoding="utf-8")
        outcomes[level] = level_outcome(tool, level)
    return "; ".join(f"{level}: {outcome}" for level, outcome in outcomes.items())


def level_outcome(tool: Environment, level: str) -> str:
    scratch = {"COMFY_TEST_WORKSPACE_DIR": str(FOLDER / "work"), "COMFY_TEST_LOGS_DIR": str(FOLDER / "logs")}
    for folder in scratch.values():
        Path(folder).mkdir(exist_ok=True)
    try:
        tool.call("comfy-test", "run", "--server-url", tool.url, **scratch, **browser())
    except ToolError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        why = next((line for line in lines if line.startswith("Error:")), lines[-1])
        return f"**{why.removeprefix('Error: ')}**"
    return "passes"


def browser() -> dict[str, str]:
    """The Chromium on PATH in the place where Playwright looks for its own download; nothing without one."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, run.BROWSERS)), None)
    if not found:
        return {}
    with sync_playwright() as playwright:
        revision = re.search(r"chromium-(\d+)", playwright.chromium.executable_path)[1]
    folder = FOLDER / "browsers"
    shell = folder / f"chromium_headless_shell-{revision}" / "chrome-headless-shell-linux64" / "chrome-headless-shell"
    shell.parent.mkdir(parents=True, exist_ok=True)
    if not shell.exists():
        shell.symlink_to(found)
    return {"PLAYWRIGHT_BROWSERS_PATH": str(folder)}


def script(tool: Environment) -> str:
    return tool.python(SCRIPT)


def simplified(tool: Environment) -> str:
    return tool.python(SIMPLIFIED)


def xy(tool: Environment) -> str:
    return tool.python(XY)


def sdk(tool: Environment) -> str:
    port = run.free_port()
    proxy = [str(tool.folder / "bin" / "comfy-api-proxy"), "run", "--comfyui", tool.url, "--port", str(port)]
    process = subprocess.Popen(proxy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(5)
        return tool.python(SDK, COMFY_BASE_URL=f"http://127.0.0.1:{port}")
    finally:
        run.stop(process)


def autograph(tool: Environment) -> str:
    return converted(tool, "autograph")


def autoflow(tool: Environment) -> str:
    return converted(tool, "autoflow")


def converted(tool: Environment, program: str) -> str:
    out = FOLDER / f"{program}.json"
    tool.call(program, "-i", str(CANVAS), "-o", str(out), "--server-url", tool.url)
    found, wanted = (sorted(map(str, described(json.loads(file.read_text("utf-8"))))) for file in (out, GRAPH))
    if found != wanted:
        raise ToolError("another graph than ComfyUI's own export")
    return f"`{CANVAS.name}` gives the graph that ComfyUI itself exports, its subgraph included"


def described(graph: dict) -> list:
    """The nodes of a graph without their numbers: a link is what it leads to."""

    def node(number: str):
        inputs = graph[number]["inputs"].items()
        return graph[number]["class_type"], sorted((key, value(each)) for key, each in inputs)

    def value(each):
        return (node(each[0]), each[1]) if isinstance(each, list) else str(float(each) if is_number(each) else each)

    return [node(number) for number in graph]


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# Name and what else it needs; what it is tried with.
TOOLS: dict[str, tuple[tuple[str, ...], Callable[[Environment], str]]] = {
    "comfy-test": ((), levels),
    "comfy-lint": ((), lint),
    "comfy-import-guard": ((), import_guard),
    "comfy-preflight": ((), preflight),
    "comfy-script": (("comfy-script[client]", "tqdm"), script),
    "comfy-api-simplified": ((), simplified),
    "comfyui-xy": ((), xy),
    "comfy-sdk": (("comfy-api-proxy",), sdk),
    "comfyui-autograph": ((), autograph),
    "comfyui-autoflow": ((), autoflow),
}


def install(name: str, more: tuple[str, ...]) -> Path:
    folder = FOLDER / name
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "-q"]
        subprocess.run([*pip, name, *more], check=True)
    return folder


def version(folder: Path, name: str) -> str:
    found = next(folder.glob(f"lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info"))
    return found.name.removesuffix(".dist-info").rpartition("-")[2]


@contextlib.contextmanager
def comfyui() -> Iterator[str]:
    """A ComfyUI with the pack as the registry installs it; yields its address."""
    shutil.rmtree(BASE, ignore_errors=True)
    PACK.parent.mkdir(parents=True)
    install_pack()
    (PACK.parent / "validate.py").write_text(VALIDATE, encoding="utf-8")
    comfy = Path(os.environ["COMFYUI_PATH"])
    for file in comfy.iterdir():  # comfy-test wants its files beside custom_nodes
        if not (BASE / file.name).exists():
            (BASE / file.name).symlink_to(file)
    port = run.free_port()
    url = f"http://127.0.0.1:{port}"
    command = run.server_command(comfy, BASE, port, "tools", cpu=True, python=sys.executable)
    with run.server(command, url, FOLDER / "server.log", comfy):
        yield url


def install_pack() -> None:
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout
    ignored = [line.lstrip("/") for line in (ROOT / ".comfyignore").read_text().splitlines() if line.startswith("/")]
    for name in tracked.splitlines():
        if not any(name == each or name.startswith(each) for each in ignored):
            (PACK / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, PACK / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(TOOLS), choices=list(TOOLS), metavar="TOOL")
    names = parser.parse_args().only
    FOLDER.mkdir(parents=True, exist_ok=True)
    folders = {name: install(name, TOOLS[name][0]) for name in names}
    failed = []
    with comfyui() as url:
        print("| tool | version | outcome |", "|---|---|---|", sep="\n")
        for name in names:
            try:
                outcome = TOOLS[name][1](Environment(folders[name], url))
            except (ToolError, subprocess.TimeoutExpired, ValueError, KeyError, OSError) as error:
                failed.append(name)
                outcome = f"**fails**: {str(error).strip().splitlines()[-1] if str(error).strip() else error!r}"
            print(f"| {name} | {version(folders[name], name)} | {outcome} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
