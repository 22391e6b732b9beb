"""Digests of what this pack produces, for comparing two versions of it: plans, keys, images, exports.

    python run.py exec -- python benchmarks/digests.py [TREE ...]

For each TREE (default: this checkout) it plans the embedded birds and a CUB-200-2011 of twelve images, runs the three
shipped workflows and a plan of four jobs on the tree's own ComfyUI (`run.py serve`), exports the result in all formats
and prints a line for each thing with its SHA-256. With several trees the last column says whether they agree. Times
and versions are left out of manifest rows; plots are not compared, their fonts and wording may change.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ("miniature_augment", "miniature_three_ways", "controlnet_augment")
FORMATS = ("imagefolder", "huggingface", "webdataset", "coco", "lists")
# What tells when, by which release and how fast; and hashes of files that tell it.
TIMES = ("created", "versions", "version", "guidance", "datePublished", "sha256", "contentSize")
TIMES += ("prov:startedAtTime", "prov:endedAtTime")
SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")


def sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def json_sha(value: object) -> str:
    return sha(json.dumps(value, sort_keys=True, ensure_ascii=False))


def pixels_sha(data: bytes) -> str:
    image = np.asarray(Image.open(io.BytesIO(data)))
    return sha(str(image.shape).encode() + image.tobytes())


def higfa(tree: Path, *words: object) -> None:
    command = [sys.executable, str(tree / "run.py"), "higfa", *map(str, words)]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")


def write_cub(root: Path) -> Path:
    """A CUB-200-2011 of three species and four images each; every fourth image is a test image."""
    rng, lines = np.random.default_rng(0), {"images": [], "image_class_labels": [], "train_test_split": []}
    for number in range(12):
        path = f"{SPECIES[number // 4]}/{number}.jpg"
        (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(root / "images" / path)
        lines["images"].append(f"{number + 1} {path}")
        lines["image_class_labels"].append(f"{number + 1} {number // 4 + 1}")
        lines["train_test_split"].append(f"{number + 1} {int(number % 4 != 3)}")
    lines["classes"] = [f"{i + 1} {name}" for i, name in enumerate(SPECIES)]
    lines["bounding_boxes"] = [f"{i + 1} 4.0 5.0 30.0 20.0" for i in range(12)]
    for name, rows in lines.items():
        (root / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return root


class Server:
    """`run.py serve` of a tree, and what this script asks of it."""

    def __init__(self, tree: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(tree / "run.py"), "serve", "--port", str(port)]
        self.process = subprocess.Popen(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def __enter__(self):
        for _ in range(1200):
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.25)
        raise SystemExit("the server did not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def run(self, graph: dict) -> dict[str, list[bytes]]:
        """Node id -> the images it shows, of one run of the graph."""
        body = json.dumps({"prompt": graph}).encode()
        request = urllib.request.Request(self.url + "/prompt", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            prompt_id = json.load(answer)["prompt_id"]
        while not (history := json.loads(self.get(f"/history/{prompt_id}"))):
            time.sleep(0.2)
        entry = history[prompt_id]
        if entry["status"]["status_str"] != "success":
            raise SystemExit(f"the graph failed: {entry['status']}")
        return {
            node: [self.get(f"/view?{urllib.parse.urlencode(image)}") for image in out["images"]]
            for node, out in entry["outputs"].items()
            if "images" in out
        }


def on_the_miniature(graph: dict) -> dict:
    """A graph for SD 1.5 with Load Miniature in the place of its loaders, at the miniature's size."""
    outputs = {"CheckpointLoaderSimple": 0, "ControlNetLoader": 3, "HiGFA_LoadClassifier": 4}
    loaders = {node: outputs[item["class_type"]] for node, item in graph.items() if item["class_type"] in outputs}
    loaders |= {node: 6 for node, item in graph.items() if (item.get("_meta") or {}).get("title") == "Judge"}
    graph = {node: item for node, item in graph.items() if node not in loaders}
    for item in graph.values():
        for name, value in item["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                item["inputs"][name] = ["1", loaders[value[0]] + value[1]]
        if item["class_type"] in ("EmptyLatentImage", "HiGFA_TransformContour"):
            item["inputs"] |= {"width": 64, "height": 64}
        if item["class_type"] == "HiGFA_Guidance":
            item["inputs"] |= {"decoder": "auto", "eta": 1.0}
        if item["class_type"] == "HiGFA_DatasetJob":
            item["inputs"] |= {"dataset": "higfa_demo"}
    return graph | {"1": {"class_type": "HiGFA_LoadMiniature", "inputs": {}}}


def workflows(tree: Path, server: Server) -> dict[str, str]:
    found = {}
    for index, name in enumerate(WORKFLOWS):
        graph = json.loads((tree / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
        graph = on_the_miniature(graph) if name == "controlnet_augment" else graph
        for item in graph.values():
            if item["class_type"] == "HiGFA_DatasetJob":
                item["inputs"] |= {"index": index}  # another in each graph: what is cached has no output in the history
            if item["class_type"] == "HiGFA_ExportDataset":
                item["inputs"] |= {"dataset_name": f"digests_{name}", "if_exists": "replace"}
        plots = {node for node, item in graph.items() if item["class_type"] == "HiGFA_PlotGuidance"}
        for node, images in sorted(server.run(graph).items()):
            if node not in plots:
                kind = graph[node]["class_type"]
                found[f"images of {name}: {kind} {node}"] = sha("".join(map(pixels_sha, images)))
    return found


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def dataset(tree: Path, server: Server, folder: Path) -> dict[str, str]:
    """A plan of four jobs, run and exported in every format."""
    made, workflow = folder / "birds", tree / "workflows" / "api" / "miniature_augment.json"
    source = folder / "source"
    shutil.copytree(tree / ".higfa" / "base" / "input" / "higfa_demo", source)
    higfa(tree, "plan", made, "--workflow", workflow, "--source", source, "--replicas", 1, "--only-rare", 10**6)
    found = {"plan of the miniature": sha((made / "plan.jsonl").read_bytes())}
    cub = write_cub(folder / "CUB_200_2011")
    higfa(tree, "plan", folder / "cub", "--workflow", workflow, "--source", cub, "--replicas", 2)
    found["plan of CUB"] = sha((folder / "cub" / "plan.jsonl").read_bytes())
    lines = [json.loads(line) for line in (folder / "cub" / "plan.jsonl").read_text("utf-8").splitlines()]
    found["job keys of CUB"] = json_sha([line["key"] for line in lines])
    higfa(tree, "run", made, "--server", server.url, "--limit", 4)
    rows = [json.loads(line) for line in (made / "manifest.jsonl").read_text("utf-8").splitlines()]
    rows.sort(key=lambda row: row["key"])
    found["image keys"] = json_sha([row["key"] for row in rows])
    found["manifest rows"] = json_sha(without_times(rows))
    found["images of the plan"] = json_sha([pixels_sha((made / row["file"]).read_bytes()) for row in rows])
    for kind in FORMATS:
        out = folder / f"export_{kind}"
        higfa(tree, "export", made, "--out", out, "--format", kind)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        found[f"export {kind}: names"] = json_sha([path.relative_to(out).as_posix() for path in files])
        for path in files:
            if path.suffix in (".txt", ".csv", ".json", ".jsonl", ".tar", ".parquet"):
                found[f"export {kind}: {path.relative_to(out).as_posix()}"] = content_sha(path, folder)
    return found


def content_sha(path: Path, folder: Path) -> str:
    if path.suffix not in (".json", ".jsonl"):
        return sha(path.read_bytes())
    text = path.read_text("utf-8").replace(str(folder), "FOLDER")
    lines = [text] if path.suffix == ".json" else text.splitlines()
    return json_sha([without_times(json.loads(line)) for line in lines])


def nodes(server: Server) -> dict[str, str]:
    """Ids, input names, order, types, defaults and ranges of every node; wording is free to change."""
    info = json.loads(server.get("/object_info"))
    found = {}
    for name in sorted(info):
        if name.startswith("HiGFA_"):
            found[f"node {name}"] = json_sha([info[name]["input_order"], _inputs(info[name]), info[name]["output"]])
    return found


def _inputs(node: dict) -> dict:
    words = ("tooltip", "placeholder", "multiline")
    return {
        f"{group}.{name}": [spec[0], {k: v for k, v in (spec[1] if len(spec) > 1 else {}).items() if k not in words}]
        for group in node["input"]
        for name, spec in node["input"][group].items()
    }


def digests(tree: Path) -> dict[str, str]:
    folder = Path(tempfile.mkdtemp(prefix="digests"))
    base = tree / ".higfa" / "base"
    for name in WORKFLOWS:
        shutil.rmtree(base / "output" / f"digests_{name}", ignore_errors=True)
    shutil.rmtree(base / "output" / "birds", ignore_errors=True)
    try:
        with Server(tree) as server:
            return nodes(server) | workflows(tree, server) | dataset(tree, server, folder)
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", default=[ROOT], metavar="TREE")
    trees = [Path(os.path.abspath(name)) for name in parser.parse_args().trees]
    os.environ.setdefault("HIGFA_CPU", "1")
    columns = [digests(tree) for tree in trees]
    names = list(dict.fromkeys(name for column in columns for name in column))
    width = max(map(len, names))
    different = 0
    for name in names:
        values = [column.get(name, "-" * 16) for column in columns]
        verdict = "" if len(values) == 1 else "equal" if len(set(values)) == 1 else "DIFFERENT"
        different += verdict == "DIFFERENT"
        print(f"{name:<{width}}  {'  '.join(values)}  {verdict}".rstrip())
    if len(trees) > 1:
        print(f"{len(names)} digests, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
