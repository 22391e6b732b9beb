"""The cost of planning, resuming and exporting at scale.

    python run.py exec -- python benchmarks/dataset.py

Measurements, each in fresh processes. For 10,000, 100,000 and 1,000,000 jobs (`--jobs`): the plan; `higfa run` on a
store that holds the rows and small files of all jobs but 100, until the first job arrives at a server (the server is a
stub in this process; it writes into the same folder, or has a manifest of its own with all those rows); `higfa status`
after that; for up to 100,000 jobs also `higfa filter` with another rule, looking on (--dry-run) and rejecting one image
in a hundred, and `higfa export` of the others. For 100,000 real images in 1,000 classes: a plan without and with a
search for leaks. And 5,000 images through Export Dataset against ComfyUI's own SaveImage, taking turns in blocks in one
process. Seconds are of the clock, and of the processor in brackets: on a busy machine only the latter can be compared.
Memory is the peak of the process. The limits are those for the largest number of jobs. `--sources 0` and `--images 0`
leave these parts out.
"""

import argparse
import hashlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from higfa_core.files.paths import folder_name  # noqa: E402
from higfa_core.plans.plan_file import PlanFile  # noqa: E402
from higfa_core.plans.workflow import image_key  # noqa: E402
from higfa_core.store.manifest import Manifest  # noqa: E402

CLASSES, CLASS_NAME = 200, '"class_name"'
IMAGES = 100_000  # above that nothing that reads or moves images is measured
ANSWER = b'{"prompt_id": "x", "name": "x.png", "subfolder": "", "queue_running": [], "queue_pending": []}'
WORKFLOW = ROOT / "workflows" / "api" / "miniature_augment.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--sources", type=int, default=100_000, help="real images of the plan with leak search")
    parser.add_argument("--classes", type=int, default=1000, help="their classes")
    parser.add_argument("--size", type=int, default=512, help="pixels a side of the exported images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        draw_small(folder / "sources")
        print(f"load of the machine: {os.getloadavg()[0]:.1f}\n\n| what | measured | limit |\n|---|---|---|")
        for jobs in args.jobs:
            for row in at_scale(folder / f"{jobs}", folder / "sources", jobs):
                print("| {} | {} | {} |".format(*row), flush=True)
        for words, limit, *cost in plan_sources(folder, args.sources, args.classes) if args.sources else ():
            print(f"| {words} | {in_words(*cost)} | {limit} |", flush=True)
        if args.images:
            print(export(folder, args.images, args.size), flush=True)
        print(f"\nload of the machine: {os.getloadavg()[0]:.1f}")


def at_scale(folder, sources, jobs):
    """Table rows for a plan of so many jobs."""
    store, replicas = folder / "store", max(1, jobs // (10 * CLASSES))
    command = ["plan", store, "--workflow", WORKFLOW, "--source", sources, "--replicas", replicas]
    command += ["--min-confidence", 0.5, "--min-judge-confidence", 0]
    yield f"plan of {jobs:,} jobs", in_words(*measured(command)), "40 s, 200 MB"
    start, before = time.perf_counter(), time.process_time()
    fill(store, jobs - 100)
    yield "(set-up)", in_words(time.perf_counter() - start, time.process_time() - before), ""
    for words, limit, *cost in resume(folder, store):
        yield f"{jobs:,} rows, to the first job, {words}", in_words(*cost), limit
    yield f"{jobs:,} rows, status", in_words(*measured(["status", store])), "3 s"
    if jobs > IMAGES:
        return
    command = ["filter", store, "--min-confidence", 0.5]
    yield f"{jobs:,} images, filter --dry-run", in_words(*measured([*command, "--dry-run"])), ""
    yield f"{jobs:,} images, filter that rejects {jobs // 100:,}", in_words(*measured(command)), ""
    command = ["export", store, "--out", folder / "exported", "--format", "imagefolder"]
    yield f"{jobs:,} images, export of {jobs - jobs // 100:,}", in_words(*measured(command)), ""


def in_words(seconds, processor, memory=None):
    return f"{seconds:.1f} s ({processor:.1f} s)" + (f", {memory:.0f} MB" if memory else "")


def draw_small(sources):
    """Ten images of each class."""
    for label in range(CLASSES):
        place = sources / f"{label:03}.Class_{label}"
        place.mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (label, i, 0)).save(place / f"{i}.png")


def plan_sources(folder, count, classes):
    """Words, limit, seconds, seconds of all cores together, and peak MB of `higfa plan` over `count` images."""
    sources, about = folder / "many", f"plan over {count:,} images, {classes:,} classes"
    draw_sources(sources, count, classes)
    command = ["plan", folder / "many_store", "--workflow", WORKFLOW, "--source", sources, "--replicas", 1, "--replace"]
    rows = [("without leak search", "", "off"), ("leak search", "60 s, 600 MB", "exclude")]
    rows.append(("leak search, hashes kept", "", "exclude"))
    for words, limit, leaks in rows:
        yield f"{about}, {words}", limit, *measured([*command, "--leaks", leaks])


def draw_sources(folder, count, classes):
    """JPEGs of 256 x 192 pixels, each another mixture of a few scenes, a tenth of them for tests."""
    scenes = [(photo(256)[:192].numpy() * 255).astype(np.uint8)]
    scenes += [np.ascontiguousarray(np.rot90(np.roll(scenes[0], 37 * n, (0, 1)), 2 * (n % 2))) for n in range(1, 16)]
    random = np.random.default_rng(0)
    for number in range(count):
        patches = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.blend(Image.fromarray(scenes[number % 16]), Image.fromarray(patches).resize((256, 192)), 0.6)
        place = folder / ("test" if number % 10 == 9 else "train") / f"class_{number % classes:04}"
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number:06}.jpg", quality=85)


