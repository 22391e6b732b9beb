"""All that is to be measured on a GPU, in six minutes at most, printed at the end of each part.

    python run.py exec -- python benchmarks/gpu.py            # a GPU with 24 GB
    python run.py exec -- python benchmarks/gpu.py --quick    # narrow networks, on a CPU: shows that it works

HiGFA against the stock sampler on the miniature and on networks of SD 1.5's sizes, images an hour by batch size, one
guided call, and the gradient through the diffusion model, each by its own script in a process of its own. A part that
fails or is late is named, and the others go on.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PARTS = {
    "overhead, miniature": ("overhead.py --rounds 5", "overhead.py --rounds 1 --steps 4 --batch 2"),
    "overhead, SD 1.5's sizes": (
        "overhead.py --networks sd15 --rounds 3 --steps 20",
        "overhead.py --networks narrow --rounds 1 --steps 4 --batch 2",
    ),
    "images an hour, SD 1.5's sizes": (
        "throughput.py --in-process --networks sd15 --steps 20 --rounds 1 --images 16 --sizes 1 4 8 16",
        "throughput.py --in-process --networks narrow --steps 4 --rounds 1 --images 2 --sizes 1 2",
    ),
    "a guided call": ("guided_call.py", "guided_call.py --quick --batches 1"),
    "gradient through the UNet": ("peers.py", "peers.py --quick"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="narrow networks, few steps")
    parser.add_argument("--seconds", type=float, default=360, help="for all parts together")
    args = parser.parse_args()
    end, failed = time.monotonic() + args.seconds, []
    for name, commands in PARTS.items():
        script, *words = commands[args.quick].split()
        began = time.monotonic()
        print(f"\n## {name}: {' '.join([script, *words])}\n", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(script)), *words]
        text, flaw = run(command, max(1, end - began))
        print(text.strip(), flush=True)
        print(f"\n{name}: {time.monotonic() - began:.0f} s{f', {flaw}' if flaw else ''}", flush=True)
        failed += [f"{name} {flaw}"] if flaw else []
    return "; ".join(failed) or 0


def run(command, seconds):
    """What the command printed, and what went wrong with it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            text, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            return process.communicate()[0], "was stopped: the time for all parts is over"
    return text, f"ended with {process.returncode}" if process.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
