"""Images an hour of `higfa run` by the number of jobs in a prompt, against the same engine in one process.

    python run.py exec -- python benchmarks/throughput.py
    python run.py exec -- python benchmarks/throughput.py --sizes 1 2 4 8 16 --rounds 5
    python run.py exec -- python benchmarks/throughput.py --in-process --networks sd15 --steps 20    # for a GPU

The embedded workflow on ComfyUI servers of this machine. In each round every size makes the same number of images, in
turn: through `higfa run`, then in this process, without ComfyUI's nodes, files and scores, once with HiGFA and once
with stock CFG (contour on the positive). Printed is the median over the rounds, and of the ratios within each round.
`--in-process` leaves `higfa run` out; then the networks may be random ones of SD 1.5's sizes (`narrow`: a tenth as
wide).
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import run as setup  # noqa: E402
from higfa_core.commands import plan as plan_command  # noqa: E402
from higfa_core.commands import run as run_command  # noqa: E402
from higfa_core.miniature.sources import draw_sources  # noqa: E402

WORKFLOW = ROOT / "workflows" / "api" / "miniature_augment.json"


@contextlib.contextmanager
def server(base: Path):
    comfyui = Path(os.environ["COMFYUI_PATH"])
    setup.prepare_base(base)
    port = setup.free_port()
    url = f"http://127.0.0.1:{port}"
    command = setup.server_command(comfyui, base, port, "throughput", cpu=True, python=sys.executable)
    with setup.server(command, url, base / "server.log", comfyui):
        yield url


def drive(base: Path, urls: list[str], name: str, size: int, images: int) -> float:
    """Seconds for that many new images through `higfa run`."""
    folder = base / "output" / name
    arguments = ["--workflow", WORKFLOW, "--source", base / "drawn", "--replicas", "99", "--plan-seed", name[1:]]
    with contextlib.redirect_stdout(io.StringIO()):
        assert plan_command.main([str(part) for part in (folder, *arguments, "--leaks", "off")]) == 0
        began = time.perf_counter()
        servers = [part for url in urls for part in ("--server", url)]
        options = [*servers, "--limit", images, "--batch", size, "--quiet"]
        assert run_command.main([str(part) for part in (folder, *options)]) == 0
    took = time.perf_counter() - began
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    together = sum(f"in a batch of {size}" in row["guidance"] for row in rows)
    assert len(rows) == images and together == (images if size > 1 else 0)
    return took


def engine(images: int, networks: str, steps: int):
    """A function of batch size and guidance (or stock CFG): seconds for that many images in this process, with the
    workflow's settings; `steps` 0: its own."""
    from miniature_world import higfa_guider, load_world, start_comfyui, stock_guider
    from random_world import RANDOM_CLASSES, random_world

    start_comfyui()
    import torch

    from higfa_core.guidance.settings import Guidance
    from higfa_core.miniature import birds

    nodes = json.loads(WORKFLOW.read_text("utf-8")).values()
    sampler, guidance = (
        next(node["inputs"] for node in nodes if node["class_type"] == name)
        for name in ("HiGFA_KSampler", "HiGFA_Guidance")
    )
    settings = Guidance.pick(guidance)
    if networks == "miniature":
        world, classes = load_world(), birds.CLASS_NAMES
    else:
        world, classes = random_world(128 if networks == "narrow" else 512, networks == "narrow"), RANDOM_CLASSES
    side = 8 * world.side

    def once(size: int, guided: bool, seed: int) -> None:
        names = [classes[i % len(classes)] for i in range(size)]
        lines = torch.zeros(size, side, side, 3)
        lines[:, side // 3, side // 4 : -side // 4] = 1.0
        both = world.with_contour(world.encode([f"a photo of a {name}" for name in names]), lines)
        noise = world.noise(size, seed)
        empty = world.encode([""] * size)
        guider = stock_guider(world, both, empty, sampler["cfg"])
        if guided:
            guider = higfa_guider(world, both, empty, sampler["cfg"], names, settings)
        how = steps or sampler["steps"], sampler["sampler_name"], sampler["scheduler"]
        found = world.sample(guider, noise, *how, seed)
        world.vae.decode(found)

    def measure(size: int, guided: bool) -> float:
        with torch.inference_mode():
            once(size, guided, 0)
            began = time.perf_counter()
            for i in range(images // size):
                once(size, guided, i)
            return (time.perf_counter() - began) * images / (images // size * size)

    return measure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=24, help="of each size and round")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--in-process", action="store_true", help="no servers")
    parser.add_argument("--networks", choices=("miniature", "sd15", "narrow"), default="miniature")
    parser.add_argument("--steps", type=int, default=0, help="in process (default: the workflow's)")
    args = parser.parse_args()
    if args.networks != "miniature" and not args.in_process:
        parser.error("servers have the miniature only: add --in-process")
    measure = engine(args.images, args.networks, args.steps)
    driven, inside, stock = ({size: [] for size in args.sizes} for _ in range(3))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base, urls = Path(folder), []
        if not args.in_process:
            draw_sources(base / "drawn", 2)
            urls = [stack.enter_context(server(base)) for _ in range(args.servers)]
        for i, url in enumerate(urls):
            drive(base, [url], f"p99{i}", max(args.sizes), max(args.sizes))  # loads everything
        for turn in range(args.rounds):
            for size in args.sizes:
                if urls:
                    driven[size].append(drive(base, urls, f"p{turn + 1}{size:02}", size, args.images))
                inside[size].append(measure(size, True))
                stock[size].append(measure(size, False))
    where = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, servers: {len(urls)}"
    print(f"{args.rounds} rounds of {args.images} images, {args.networks}, {where}\n")
    report(args, driven if urls else inside, inside, stock)


def report(args, driven, inside, stock):
    """Without servers, `driven` is `inside`."""
    print("| jobs in a prompt | images an hour | to one | in process | stock in process | to stock | run to it |")
    print("|---|---|---|---|---|---|---|")
    for size in args.sizes:
        hours = [3600 * args.images / statistics.median(times[size]) for times in (driven, inside, stock)]
        pairs = ((driven[args.sizes[0]], driven[size]), (stock[size], inside[size]), (inside[size], driven[size]))
        gain, cost, share = (statistics.median(a / b for a, b in zip(*pair, strict=True)) for pair in pairs)
        print(
            f"| {size} | {hours[0]:.0f} | {gain:.2f} | {hours[1]:.0f} | {hours[2]:.0f} | {1 / cost:.2f} | {share:.2f} |"
        )


if __name__ == "__main__":
    sys.exit(main())