def measured(command):
    """Seconds, CPU seconds and peak MB of the command, run in its own process (Linux)."""
    code = (
        "import sys; from higfa_core.commands.main import main; code = main(sys.argv[1:]); "
        "about = open('/proc/self/status').read(); "
        "print(about.partition('VmHWM:')[2].split()[0], file=sys.stderr); sys.exit(code)"
    )
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, "-c", code, *map(str, command)]
    ran = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    if ran.returncode:
        sys.exit(f"{command}: {ran.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor, int(ran.stderr.split()[-1]) / 1024


def resume(folder, store):
    """Until a server gets its first job: without an index, with one, and of a server with its own manifest."""
    with Stub(store / "manifest.jsonl") as server:
        yield "index built", "", *server.first_job(store)
        yield "resumed", "10 s", *server.first_job(store)
        server.manifest = folder / "server" / "server.jsonl"
        server.manifest.parent.mkdir()
        server.manifest.write_bytes(b"".join(reversed((store / "manifest.jsonl").read_bytes().splitlines(True))))
        yield "resumed, remote server", "", *server.first_job(store)


def fill(store, count):
    """Rows and small files for the first jobs of the plan, as Export Dataset leaves them."""
    plan_file, picture = PlanFile(store), io.BytesIO()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(picture, "PNG")
    digest, content = plan_file.header["workflow_digest"], picture.getvalue()
    row = {"index": 0, "batch": 1, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    row |= {"accepted": True, "reason": "confidence 0.912", "scores": {"confidence": 0.912, "rank": 1, "margin": 0.8}}
    row |= {"mask": None, "transform": {"matrix": [[1.0] * 3] * 3, "width": 64, "height": 64}, "created": "2026-01-01"}
    row |= {"guidance": {"calls": 25, "guided": 8, "eta": 1.0}, "width": 8, "height": 8}
    shared = json.dumps(row)[:-1]
    unsure = shared.replace("0.912", "0.312")
    labels = {name: label for label, name in enumerate(plan_file.classes)}
    places = {name: store / "train" / folder_name(name) for name in plan_file.classes}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
        (place / "content").write_bytes(content)
    Manifest(store).start(plan_file.classes)
    with open(store / "manifest.jsonl", "w", encoding="utf-8") as manifest:
        for line, _ in zip(plan_file.lines(), range(count)):
            job = plan_file.read(line)
            key, place = image_key(job.key, digest), places[job.class_name]
            own = {"key": key, "file": f"train/{place.name}/{key[:16]}-0.png", "plan_index": job.index}
            own = json.dumps(own | {"label": labels[job.class_name]})
            line = line.decode()  # of the job: from its class name on, its fields are those of the row
            manifest.write(f"{shared if job.index % 100 else unsure}, {own[1:-1]}, {line[line.index(CLASS_NAME) :]}")
            os.link(place / "content", place / f"{key[:16]}-0.png")  # takes a third of the time of writing it
    for place in places.values():
        (place / "content").unlink()


class Stub:
    """A server that takes jobs and never runs them; its dataset has `manifest`."""

    def __init__(self, manifest):
        self.manifest = manifest

    def __enter__(self):
        stub, arrived = self, threading.Event()
        self.arrived = arrived

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.startswith("/history"):
                    return self.answer(200, b"{}")
                if not self.path.startswith("/view"):
                    return self.answer(200)
                if "manifest.jsonl" not in self.path:  # the folder is the server's own, if the manifest is
                    name = urllib.parse.parse_qs(self.path.partition("?")[2])["filename"][0]
                    file = stub.manifest.with_name(name)
                    return self.answer(200, file.read_bytes()) if file.is_file() else self.answer(404)
                start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                with open(stub.manifest, "rb") as file:
                    file.seek(start)
                    data = file.read(end + 1 - start)
                return self.answer(206 if data else 416, data)

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(200)
                if self.path == "/prompt":
                    arrived.set()

            def answer(self, code, body=ANSWER):
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.httpd.shutdown()

    def first_job(self, store):
        """Seconds, seconds of the processor, and peak MB of a run until it sends a job (Linux)."""
        self.arrived.clear()
        start = time.perf_counter()
        url = f"http://127.0.0.1:{self.httpd.server_port}"
        process = subprocess.Popen(cli(["run", store, "--server", url]), stdout=subprocess.DEVNULL, cwd=ROOT)
        try:
            if not self.arrived.wait(1200):
                sys.exit("no job arrived in twenty minutes")
            seconds, about = time.perf_counter() - start, Path(f"/proc/{process.pid}")
            ticks = sum(map(int, (about / "stat").read_text().rpartition(")")[2].split()[11:13]))
            peak = (about / "status").read_text().partition("VmHWM:")[2].split()[0]
            return seconds, ticks / os.sysconf("SC_CLK_TCK"), int(peak) / 1024
        finally:
            process.kill()
            process.wait()


def export(folder, count, size):
    """A table row: images per second of Export Dataset's writer and of SaveImage, alternating every 250."""
    from higfa_core.comfy.startup import start_comfyui

    start_comfyui()
    import folder_paths
    import torch

    import nodes
    from higfa_core.plans.plan import Plan
    from higfa_core.sources.layouts import read_dataset
    from higfa_core.store.writer import export_images

    folder_paths.set_output_directory(str(folder / "output"))
    jobs = Plan(read_dataset(folder / "sources"), max(1, count // (10 * CLASSES) + 1))
    image, save = photo(size), nodes.SaveImage()
    seconds, ours = {"ours": 0.0, "stock": 0.0}, []
    for start_at in range(0, count, 250):
        for name in ("ours", "stock"):
            for i in range(start_at, min(start_at + 250, count)):
                picture = torch.roll(image, i, 1)[None]
                began = time.perf_counter()
                if name == "ours":
                    export_images(picture, folder / "output", "set", job=jobs[i])
                else:
                    save.save_images(picture, "stock")
                seconds[name] += time.perf_counter() - began
    rates = {name: count / value for name, value in seconds.items()}
    ours = statistics.mean(p.stat().st_size for p in (folder / "output" / "set" / "train").rglob("*.png"))
    stock = statistics.mean(p.stat().st_size for p in (folder / "output").glob("stock*.png"))
    words = f"{rates['ours']:.1f} a second, SaveImage {rates['stock']:.1f}: {rates['ours'] / rates['stock']:.2f}x"
    return f"| export of {count:,} images, {size} x {size} | {words} (size on disk {ours / stock:.2f}x) | 2x |"


def photo(size):
    """Something as hard to compress as a photograph: noise over many scales, [H, W, 3] in 0..1."""
    import torch

    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(2**k, 2**k, 3)) / 2 ** (0.8 * k) for k in range(1, 10)]
    total = sum(np.asarray([np.asarray(Image.fromarray(layer[..., c].astype(np.float32)).resize((size, size)))
                            for c in range(3)]) for layer in layers)  # fmt: skip
    total = (total - total.min()) / (total.max() - total.min())
    return torch.from_numpy(total.transpose(1, 2, 0).astype(np.float32))


def cli(arguments):
    return [sys.executable, "-m", "higfa_core.commands.main", *map(str, arguments)]


if __name__ == "__main__":
    with closing(sys.stdout):
        main()
