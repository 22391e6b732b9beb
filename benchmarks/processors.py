"""Repeats the tests that compare numbers as other processors compute them; prints one line per setting.

    python run.py exec -- python benchmarks/processors.py
    python run.py exec -- python benchmarks/processors.py --settings avx2 --threads 1 -- tests/comfy/test_guider.py

`default` and `avx2` restrict PyTorch, oneDNN, MKL and OpenCV to older instructions, `best` lets them choose. Nothing is
measured here: each line tells what passed. Exits with 1 if a setting fails.
"""

import argparse
import os
import subprocess
import sys

ROOMS = ["comfy", "guidance", "classifier", "training", "contour", "checking", "plots"]
SETTINGS = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENCV_CPU_DISABLE": "AVX,FP16,AVX2,AVX512-SKX",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
    },
    "best": {},
}


def tests(setting, threads, arguments):
    """(status, pytest's last line) under that setting."""
    chosen = {name for variables in SETTINGS.values() for name in variables}
    env = {name: value for name, value in os.environ.items() if name not in chosen}
    env |= {**SETTINGS[setting], "OMP_NUM_THREADS": str(threads)}
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two processes of two threads would spin on the same cores
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return done.returncode, (done.stdout.splitlines() or [""])[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    whole = [*(f"tests/{room}" for room in ROOMS), "-n", "2", "--dist", "loadfile"]
    parser.add_argument("arguments", nargs="*", default=whole, help="for pytest, after --: files and options")
    args = parser.parse_args()
    failed = False
    for setting in args.settings:
        for threads in args.threads:
            status, last = tests(setting, threads, args.arguments)
            print(f"{setting:8} {threads} thread{'s' * (threads > 1):1}  {last.strip('= ')}", flush=True)
            failed |= status != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
